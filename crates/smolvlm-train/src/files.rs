//! Files that are written beside their place and brought there when they are whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The name under which something is written before it is brought to its place.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Brings a written file to its place, after what it holds has reached the disk.
pub(crate) fn finish_file(part: &Path, path: &Path) -> Result<()> {
    File::open(part).and_then(|file| file.sync_all()).map_err(|error| failed(part, "written", error))?;
    fs::rename(part, path).map_err(|error| failed(path, "put in place", error))
}

pub(crate) fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::input(format!("{}: cannot be {what}: {error}", path.display())).caused_by(error)
}

/// Writes a whole file.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = part_of(path);
    fs::write(&part, text).map_err(|error| failed(&part, "written", error))?;
    finish_file(&part, path)
}
