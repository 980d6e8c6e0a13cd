//! Reading a checkpoint's small files, with a bound on their size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// Largest JSON or text file that is read into memory; the published ones are below 4 MB.
pub(super) const MAX_TEXT: u64 = 64 << 20;

/// The text of `file` in `dir`; nothing when there is no such file.
pub(crate) fn read_text(dir: &Path, file: &str) -> Result<Option<String>> {
    let path = dir.join(file);
    let fail = |what: String| Error::checkpoint(format!("{}: {what}", path.display()));
    let found = match std::fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string()).caused_by(error)),
    };
    // Opening a pipe would wait for a writer.
    if !found.is_file() {
        return Err(fail("expected a file".to_owned()));
    }
    let mut text = String::new();
    let mut reader = File::open(&path).map_err(|error| fail(error.to_string()).caused_by(error))?.take(MAX_TEXT + 1);
    reader.read_to_string(&mut text).map_err(|error| fail(error.to_string()).caused_by(error))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(fail(format!("{} bytes, expected at most {MAX_TEXT}", found.len())));
    }
    Ok(Some(text))
}

/// The JSON in `file` of `dir`; nothing when there is no such file.
pub(crate) fn read_json(dir: &Path, file: &str) -> Result<Option<Value>> {
    let Some(text) = read_text(dir, file)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| Error::checkpoint(format!("{}: not JSON: {error}", dir.join(file).display())))
}

/// Where the `tokenizer.json` of `dir` is: a file of a size that can be one.
pub(crate) fn tokenizer_path(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("tokenizer.json");
    let place = path.display();
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && (1..=MAX_TEXT).contains(&found.len()) => Ok(path),
        Ok(found) => Err(Error::checkpoint(format!(
            "{place}: expected a file of 1 to {MAX_TEXT} bytes, found {}",
            if found.is_file() { format!("{} bytes", found.len()) } else { "no file".to_owned() }
        ))),
        Err(error) => Err(Error::checkpoint(format!("{place}: cannot be read: {error}")).caused_by(error)),
    }
}
