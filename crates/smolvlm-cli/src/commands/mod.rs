//! One file for each command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod download;
pub(crate) mod info;
pub(crate) mod run;
pub(crate) mod trace;

use std::path::Path;

use smolvlm::messages::{self, Messages};
use smolvlm::{Error, Result};

/// Largest messages file that is read; media are named in it, or a few inlined.
const MAX_MESSAGES_BYTES: u64 = 256 << 20;

/// The conversations of a messages file.
pub(crate) fn read_messages(path: &Path) -> Result<Vec<Messages>> {
    let name = path.display().to_string();
    let problem = |error: std::io::Error| Error::input(format!("{name}: cannot be read: {error}")).caused_by(error);
    let length = std::fs::metadata(path).map_err(problem)?.len();
    if length > MAX_MESSAGES_BYTES {
        return Err(Error::input(format!("{name}: {length} bytes; a messages file has at most {MAX_MESSAGES_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(problem)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    messages::parse(&text, folder, &name)
}

/// Whether a messages file is a list of conversations, even of one, rather than a conversation.
pub(crate) fn is_batch(path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::input(error.to_string()))?;
    Ok(text.trim_start().strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('[')))
}
