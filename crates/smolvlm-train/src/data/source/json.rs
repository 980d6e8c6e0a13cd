//! JSON lines, and JSON lists, by byte offsets: a million records take 16 MB.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::json_scan::{Scanned, Span, scan};
use crate::data::value::Value;
use crate::{Error, Result};

/// Longest record that is read, in bytes: pictures inside JSON are base64.
const MAX_RECORD: u32 = 256 << 20;

/// Bytes read at a time while indexing.
const PIECE: usize = 1 << 20;

/// A file of JSON records and where each of them lies.
#[derive(Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    spans: Vec<Span>,
    digest: [u8; 32],
    bytes: u64,
}

impl JsonFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let Scanned { mut spans, digest, bytes } = scan(BufReader::with_capacity(PIECE, open(path)?))?;
        spans.shrink_to_fit();
        Ok(Self { path: path.to_owned(), spans, digest, bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Record `index`.
    pub(super) fn read(&self, index: usize) -> Result<Value> {
        let span = self.spans[index];
        if span.len > MAX_RECORD {
            return Err(Error::input(format!("it has {} bytes or more, at most {MAX_RECORD} are read", span.len)));
        }
        let cannot = |error: std::io::Error| Error::input(format!("cannot be read: {error}")).caused_by(error);
        let mut file = open(&self.path)?;
        if file.metadata().map_err(cannot)?.len() != self.bytes {
            return Err(Error::input("the file has changed since it was indexed"));
        }
        file.seek(SeekFrom::Start(span.start)).map_err(cannot)?;
        let mut text = vec![0; span.len as usize];
        file.read_exact(&mut text).map_err(cannot)?;
        serde_json::from_slice(&text).map_err(|error| Error::input(format!("not JSON: {error}")).caused_by(error))
    }
}

/// Opens a file, and nothing that would wait for a writer.
fn open(path: &Path) -> Result<File> {
    let cannot = |error: std::io::Error| Error::input(format!("cannot be read: {error}")).caused_by(error);
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Error::input("expected a file"));
    }
    File::open(path).map_err(cannot)
}
