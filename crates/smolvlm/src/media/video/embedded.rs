//! A container's packets through a codec's decoder: which packets to decode for the frames that are asked for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::parallel;
use super::picture::{Picture, rotate, rotated_size};
use super::segment::{Segment, SegmentReader};
use super::stream::EncodedStream;
use super::timeline::Timeline;
use super::{Frame, StreamFacts, VideoSource, check_indices, open_decoder, yuv};
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// How many packets are looked at when a stream is opened.
const MAX_TRIED: usize = 32;

/// What decoding may do at, or without, a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Decoding can start here.
    Independent,
    /// Decoding can start here for what is shown from here on; what is shown before needs an earlier start.
    Recovery,
    /// Needs what came before, and others may need it.
    Dependent,
    /// Nothing else needs it.
    Disposable,
}

/// One codec. A packet in, its picture out, in decode order: the container's times put pictures in order.
pub(super) trait Decoder: Send {
    /// Width and height as coded, cropped.
    fn size(&self) -> (usize, usize);

    /// What the packet's headers say of it.
    fn access(&self, packet: &[u8]) -> Access;

    /// Whether the packet's picture is left out where decoding of the whole stream starts at the sync point before it.
    fn is_skipped(&self, _packet: &[u8]) -> bool {
        false
    }

    /// Forgets all pictures, as before the first packet.
    fn restart(&mut self) -> Result<()>;

    /// Changes to a slower decoder that takes more, where there is one: after an error, decoding may be tried again from
    /// its start.
    fn fall_back(&mut self) -> bool {
        false
    }

    /// Decodes one packet.
    fn decode(&mut self, packet: &[u8]) -> Result<Option<Picture>>;
}

/// Runs a call into a decoder, whose panics on damaged input become errors.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Error::input("its data is broken: the decoder gave up on it"))
}

/// What all threads that decode a stream share.
pub(super) struct Coded {
    pub(super) facts: StreamFacts,
    pub(super) timeline: Timeline,
    pub(super) stream: EncodedStream,
}

/// A video read by this crate alone.
pub(super) struct EmbeddedVideo {
    coded: Coded,
    limits: MediaLimits,
    /// One for each thread that decodes; the first is always there.
    decoders: Vec<Box<dyn Decoder>>,
    /// The packets that the container calls sync points, but the first packet.
    syncs: Vec<usize>,
    /// What those turned out to be.
    accesses: BTreeMap<usize, Access>,
}

impl EmbeddedVideo {
    pub(super) fn open(name: &str, mut stream: EncodedStream, limits: &MediaLimits) -> Result<Self> {
        if stream.packets.is_empty() {
            return Err(Error::input("the video stream holds no frames"));
        }
        let mut decoder = open_decoder(&stream.header, limits)?;
        let (width, height) = try_first(&stream, decoder.as_mut())?;
        hide_skipped(&mut stream, decoder.as_ref())?;
        let timeline = Timeline::new(&stream.packets, stream.header.base)?;
        let header = &stream.header;
        let mut facts = timeline.facts(name, &header.codec, header.container, (0, 0), header.rotation);
        (facts.width, facts.height) = rotated_size(width, height, header.rotation);
        Ok(Self {
            syncs: (1..stream.packets.len()).filter(|&at| stream.packets[at].sync).collect(),
            coded: Coded { facts, timeline, stream },
            limits: limits.clone(),
            decoders: vec![decoder],
            accesses: BTreeMap::new(),
        })
    }

