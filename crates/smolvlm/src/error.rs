//! The one public error of this crate.

use std::fmt;

use smolvlm_kernels::BackendError;

/// What kind of failure an [`Error`] is. The command-line tool maps each kind to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller combined arguments that exclude each other or lie outside their range.
    Usage,
    /// An input (image, video, message, prompt) is missing, broken, or does not fit the model.
    Input,
    /// A checkpoint file is missing, broken or contradicts another.
    Checkpoint,
    /// The work does not fit the memory or token budget.
    Budget,
    /// A remote file or the model hub could not be reached, or refused.
    Network,
    /// A defect of this library.
    Internal,
}

impl ErrorKind {
    /// Every kind, in a fixed order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Internal, Self::Usage, Self::Input, Self::Checkpoint, Self::Budget, Self::Network];
}

/// An error with its kind, a message that says what was expected and found where, and its source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a complete message: which file, tensor or field; expected; found.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// [`ErrorKind::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// [`ErrorKind::Checkpoint`].
    pub fn checkpoint(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Checkpoint, message)
    }

    /// [`ErrorKind::Budget`].
    pub fn budget(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Budget, message)
    }

    /// [`ErrorKind::Network`].
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Network, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same error, remembering what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, its message preceded by where it happened (`"cat.png: …"`).
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The kind, for callers who decide by it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<BackendError> for Error {
    /// [`ErrorKind::Budget`] when a device's memory did not suffice, else [`ErrorKind::Internal`].
    fn from(error: BackendError) -> Self {
        if error.out_of_memory {
            let advice = "leave the device more memory, or ask for less at once: a smaller cache (--cache-memory), fewer images or frames";
            return Self::budget(format!("{}; {advice}", error.message));
        }
        Self::internal(error.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
