//! One file for each command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod download;
pub(crate) mod evaluate;
pub(crate) mod finetune;
pub(crate) mod frames;
pub(crate) mod info;
pub(crate) mod media_worker;
pub(crate) mod merge;
pub(crate) mod quantize;
pub(crate) mod run;
pub(crate) mod scenes;
pub(crate) mod trace;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use smolvlm::messages::{self, Messages};
use smolvlm::{Error, Result};

/// Largest messages file that is read; media are named in it, or a few inlined.
const MAX_MESSAGES_BYTES: u64 = 256 << 20;

/// A messages file, read.
pub(crate) struct Conversations {
    pub(crate) list: Vec<Messages>,
    /// Whether the file is a list of conversations, even of one, rather than a conversation.
    pub(crate) is_batch: bool,
}

/// Reads a messages file, once: it may be a pipe.
pub(crate) fn read_messages(path: &Path) -> Result<Conversations> {
    let name = path.display().to_string();
    let problem = |error: std::io::Error| Error::input(format!("{name}: cannot be read: {error}")).caused_by(error);
    let mut text = String::new();
    let mut file = File::open(path).map_err(problem)?.take(MAX_MESSAGES_BYTES + 1);
    file.read_to_string(&mut text).map_err(problem)?;
    if text.len() as u64 > MAX_MESSAGES_BYTES {
        return Err(Error::input(format!("{name}: a messages file has at most {MAX_MESSAGES_BYTES} bytes")));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let list = messages::parse(&text, folder, &name)?;
    let is_batch = text.trim_start().strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('['));
    Ok(Conversations { list, is_batch })
}
