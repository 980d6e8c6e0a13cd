//! The one error of this crate.

use std::path::Path;

/// What went wrong, in words: the file or field, what was expected, what was found.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: None }
    }

    /// `action` failed on a file or folder.
    pub(crate) fn file(path: &Path, action: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        Self { message: format!("{}: cannot be {action}: {cause}", path.display()), cause: Some(cause) }
    }
}