    /// Cuts what is to be decoded into pieces that need nothing from each other.
    fn segments(&mut self, indices: &[usize]) -> Result<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        for &index in indices {
            let start = self.start_for(self.coded.timeline.packets[index] as usize)?;
            match segments.last_mut() {
                Some(segment) if segment.start == start => segment.frames.push(index),
                _ => segments.push(Segment { start, frames: vec![index] }),
            }
        }
        Ok(segments)
    }

    /// The last packet from which decoding gives packet `target` right.
    fn start_for(&mut self, target: usize) -> Result<usize> {
        let nearest = self.syncs.partition_point(|&at| at <= target);
        for sync in (0..nearest).rev() {
            let at = self.syncs[sync];
            let access = self.sync_access(at)?;
            let packets = &self.coded.stream.packets;
            let reaches = packets[at].pts <= packets[target].pts;
            if access == Access::Independent || (access == Access::Recovery && reaches) {
                return Ok(at);
            }
        }
        Ok(0)
    }

    /// What a packet that the container calls a sync point really is.
    fn sync_access(&mut self, at: usize) -> Result<Access> {
        if let Some(&access) = self.accesses.get(&at) {
            return Ok(access);
        }
        let mut packet = Vec::new();
        self.coded.stream.read_packet(at, &mut packet)?;
        let access = self.decoders[0].access(&packet);
        self.accesses.insert(at, access);
        Ok(access)
    }

    /// Decodes the frames with these indices and hands over the picture of each, in order.
    pub(super) fn read_pictures(
        &mut self,
        indices: &[usize],
        sink: &mut dyn FnMut(usize, Picture) -> Result<()>,
    ) -> Result<()> {
        check_indices(indices, self.coded.timeline.times.len())?;
        let segments = self.segments(indices)?;
        let pixels = self.coded.facts.width * self.coded.facts.height;
        self.open_decoders(parallel::threads(segments.len(), pixels))?;
        let coded = &self.coded;
        let readers = self.decoders.iter_mut().map(|decoder| SegmentReader::new(coded, decoder.as_mut()));
        // A picture of 8 bits and 4:2:0, as nearly all are, has three halves of a byte for each pixel.
        parallel::read(&segments, readers.collect(), pixels * 3 / 2, sink)
    }

    /// Makes `count` decoders ready.
    fn open_decoders(&mut self, count: usize) -> Result<()> {
        while self.decoders.len() < count {
            self.decoders.push(open_decoder(&self.coded.stream.header, &self.limits)?);
        }
        Ok(())
    }
}

/// Decodes the first packet, which shows early what the decoder does not support, and how large frames are: a stream
/// that was cut may begin with what cannot be decoded, and then the next ones tell.
fn try_first(stream: &EncodedStream, decoder: &mut dyn Decoder) -> Result<(usize, usize)> {
    let mut packet = Vec::new();
    for at in 0..stream.packets.len().min(MAX_TRIED) {
        stream.read_packet(at, &mut packet)?;
        let mut decoded = decoder.decode(&packet);
        if decoded.is_err() && decoder.fall_back() {
            decoder.restart()?;
            decoded = decoder.decode(&packet);
        }
        if let (Err(error), true) = (decoded, stream.packets[at].sync) {
            return Err(error);
        }
        let (width, height) = decoder.size();
        if width > 0 && height > 0 {
            return Ok((width, height));
        }
    }
    Err(Error::input("the stream does not say how large its frames are"))
}

/// Hides the pictures before the first in presentation order that refer to what the stream was cut off from, and that
/// every decoder leaves out.
fn hide_skipped(stream: &mut EncodedStream, decoder: &dyn Decoder) -> Result<()> {
    let first = stream.packets[0].pts;
    let mut packet = Vec::new();
    for at in 1..stream.packets.len().min(MAX_TRIED) {
        if stream.packets[at].pts >= first {
            break;
        }
        stream.read_packet(at, &mut packet)?;
        if decoder.is_skipped(&packet) {
            Arc::make_mut(&mut stream.packets)[at].shown = false;
        }
    }
    Ok(())
}

impl VideoSource for EmbeddedVideo {
    fn facts(&self) -> &StreamFacts {
        &self.coded.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.coded.timeline.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        let (rotation, times) = (self.coded.facts.rotation, self.coded.timeline.times.clone());
        self.read_pictures(indices, &mut |index, picture| {
            let image = rotate(yuv::to_rgb(&picture), rotation);
            sink(Frame { index, time: times[index], image })
        })
    }
}
