//! A container's packets through a codec's decoder: seeks to where decoding can start and decodes only what is needed.

use std::collections::BTreeMap;

use super::picture::{Picture, rotate, rotated_size};
use super::stream::EncodedStream;
use super::timeline::Timeline;
use super::{Frame, StreamFacts, VideoSource, check_indices, yuv};
use crate::media::Image;
use crate::{Error, Result};

/// The largest sample that is read: a raw 4:2:2 picture at H.264's highest level takes 68 MiB.
const MAX_PACKET_BYTES: u32 = 128 << 20;

/// The most frames that wait for an earlier one. No codec reorders over more than 16.
const MAX_HELD: usize = 16;

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

    /// Decodes one packet.
    fn decode(&mut self, packet: &[u8]) -> Result<Option<Picture>>;
}

/// A video read by this crate alone.
pub(super) struct EmbeddedVideo {
    facts: StreamFacts,
    timeline: Timeline,
    stream: EncodedStream,
    decoder: Box<dyn Decoder>,
    /// The packets that the container calls sync points, but the first packet.
    syncs: Vec<usize>,
    /// What those turned out to be.
    accesses: BTreeMap<usize, Access>,
    packet: Vec<u8>,
}

impl EmbeddedVideo {
    pub(super) fn new(name: &str, stream: EncodedStream, decoder: Box<dyn Decoder>) -> Result<Self> {
        let timeline = Timeline::new(&stream.packets, stream.header.base)?;
        let syncs = (1..stream.packets.len()).filter(|&at| stream.packets[at].sync).collect();
        let mut this = Self {
            facts: timeline.facts(name, &stream.header.codec, stream.header.container, (0, 0), stream.header.rotation),
            timeline,
            stream,
            decoder,
            syncs,
            accesses: BTreeMap::new(),
            packet: Vec::new(),
        };
        this.try_first()?;
        let (width, height) = this.decoder.size();
        if width == 0 {
            return Err(Error::input("the stream does not say how large its frames are"));
        }
        (this.facts.width, this.facts.height) = rotated_size(width, height, this.stream.header.rotation);
        Ok(this)
    }

    /// Decodes the first packet, which shows early what the decoder does not support, and the size where the container
    /// does not tell. A stream that was cut may begin with what cannot be decoded.
    fn try_first(&mut self) -> Result<()> {
        self.load(0)?;
        match self.decoder.decode(&self.packet) {
            Err(error) if self.stream.packets[0].sync => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads packet `at` into the buffer.
    fn load(&mut self, at: usize) -> Result<()> {
        let packet = self.stream.packets[at];
        if packet.size > MAX_PACKET_BYTES {
            let size = packet.size;
            return Err(Error::input(format!("a packet of {size} bytes is above the limit of {MAX_PACKET_BYTES}")));
        }
        self.stream.bytes.read_at(packet.offset, packet.size as usize, &mut self.packet)
    }

    /// Where decoding must begin anew for `target`: the last packet that gives it right. `None` when going on from
    /// `position`, which lies between that packet and `target`, is at least as near.
    fn start_for(&mut self, target: usize, position: Option<usize>) -> Result<Option<usize>> {
        let position = position.filter(|&position| position <= target);
        let nearest = self.syncs.partition_point(|&at| at <= target);
        let furthest = self.syncs.partition_point(|&at| at <= position.unwrap_or(0));
        for sync in (furthest..nearest).rev() {
            let at = self.syncs[sync];
            let access = self.sync_access(at)?;
            let reaches = self.stream.packets[at].pts <= self.stream.packets[target].pts;
            if access == Access::Independent || (access == Access::Recovery && reaches) {
                return Ok(Some(at));
            }
        }
        Ok(if position.is_some() { None } else { Some(0) })
    }

    /// What a packet that the container calls a sync point really is.
    fn sync_access(&mut self, at: usize) -> Result<Access> {
        if let Some(&access) = self.accesses.get(&at) {
            return Ok(access);
        }
        self.load(at)?;
        let access = self.decoder.access(&self.packet);
        self.accesses.insert(at, access);
        Ok(access)
    }

    /// Decodes packet `at` if it is wanted or if others may need it. Errors are forgiven `in_vain`: where a picture is
    /// shown before the one at which decoding began, what it refers to was never decoded.
    fn step(&mut self, at: usize, wanted: bool, in_vain: bool) -> Result<Option<Image>> {
        self.load(at)?;
        if !wanted && self.decoder.access(&self.packet) == Access::Disposable {
            return Ok(None);
        }
        match self.decoder.decode(&self.packet) {
            Ok(picture) if wanted => self.finish(picture).map(Some),
            Ok(_) => Ok(None),
            Err(_) if in_vain && !wanted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// RGB, upright, and of the size that the facts promise.
    fn finish(&self, picture: Option<Picture>) -> Result<Image> {
        let picture = picture.ok_or_else(|| Error::input("its data holds no picture"))?;
        let image = rotate(yuv::to_rgb(&picture), self.stream.header.rotation);
        let expected = (self.facts.width, self.facts.height);
        if (image.width, image.height) != expected {
            let (width, height) = expected;
            return Err(Error::input(format!(
                "its size is {}×{} where the stream began with {width}×{height}",
                image.width, image.height
            )));
        }
        Ok(image)
    }
}

impl VideoSource for EmbeddedVideo {
    fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.timeline.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.timeline.times.len())?;
        let mut wanted: BTreeMap<usize, usize> =
            indices.iter().map(|&index| (self.timeline.packets[index] as usize, index)).collect();
        let mut held = BTreeMap::new();
        let mut position = None;
        for &index in indices {
            let image = match held.remove(&index) {
                Some(image) => image,
                None => self.decode_to(index, &mut position, &mut wanted, &mut held)?,
            };
            sink(Frame { index, time: self.timeline.times[index], image })?;
        }
        Ok(())
    }
}

impl EmbeddedVideo {
    /// Decodes up to the packet of frame `index`. The `wanted` frames (packet → index) decoded on the way are `held`.
    fn decode_to(
        &mut self,
        index: usize,
        position: &mut Option<usize>,
        wanted: &mut BTreeMap<usize, usize>,
        held: &mut BTreeMap<usize, Image>,
    ) -> Result<Image> {
        let target = self.timeline.packets[index] as usize;
        let start = self.start_for(target, *position)?;
        if start.is_some() {
            self.decoder.restart()?;
        }
        let from = start.or(*position).unwrap_or(0);
        for at in from..=target {
            let frame = wanted.remove(&at);
            let in_vain = start.is_some_and(|start| self.stream.packets[at].pts < self.stream.packets[start].pts);
            let image = self.step(at, frame.is_some(), in_vain).map_err(|error| self.place(error, at))?;
            held.extend(frame.zip(image));
            if held.len() > MAX_HELD {
                return Err(Error::input(format!("frame {index} comes more than {MAX_HELD} frames after its turn")));
            }
        }
        *position = Some(target + 1);
        held.remove(&index).ok_or_else(|| Error::input(format!("frame {index} is coded twice")))
    }

    /// Says which file and frame an error concerns.
    fn place(&self, error: Error, at: usize) -> Error {
        let name = &self.facts.name;
        match self.timeline.packets.iter().position(|&packet| packet as usize == at) {
            Some(index) => error.at(format!("{name}: frame {index} at {:.3} s", self.timeline.times[index])),
            None => error.at(format!("{name}: a hidden frame")),
        }
    }
}
