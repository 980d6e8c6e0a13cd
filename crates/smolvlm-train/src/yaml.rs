//! Files that people write.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Largest file, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// The text of a file.
///
/// # Errors
/// An input error that names it.
pub(crate) fn read(path: &Path) -> Result<String> {
    let place = path.display();
    let cannot = |error: std::io::Error| Error::input(format!("{place}: cannot be read: {error}")).caused_by(error);
    let found = std::fs::metadata(path).map_err(cannot)?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(Error::input(format!("{place}: expected a file of at most {MAX_FILE} bytes")));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

/// What a text says.
///
/// # Errors
/// An input error that names the line: unknown keys, wrong types.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|error| Error::input(error.to_string()))
}
