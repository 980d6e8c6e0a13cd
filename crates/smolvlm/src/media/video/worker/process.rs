//! The side that asks, with the decoder in a child process.

use std::io::{BufWriter, ErrorKind, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Connection, WorkerCommand, wire};
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// Messages that wait to be taken; the pipe and the child hold a few more.
const WAITING: usize = 1;
/// How much of what the child says on standard error is kept: the end.
const TAIL: usize = 600;
/// How long a child that has closed its output may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Ends the child when dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the worker.
pub(super) fn start(command: &WorkerCommand, limits: &MediaLimits) -> Result<Connection> {
    let mut child = Command::new(&command.program)
        .args(&command.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let program = command.program.display();
            Error::internal(format!("{program}, which decodes videos apart, cannot be started")).caused_by(error)
        })?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let child = Arc::new(Mutex::new(Reaped(child)));
    let (sender, messages) = sync_channel(WAITING);
    let (max_pixels, listener) = (limits.pixels, child.clone());
    std::thread::spawn(move || {
        // The child lives at least as long as its messages are read.
        let _listener = listener;
        let Some(mut output) = output else { return };
        while let Ok(Some(message)) = wire::read_message(&mut output, max_pixels) {
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    let mut complaints = Some(std::thread::spawn(move || errors.map(tail).unwrap_or_default()));
    let mut input = input.map(BufWriter::new);
    let guard = KillOnDrop(child.clone());
    Ok(Connection {
        ask: Box::new(move |request| {
            let _held = &guard;
            send(input.as_mut(), &request)
        }),
        messages,
        last_words: Box::new(move || last_words(&child, complaints.take())),
    })
}

/// Kills the child as soon as nobody asks any more, so that the threads that listen to it end too.
struct KillOnDrop(Arc<Mutex<Reaped>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Ok(mut child) = self.0.lock() {
            let _ = child.0.kill();
        }
    }
}

fn send(input: Option<&mut BufWriter<ChildStdin>>, request: &super::Request) -> Result<()> {
    let Some(input) = input else { return Err(Error::internal("the worker has no standard input")) };
    match wire::write_request(input, request).and_then(|()| input.flush()) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(Error::input(format!("cannot be handed to the process that decodes videos: {error}")))
        }
        // A worker that is gone says why on its other streams.
        _ => Ok(()),
    }
}

/// How the child ended and what it said last.
fn last_words(child: &Mutex<Reaped>, complaints: Option<JoinHandle<String>>) -> String {
    let status = wait(child);
    let said = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let status = status.map_or_else(|| "it closed its output".to_owned(), |status| status.to_string());
    if said.is_empty() { status } else { format!("{status}: {said}") }
}

fn wait(child: &Mutex<Reaped>) -> Option<ExitStatus> {
    let mut child = child.lock().ok()?;
    let start = Instant::now();
    loop {
        match child.0.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < GRACE => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.0.kill();
                return None;
            }
        }
    }
}

/// The end of what the child says, in one line.
fn tail(mut stream: ChildStderr) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        kept.extend_from_slice(&piece[..count]);
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}
