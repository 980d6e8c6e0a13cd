//! One run of a tool: its output in pieces, its complaints, its end.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::WorkerCommand;
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// Bytes handed over at once.
const PIECE: usize = 1 << 20;
/// How much of what the tool says on standard error is kept: the end.
const TAIL: usize = 1000;

/// How long a guard may take to end its tool.
const GRACE: Duration = Duration::from_secs(2);

/// How tools are run.
pub(super) struct Tools {
    /// Longest wait for a tool that gives nothing.
    patience: Duration,
    /// Most memory of a tool that is guarded.
    memory: u64,
    guard: Option<WorkerCommand>,
}

impl Tools {
    pub(super) fn new(limits: &MediaLimits, guard: Option<&WorkerCommand>) -> Self {
        Self { patience: limits.timeout, memory: limits.decode_memory, guard: guard.cloned() }
    }

    /// The process to start for a tool.
    fn command(&self, name: &str, arguments: &[String]) -> Command {
        let mut command = match &self.guard {
            None => Command::new(name),
            Some(guard) => {
                let mut command = Command::new(&guard.program);
                command.args(&guard.arguments).arg(self.memory.to_string()).arg(name);
                command
            }
        };
        let input = if self.guard.is_some() { Stdio::piped() } else { Stdio::null() };
        command.args(arguments).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// What is said of a tool that is not there.
pub(super) fn cannot_start(name: &str, error: std::io::Error) -> Error {
    Error::input(format!(
        "the `{name}` tool, which reads such videos, cannot be started ({error}); \
         install ffmpeg so that `ffmpeg` and `ffprobe` are on the PATH, or convert the video to H.264 in mp4"
    ))
    .caused_by(error)
}

/// A running tool. Dropping it ends it.
pub(super) struct Tool {
    name: &'static str,
    child: Child,
    /// Held open for a guard, which ends its tool when it closes.
    leash: Option<ChildStdin>,
    pieces: Receiver<Vec<u8>>,
    rest: Vec<u8>,
    complaints: Option<JoinHandle<String>>,
    patience: Duration,
}

impl Tool {
    /// Starts a tool that is found on the search path. It is given up when nothing comes for as long as `tools` says.
    pub(super) fn start(name: &'static str, arguments: &[String], tools: &Tools) -> Result<Self> {
        let mut child = tools.command(name, arguments).spawn().map_err(|error| cannot_start(name, error))?;
        let leash = child.stdin.take();
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (sender, pieces) = sync_channel(2);
        std::thread::spawn(move || {
            let Some(mut output) = output else { return };
            let mut piece = vec![0; PIECE];
            // Ends with the tool, or when nobody listens any more.
            while let Ok(count @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let complaints = std::thread::spawn(move || errors.map(tail).unwrap_or_default());
        let (rest, complaints, patience) = (Vec::new(), Some(complaints), tools.patience);
        Ok(Self { name, child, leash, pieces, rest, complaints, patience })
    }

    /// The next `count` bytes of its output.
    pub(super) fn read_exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.rest.len() < count {
            match self.next_piece()? {
                Some(piece) => self.rest.extend(piece),
                None => return Err(self.failure("ended before this frame")),
            }
        }
        let after = self.rest.split_off(count);
        Ok(std::mem::replace(&mut self.rest, after))
    }

    /// All of its output, at most `limit` bytes, once it ends well.
    pub(super) fn read_all(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut all = std::mem::take(&mut self.rest);
        while let Some(piece) = self.next_piece()? {
            all.extend(piece);
            if all.len() > limit {
                return Err(Error::input(format!("{} describes the video in more than {limit} bytes", self.name)));
            }
        }
        match self.child.wait() {
            Ok(status) if status.success() => Ok(all),
            _ => Err(self.failure("failed")),
        }
    }

    fn next_piece(&mut self) -> Result<Option<Vec<u8>>> {
        match self.pieces.recv_timeout(self.patience) {
            Ok(piece) => Ok(Some(piece)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let (name, seconds) = (self.name, self.patience.as_secs_f64());
                Err(Error::input(format!("{name} gave nothing for {seconds} s and was stopped")))
            }
        }
    }

    /// An error with the end of what the tool said.
    fn failure(&mut self, what: &str) -> Error {
        self.stop();
        let said = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        // A guard's own error has this mark.
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        let said = if said.is_empty() { "it gave no reason" } else { said };
        Error::input(format!("{} {what}: {said}", self.name))
    }

    fn stop(&mut self) {
        if self.leash.take().is_some() {
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The end of what a stream says, as text in one line.
fn tail(mut stream: impl Read) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        kept.extend_from_slice(&piece[..count]);
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_complaints_is_kept() {
        let said = tail(&[&[b'x'; 5000][..], b" the\nend"].concat()[..]);
        assert!(said.ends_with("x the end") && said.len() <= TAIL);
    }

    #[test]
    fn a_missing_tool_is_named_with_what_to_install() {
        let tools = Tools::new(&MediaLimits::default(), None);
        let error = Tool::start("no-such-tool-as-this", &[], &tools).err().unwrap().to_string();
        assert!(error.contains("no-such-tool-as-this") && error.contains("install ffmpeg"), "{error}");
    }
}
