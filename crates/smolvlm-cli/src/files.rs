//! Files that are there as a whole or not at all.

use std::path::Path;

use smolvlm::{Error, Result};

/// Writes `bytes` beside `path` and renames.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What could not be renamed is of no use; nothing can be done if it cannot be removed either.
        let _ = std::fs::remove_file(&beside);
        Error::input(format!("{}: cannot be written: {error}", path.display())).caused_by(error)
    })
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|error| Error::input(format!("{}: cannot be made: {error}", path.display())).caused_by(error))
}
