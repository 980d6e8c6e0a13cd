//! Several threads decode a stream, each a segment at a time; pictures are handed over in order.
//!
//! Decoding runs ahead of whoever takes the pictures by a bounded number of bytes, so it overlaps with what becomes of them,
//! and memory does not grow with the length of the video.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use super::picture::Picture;
use super::segment::{Segment, SegmentReader};
use crate::{Error, Result};

/// What the pictures that wait to be taken may take together.
const WAITING_BYTES: usize = 64 << 20;
/// More threads than this wait for each other on most files.
const MAX_THREADS: usize = 16;
/// What all decoders' pictures together may take, roughly.
const MEMORY: usize = 1 << 30;
/// Bytes that a decoder keeps for each pixel of a frame: 16 reference pictures of 4:2:0 and more than 8 bits.
const BYTES_PER_PIXEL: usize = 48;

/// How many threads decode `segments` segments of a video with `pixels` pixels a frame.
pub(super) fn threads(segments: usize, pixels: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let fitting = MEMORY / (pixels.max(1) * BYTES_PER_PIXEL);
    cores.min(fitting).min(segments).max(1)
}

/// Reads the segments in order; reader `i` of `n` reads every `n`th segment from the `i`th on. A picture takes `picture_bytes`.
pub(super) fn read<'a>(
    segments: &'a [Segment],
    readers: Vec<SegmentReader<'a>>,
    picture_bytes: usize,
    sink: &mut dyn FnMut(usize, Picture) -> Result<()>,
) -> Result<()> {
    let count = readers.len().min(segments.len());
    let ahead = WAITING_BYTES / (picture_bytes.max(1) * count.max(1));
    std::thread::scope(|scope| {
        let lanes: Vec<Receiver<Result<Picture>>> = readers
            .into_iter()
            .take(count)
            .enumerate()
            .map(|(lane, reader)| spawn(scope, reader, ahead, segments.iter().skip(lane).step_by(count)))
            .collect::<Result<_>>()?;
        for (number, segment) in segments.iter().enumerate() {
            for &index in &segment.frames {
                // A lane ends early only when its thread panicked.
                let picture = lanes[number % count].recv();
                sink(index, picture.map_err(|_| Error::internal("a thread that decodes the video ended early"))??)?;
            }
        }
        Ok(())
    })
}

/// Starts a thread that reads `segments` one after another, until the first error or until nobody listens.
fn spawn<'scope, 'env, 'a: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    mut reader: SegmentReader<'a>,
    ahead: usize,
    mut segments: impl Iterator<Item = &'a Segment> + Send + 'scope,
) -> Result<Receiver<Result<Picture>>> {
    let (sender, receiver) = sync_channel(ahead.max(1));
    let work = move || {
        // A panic ends the lane; it must not end the thread that listens to it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = segments.try_for_each(|segment| read_one(&mut reader, segment, &sender));
            drop(sender);
        }));
    };
    match Builder::new().name("video".to_owned()).spawn_scoped(scope, work) {
        Ok(_) => Ok(receiver),
        Err(error) => Err(Error::internal("no thread can be started to decode the video").caused_by(error)),
    }
}

/// Reads one segment into a lane. The error, if any, has been sent.
fn read_one(
    reader: &mut SegmentReader<'_>,
    segment: &Segment,
    lane: &SyncSender<Result<Picture>>,
) -> std::result::Result<(), ()> {
    let mut is_listening = true;
    let result = reader.read(segment, &mut |picture| {
        is_listening = lane.send(Ok(picture)).is_ok();
        if is_listening { Ok(()) } else { Err(Error::internal("nobody takes the frames any more")) }
    });
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            if is_listening {
                // Whoever listened may leave at this very moment.
                let _ = lane.send(Err(error));
            }
            Err(())
        }
    }
}
