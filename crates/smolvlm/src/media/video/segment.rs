//! Decoding from one starting point: only what is needed, pictures put into presentation order.
//!
//! Pictures leave as they were decoded: half the size of RGB, and whoever takes them has time for the conversion.

use std::collections::BTreeMap;

use super::embedded::{Access, Coded, Decoder};
use super::picture::{Picture, rotated_size};
use crate::{Error, Result};

/// The most frames that wait for an earlier one. No codec reorders over more than 16.
const MAX_HELD: usize = 16;

/// Frames that are decoded one after another from one packet on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The packet where decoding starts.
    pub(super) start: usize,
    /// Indices of the frames that are wanted, ascending.
    pub(super) frames: Vec<usize>,
}

/// One decoder, and the stream it reads from.
pub(super) struct SegmentReader<'a> {
    coded: &'a Coded,
    decoder: &'a mut dyn Decoder,
    packet: Vec<u8>,
}

/// How far a segment has come.
struct Progress {
    start: usize,
    /// The next packet to decode.
    position: usize,
    /// Frames still to be decoded: packet → index.
    wanted: BTreeMap<usize, usize>,
    /// Decoded frames whose turn has not come: index → picture.
    held: BTreeMap<usize, Picture>,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(coded: &'a Coded, decoder: &'a mut dyn Decoder) -> Self {
        Self { coded, decoder, packet: Vec::new() }
    }

    /// Decodes a segment's frames and hands the picture of each to `emit`, in presentation order.
    pub(super) fn read(&mut self, segment: &Segment, emit: &mut dyn FnMut(Picture) -> Result<()>) -> Result<()> {
        let mut frames = segment.frames.as_slice();
        loop {
            let mut is_taken = true;
            let result = self.read_frames(segment.start, &mut frames, &mut |picture| {
                let taken = emit(picture);
                is_taken = taken.is_ok();
                taken
            });
            if result.is_ok() || !is_taken || !self.decoder.fall_back() {
                return result;
            }
        }
    }

    /// Decodes from `start` on; leaves in `frames` those that were not handed over.
    fn read_frames(
        &mut self,
        start: usize,
        frames: &mut &[usize],
        emit: &mut dyn FnMut(Picture) -> Result<()>,
    ) -> Result<()> {
        self.decoder.restart()?;
        let timeline = &self.coded.timeline;
        let mut progress = Progress {
            start,
            position: start,
            wanted: frames.iter().map(|&index| (timeline.packets[index] as usize, index)).collect(),
            held: BTreeMap::new(),
        };
        while let Some((&index, rest)) = frames.split_first() {
            let picture = match progress.held.remove(&index) {
                Some(picture) => picture,
                None => self.decode_to(index, &mut progress)?,
            };
            *frames = rest;
            emit(picture)?;
        }
        Ok(())
    }

    /// Decodes up to the packet of frame `index`; wanted frames decoded on the way are held.
    fn decode_to(&mut self, index: usize, progress: &mut Progress) -> Result<Picture> {
        let packets = &self.coded.stream.packets;
        let target = self.coded.timeline.packets[index] as usize;
        for at in progress.position..=target {
            let frame = progress.wanted.remove(&at);
            let in_vain = packets[at].pts < packets[progress.start].pts;
            let picture = self.step(at, frame.is_some(), in_vain).map_err(|error| self.place(error, at))?;
            progress.held.extend(frame.zip(picture));
            if progress.held.len() > MAX_HELD {
                return Err(Error::input(format!("frame {index} comes more than {MAX_HELD} frames after its turn")));
            }
        }
        progress.position = target + 1;
        progress.held.remove(&index).ok_or_else(|| Error::input(format!("frame {index} is coded twice")))
    }

    /// Decodes packet `at` if it is wanted or if others may need it. Errors are forgiven `in_vain`: where a picture is
    /// shown before the one at which decoding began, what it refers to was never decoded.
    fn step(&mut self, at: usize, wanted: bool, in_vain: bool) -> Result<Option<Picture>> {
        self.coded.stream.read_packet(at, &mut self.packet)?;
        if !wanted && self.decoder.access(&self.packet) == Access::Disposable {
            return Ok(None);
        }
        match self.decoder.decode(&self.packet) {
            Ok(picture) if wanted => self.check(picture).map(Some),
            Ok(_) => Ok(None),
            Err(_) if in_vain && !wanted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A picture of the size that the facts promise.
    fn check(&self, picture: Option<Picture>) -> Result<Picture> {
        let picture = picture.ok_or_else(|| Error::input("its data holds no picture"))?;
        let facts = &self.coded.facts;
        let (width, height) = rotated_size(picture.width, picture.height, facts.rotation);
        if (width, height) != (facts.width, facts.height) {
            return Err(Error::input(format!(
                "its size is {width}×{height} where the stream began with {}×{}",
                facts.width, facts.height
            )));
        }
        Ok(picture)
    }

    /// Says which file and frame an error concerns.
    fn place(&self, error: Error, at: usize) -> Error {
        let (name, timeline) = (&self.coded.facts.name, &self.coded.timeline);
        match timeline.packets.iter().position(|&packet| packet as usize == at) {
            Some(index) => error.at(format!("{name}: frame {index} at {:.3} s", timeline.times[index])),
            None => error.at(format!("{name}: a hidden frame")),
        }
    }
}
