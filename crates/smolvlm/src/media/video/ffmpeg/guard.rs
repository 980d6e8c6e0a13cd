//! The process between this one and a tool: it ends the tool when this one is gone.
//!
//! A tool that writes into a pipe which nobody reads ends by itself, one that is silent does not, and a process that is
//! killed can end nobody.

use std::io::{Read, stdin};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::worker::limit_memory;
use super::process::cannot_start;
use crate::{Error, Result};

/// How often the tool is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a tool: its most memory in bytes, its program, its arguments. It writes to this process's standard output and
/// error, and ends when standard input does. Gives the tool's exit code.
///
/// For the program that [`WorkerCommand`](super::super::WorkerCommand) names.
///
/// # Errors
/// `Input` if the tool cannot be started, `Internal` if nothing to start is named.
pub fn guard_tool(command: &[String]) -> Result<i32> {
    let [memory, program, arguments @ ..] = command else {
        return Err(Error::internal("a limit of memory, a program and its arguments are needed"));
    };
    limit_memory(memory.parse().map_err(|_| Error::internal(format!("`{memory}` is no number of bytes")))?);
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
    let child = Arc::new(Mutex::new(child.map_err(|error| cannot_start(program, error))?));
    let watched = child.clone();
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while let Ok(1..) = stdin().read(&mut ignored) {}
        // It fails only for a process that is gone already.
        let _ = lock(&watched).kill();
    });
    loop {
        let state = lock(&child).try_wait();
        match state {
            Ok(Some(status)) => return Ok(status.code().unwrap_or(1)),
            Ok(None) => std::thread::sleep(PAUSE),
            Err(error) => return Err(Error::internal(format!("{program} cannot be waited for")).caused_by(error)),
        }
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}
