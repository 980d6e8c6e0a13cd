//! The side that decodes.

use std::io::{Write, stdin, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread::Builder;

use super::super::bytes::ByteSource;
use super::super::{VideoSource, open_embedded, sniff};
use super::wire;
use super::{Connection, Job, Message, Request};
use crate::{Error, Result};

/// Frames that are decoded before they are asked for, besides what decoding holds itself.
const AHEAD: usize = 2;

/// Decodes on a thread of this process.
pub(super) fn on_thread() -> Result<Connection> {
    let (requests, asked) = channel();
    let (answers, messages) = sync_channel(AHEAD);
    let work = move || {
        // A panic ends the thread; whoever waits for messages sees their end.
        let _ = catch_unwind(AssertUnwindSafe(|| answer(&asked, false, &mut |message| answers.send(message).is_ok())));
    };
    Builder::new()
        .name("video reader".to_owned())
        .spawn(work)
        .map_err(|error| Error::internal("no thread can be started to read the video").caused_by(error))?;
    Ok(Connection {
        ask: Box::new(move |request| {
            requests.send(request).map_err(|_| Error::internal("the thread that reads the video is gone"))
        }),
        messages,
        last_words: Box::new(|| "it panicked".to_owned()),
    })
}

/// Decodes what standard input asks for and writes it to standard output, for [`WorkerCommand`](super::WorkerCommand).
/// Lowers this process's own limit of memory, and ends the process when standard input ends: whoever asked is gone.
///
/// # Errors
/// `Internal` if standard output cannot be written or the input is not what a parent of this release sends.
pub fn serve_standard_streams() -> Result<()> {
    let (requests, asked) = channel();
    std::thread::spawn(move || {
        let mut input = stdin().lock();
        while let Ok(Some(request)) = wire::read_request(&mut input) {
            if requests.send(request).is_err() {
                break;
            }
        }
        // Decoding may be in a loop that never ends.
        std::process::exit(0);
    });
    let mut output = stdout().lock();
    let mut failed = None;
    answer(
        &asked,
        true,
        &mut |message| match wire::write_message(&mut output, &message).and_then(|()| output.flush()) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        },
    );
    match failed {
        None => Ok(()),
        Some(error) => Err(Error::internal("the video's frames cannot be handed over").caused_by(error)),
    }
}

/// Answers requests until they end or nobody listens. A process that is `expendable` may be ended by a decoder.
fn answer(requests: &Receiver<Request>, expendable: bool, send: &mut dyn FnMut(Message) -> bool) {
    let mut video: Option<Box<dyn VideoSource>> = None;
    while let Ok(request) = requests.recv() {
        let answer = match request {
            Request::Open(job) => open(&job, expendable).map(|opened| {
                let message = Message::Opened(opened.facts().clone(), opened.timestamps().to_vec());
                video = Some(opened);
                message
            }),
            Request::Read(indices) => match &mut video {
                Some(video) => read(video.as_mut(), &indices, send).map(|()| Message::Done),
                None => Err(Error::internal("frames were asked for before a video was opened")),
            },
        };
        if !send(answer.unwrap_or_else(Message::Failed)) {
            return;
        }
    }
}

fn open(job: &Job, expendable: bool) -> Result<Box<dyn VideoSource>> {
    let bytes = ByteSource::open(&job.opened)?;
    let container = sniff::container(&bytes)?;
    open_embedded(&job.name, container, bytes, &job.limits, job.as_coded, expendable)
}

fn read(video: &mut dyn VideoSource, indices: &[usize], send: &mut dyn FnMut(Message) -> bool) -> Result<()> {
    video.read(indices, &mut |frame| {
        if send(Message::Frame(frame)) { Ok(()) } else { Err(Error::internal("nobody takes the frames any more")) }
    })
}
