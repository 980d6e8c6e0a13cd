//! Parquet files as `datasets` writes them, a row group at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use sha2::{Digest, Sha256};

use super::{GroupCache, MAX_RECORDS};
use crate::data::forms::{Form, MEDIA_COLUMNS};
use crate::data::value::Value;
use crate::{Error, Result};

/// First and last bytes of every parquet file.
const MAGIC: [u8; 4] = *b"PAR1";

/// Largest row group that is read, in bytes after decompression, as its file states them.
const MAX_GROUP: i64 = 2 << 30;

/// Largest footer, in bytes: it describes every column of every row group.
const MAX_FOOTER: u64 = 256 << 20;

/// A parquet file: its metadata, and no rows.
pub(crate) struct ParquetFile {
    path: PathBuf,
    reader: SerializedFileReader<Reopened>,
    /// The columns that samples use.
    columns: Type,
    /// For each row group the first row after it.
    ends: Vec<usize>,
    digest: [u8; 32],
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile").field("path", &self.path).field("rows", &self.len()).finish_non_exhaustive()
    }
}

/// Whether a file begins as parquet files do.
///
/// # Errors
/// An input error when it cannot be read.
pub(super) fn is_parquet(path: &Path) -> Result<bool> {
    let cannot =
        |error: std::io::Error| Error::input(format!("{}: cannot be read: {error}", path.display())).caused_by(error);
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Error::input(format!("{}: expected a file", path.display())));
    }
    let mut start = Vec::new();
    File::open(path).map_err(cannot)?.take(4).read_to_end(&mut start).map_err(cannot)?;
    Ok(start == MAGIC)
}

impl ParquetFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = Reopened::new(path)?;
        let (digest, bytes) = (file.digest_of_footer()?, file.bytes);
        let reader = guarded(|| SerializedFileReader::new(file))?;
        let metadata = reader.metadata();
        let columns = used_columns(metadata)?;
        let mut ends = Vec::new();
        let mut rows = 0_usize;
        for group in metadata.row_groups() {
            let found = usize::try_from(group.num_rows()).ok().and_then(|found| rows.checked_add(found));
            rows = found.filter(|rows| *rows <= MAX_RECORDS).ok_or_else(|| {
                Error::input(format!("a row group of {} rows: at most {MAX_RECORDS} are read", group.num_rows()))
            })?;
            ends.push(rows);
        }
        if rows == 0 {
            return Err(Error::input("the file holds no rows"));
        }
        // A row is a conversation, so it takes more than a byte however well it is compressed.
        if rows as u64 > bytes {
            return Err(Error::input(format!("its footer states {rows} rows, and the file has {bytes} bytes")));
        }
        Ok(Self { path: path.to_owned(), columns, ends, digest, reader })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The rows of each row group.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end).filter(|rows| !rows.is_empty()).collect()
    }

    pub(super) fn with<T>(&self, row: usize, cache: &GroupCache, read: impl FnOnce(&Value) -> Result<T>) -> Result<T> {
        let group = self.ends.partition_point(|end| *end <= row);
        let start = group.checked_sub(1).map_or(0, |before| self.ends[before]);
        let rows = cache.get(&self.path, group, || self.read_group(group))?;
        let row = rows.get(row - start);
        read(row.ok_or_else(|| Error::input(format!("row group {group} has fewer rows than the footer says")))?)
    }

    fn read_group(&self, group: usize) -> Result<Vec<Value>> {
        let stated = self.reader.metadata().row_group(group).total_byte_size();
        if !(0..=MAX_GROUP).contains(&stated) {
            return Err(Error::input(format!(
                "row group {group} has {stated} bytes, at most {MAX_GROUP} are read at once: write the file again with \
                 smaller row groups (of 100 rows, as `datasets` does for pictures)"
            )));
        }
        let rows = guarded(|| {
            let group = self.reader.get_row_group(group)?;
            let rows = RowIter::from_row_group(Some(self.columns.clone()), group.as_ref())?;
            rows.map(|row| row.map(from_row)).collect::<ParquetResult<Vec<Value>>>()
        });
        rows.map_err(|error| error.at(format!("row group {group}")))
    }
}

