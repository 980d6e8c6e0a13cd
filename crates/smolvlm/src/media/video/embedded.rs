//! A container's packets through a codec's decoder: which packets to decode for the frames that are asked for.

use std::collections::BTreeMap;

use super::parallel;
use super::picture::{Picture, rotate, rotated_size};
use super::segment::{Segment, SegmentReader};
use super::stream::EncodedStream;
use super::timeline::Timeline;
use super::{Frame, StreamFacts, VideoSource, check_indices, open_decoder, yuv};
use crate::media::source::MediaLimits;
use crate::{Error, Result};

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
    pub(super) fn open(name: &str, stream: EncodedStream, limits: &MediaLimits) -> Result<Self> {
        let timeline = Timeline::new(&stream.packets, stream.header.base)?;
        let header = &stream.header;
        let mut facts = timeline.facts(name, &header.codec, header.container, (0, 0), header.rotation);
        let mut decoder = open_decoder(header, limits)?;
        try_first(&stream, decoder.as_mut())?;
        let (width, height) = decoder.size();
        if width == 0 {
            return Err(Error::input("the stream does not say how large its frames are"));
        }
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

    /// Makes `count` decoders ready.
    fn open_decoders(&mut self, count: usize) -> Result<()> {
        while self.decoders.len() < count {
            self.decoders.push(open_decoder(&self.coded.stream.header, &self.limits)?);
        }
        Ok(())
    }
}

/// Decodes the first packet, which shows early what the decoder does not support, and the size where the container does
/// not tell. A stream that was cut may begin with what cannot be decoded.
fn try_first(stream: &EncodedStream, decoder: &mut dyn Decoder) -> Result<()> {
    let mut packet = Vec::new();
    stream.read_packet(0, &mut packet)?;
    let mut decoded = decoder.decode(&packet);
    if decoded.is_err() && decoder.fall_back() {
        decoder.restart()?;
        decoded = decoder.decode(&packet);
    }
    match decoded {
        Err(error) if stream.packets[0].sync => Err(error),
        _ => Ok(()),
    }
}

impl VideoSource for EmbeddedVideo {
    fn facts(&self) -> &StreamFacts {
        &self.coded.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.coded.timeline.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.coded.timeline.times.len())?;
        let segments = self.segments(indices)?;
        let (width, height) = (self.coded.facts.width, self.coded.facts.height);
        self.open_decoders(parallel::threads(segments.len(), width * height))?;
        let coded = &self.coded;
        let readers = self.decoders.iter_mut().map(|decoder| SegmentReader::new(coded, decoder.as_mut()));
        // Of 8 bits and 4:2:0, as nearly all are.
        let picture_bytes = width * height * 3 / 2;
        parallel::read(&segments, readers.collect(), picture_bytes, &mut |index, picture| {
            let image = rotate(yuv::to_rgb(&picture), coded.facts.rotation);
            sink(Frame { index, time: coded.timeline.times[index], image })
        })
    }
}
