//! A video decoded apart: in a process of its own where the caller names a program for that, else on a thread.
//!
//! Files come from strangers, and decoders are young. In another process, one that aborts, loops for ever or eats memory
//! ends there: this side sees an end or a silence, and says so. A thread can be given up, but not ended; a decoder's
//! panic ends it alike.

mod process;
mod serve;
mod wire;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::{Frame, StreamFacts, VideoSource, check_indices};
use crate::media::source::{MediaLimits, Opened};
use crate::{Error, Result};

pub use serve::serve_standard_streams;
pub(super) use wire::limit_memory;

/// A program that runs [`serve_standard_streams`] when it is started with these arguments, and
/// [`guard_tool`](super::guard_tool) when more follow them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// What is asked of whoever decodes.
#[derive(Debug, Clone)]
enum Request {
    Open(Job),
    /// Frames by index, ascending.
    Read(Vec<usize>),
}

/// What to decode.
#[derive(Debug, Clone)]
struct Job {
    name: String,
    opened: Opened,
    limits: MediaLimits,
    as_coded: bool,
}

/// What comes back.
#[derive(Debug)]
enum Message {
    Opened(StreamFacts, Vec<f64>),
    Frame(Frame),
    /// All frames of a request were sent.
    Done,
    Failed(Error),
}

/// The two ends of a conversation with whoever decodes.
struct Connection {
    /// Sends a request; dropped, it ends the other side.
    ask: Box<dyn FnMut(Request) -> Result<()> + Send>,
    messages: Receiver<Message>,
    /// Why the messages ended, if the other side can say.
    last_words: Box<dyn FnMut() -> String + Send>,
}

/// A video whose embedded reader runs elsewhere.
pub(super) struct ApartVideo {
    facts: StreamFacts,
    timestamps: Vec<f64>,
    job: Job,
    worker: Option<WorkerCommand>,
    /// Gone after an error: what is left in it belongs to an earlier request.
    connection: Option<Connection>,
}

impl ApartVideo {
    pub(super) fn open(
        name: &str,
        opened: &Opened,
        limits: &MediaLimits,
        as_coded: bool,
        worker: Option<WorkerCommand>,
    ) -> Result<Self> {
        let job = Job { name: name.to_owned(), opened: opened.clone(), limits: limits.clone(), as_coded };
        let (connection, facts, timestamps) = connect(&job, worker.as_ref())?;
        Ok(Self { facts, timestamps, job, worker, connection: Some(connection) })
    }
}

impl VideoSource for ApartVideo {
    fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.timestamps
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.timestamps.len())?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.job, self.worker.as_ref())?.0,
        };
        (connection.ask)(Request::Read(indices.to_vec()))?;
        let patience = self.job.limits.decode_timeout;
        loop {
            match connection.next(patience).map_err(|error| error.at(&self.job.name))? {
                Message::Frame(frame) => sink(frame)?,
                Message::Done => break,
                Message::Failed(error) => return Err(error),
                Message::Opened(..) => return Err(Error::internal("the video's reader answered out of turn")),
            }
        }
        self.connection = Some(connection);
        Ok(())
    }
}

impl Connection {
    fn next(&mut self, patience: Duration) -> Result<Message> {
        match self.messages.recv_timeout(patience) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = patience.as_secs_f64();
                Err(Error::input(format!("its decoder gave nothing for {seconds} s and was stopped")))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let words = (self.last_words)();
                Err(Error::input(format!("its decoder broke down on it and was contained: {words}")))
            }
        }
    }
}

fn connect(job: &Job, worker: Option<&WorkerCommand>) -> Result<(Connection, StreamFacts, Vec<f64>)> {
    let mut connection = match worker {
        Some(command) => process::start(command, &job.limits)?,
        None => serve::on_thread()?,
    };
    (connection.ask)(Request::Open(job.clone()))?;
    match connection.next(job.limits.decode_timeout)? {
        Message::Opened(facts, timestamps) => Ok((connection, facts, timestamps)),
        Message::Failed(error) => Err(error),
        _ => Err(Error::internal("the video's reader answered out of turn")),
    }
}
