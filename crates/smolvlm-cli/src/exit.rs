//! Errors as people and scripts see them.

use std::error::Error as _;
use std::io::Write;
use std::process::ExitCode;

use smolvlm::{Error, ErrorKind};

/// Prints an error with its causes and turns its kind into an exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        let message = source.to_string();
        if !text.contains(&message) {
            text += &format!("\n  because: {message}");
        }
        cause = source.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code(error.kind()))
}

/// Prints a defect of ours.
pub(crate) fn internal(message: &str) -> ExitCode {
    report(&Error::internal(message))
}

fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Input => 3,
        ErrorKind::Checkpoint => 4,
        ErrorKind::Budget => 5,
        ErrorKind::Network => 6,
        _ => 1,
    }
}