/// The columns of a file that can be part of a sample.
fn used_columns(metadata: &ParquetMetaData) -> Result<Type> {
    let schema = metadata.file_metadata().schema();
    let used = |name: &str| Form::ALL.iter().any(|form| form.key() == name) || MEDIA_COLUMNS.contains(&name);
    let columns: Vec<_> = schema.get_fields().iter().filter(|field| used(field.name())).cloned().collect();
    if !columns.iter().any(|column| Form::ALL.iter().any(|form| form.key() == column.name())) {
        let found: Vec<_> = schema.get_fields().iter().take(20).map(|field| field.name()).collect();
        return Err(Error::input(format!(
            "expected one of the columns messages, conversations, texts, found {}",
            found.join(", ")
        )));
    }
    let built = Type::group_type_builder(schema.name()).with_fields(columns).build();
    built.map_err(|error| Error::input(format!("its schema cannot be used: {error}")).caused_by(error))
}

fn from_row(row: Row) -> Value {
    Value::Object(row.into_columns().into_iter().map(|(name, field)| (name, from_field(field))).collect())
}

fn from_field(field: Field) -> Value {
    match field {
        Field::Bool(value) => Value::Bool(value),
        Field::Byte(value) => Value::Number(value.into()),
        Field::Short(value) => Value::Number(value.into()),
        Field::Int(value) => Value::Number(value.into()),
        Field::Long(value) => Value::Number(value as f64),
        Field::UByte(value) => Value::Number(value.into()),
        Field::UShort(value) => Value::Number(value.into()),
        Field::UInt(value) => Value::Number(value.into()),
        Field::ULong(value) => Value::Number(value as f64),
        Field::Float(value) => Value::Number(value.into()),
        Field::Double(value) => Value::Number(value),
        Field::Str(text) => Value::Text(text),
        Field::Bytes(bytes) => Value::Bytes(bytes.data().into()),
        Field::Group(row) => from_row(row),
        Field::ListInternal(list) => Value::List(list.elements().iter().cloned().map(from_field).collect()),
        _ => Value::Null,
    }
}

/// Runs the parquet crate on a file that may be damaged: it reports most of what can be wrong, and panics at the rest.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::input(format!("not readable as parquet: {error}")).caused_by(error)),
        Err(_) => Err(Error::input("not readable as parquet: its pages contradict its schema")),
    }
}

/// A file that is opened anew for every read: threads share no position, and thousands of files no handles.
struct Reopened {
    path: PathBuf,
    bytes: u64,
}

impl Reopened {
    fn new(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path);
        let found = found.map_err(|error| Error::input(format!("cannot be read: {error}")).caused_by(error))?;
        Ok(Self { path: path.to_owned(), bytes: found.len() })
    }

    /// The footer names sizes and places of all columns, so data of other lengths have another digest.
    fn digest_of_footer(&self) -> Result<[u8; 32]> {
        let broken = || Error::input("not readable as parquet: it does not end in a footer; is it cut off?");
        let end = self.bytes.checked_sub(8).ok_or_else(broken)?;
        let tail = self.get_bytes(end, 8).map_err(|error| broken().caused_by(error))?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]).into();
        let start =
            end.checked_sub(length).filter(|_| tail[4..] == MAGIC && length <= MAX_FOOTER).ok_or_else(broken)?;
        let footer = self.get_bytes(start, length as usize).map_err(|error| broken().caused_by(error))?;
        let mut hash = Sha256::new();
        hash.update(self.bytes.to_le_bytes());
        hash.update(&footer);
        Ok(hash.finalize().into())
    }
}

impl Length for Reopened {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Reopened {
    type T = std::io::BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(std::io::BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.bytes);
        if end.is_none() {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {}", self.bytes)));
        }
        let mut data = vec![0; length];
        self.get_read(start)?.read_exact(&mut data)?;
        Ok(data.into())
    }
}
