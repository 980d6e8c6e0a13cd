//! The demonstration model that is part of this program.

use smolvlm::{Error, ErrorKind, Result};
use tempfile::TempDir;

/// Its files by name; none when the program was built without it (`build.rs`).
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/demo_model.rs"));

/// Writes the model into a folder that is removed with what is returned.
///
/// # Errors
/// `Checkpoint` when there is none in this program, `Internal` when there is no room for it.
pub(super) fn unpack() -> Result<TempDir> {
    if FILES.is_empty() {
        return Err(Error::checkpoint(
            "this program was built without a demonstration model: the repository had none in models/demo then. \
             Name a folder (smolvlm demo --model FOLDER), or ask a published model \
             (smolvlm run --image FILE \"What is in this picture?\")",
        ));
    }
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, format!("the demonstration model cannot be unpacked: {error}")).caused_by(error)
    };
    let folder = tempfile::Builder::new().prefix("smolvlm-demo-").tempdir().map_err(failed)?;
    for (name, data) in FILES {
        std::fs::write(folder.path().join(name), data).map_err(failed)?;
    }
    Ok(folder)
}
