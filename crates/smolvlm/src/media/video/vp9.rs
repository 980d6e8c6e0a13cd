//! VP9, decoded by the crate `rusty_vp9`.

use rusty_vp9::{BitReader, DecodedFrame, Error as DecodeError, FrameHeader, Vp9Decoder, parse_uncompressed_header};

use super::bits::Bits;
use super::embedded::{Access, Decoder, guarded};
use super::picture::{Chroma, Colour, Picture, Planes};
use super::stream::StreamHeader;
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// The most frames that one packet holds: eight layers or hidden frames.
const MAX_FRAMES: usize = 8;

/// A decoder that takes one packet and gives its picture, or none if all its frames are hidden.
pub(super) struct Vp9 {
    inner: Vp9Decoder,
    size: (usize, usize),
    colour: Colour,
    container_colour: Option<Colour>,
    max_pixels: u64,
}

impl Vp9 {
    pub(super) fn open(stream: &StreamHeader, limits: &MediaLimits) -> Self {
        let colour = Colour::UNKNOWN.or(stream.colour);
        Self {
            inner: Vp9Decoder::new(),
            size: (0, 0),
            colour,
            container_colour: stream.colour,
            max_pixels: limits.pixels,
        }
    }

    /// Refuses frames that are too large before the decoder allocates anything, and notes their colours.
    fn check(&mut self, frame: &[u8]) -> Result<()> {
        let Some(header) = header(frame)? else { return Ok(()) };
        let (width, height, limit) = (header.width, header.height, self.max_pixels);
        if u64::from(width) * u64::from(height) > limit {
            return Err(Error::input(format!("frames of {width}×{height} pixels are above the limit of {limit}")));
        }
        if let (true, Some(colour)) = (header.key_frame, colour(frame)) {
            self.colour = colour.or(self.container_colour);
        }
        Ok(())
    }
}

impl Vp9 {
    /// Decodes every frame of a packet; the decoder hands over at most the last that is shown.
    fn decode_all(&mut self, packet: &[u8]) -> std::result::Result<Option<DecodedFrame>, DecodeError> {
        self.inner.push(packet, None)?;
        let mut shown = None;
        for _ in 0..MAX_FRAMES {
            // A hidden frame answers as an empty queue does.
            match self.inner.next_frame() {
                Ok(frame) => shown = Some(frame),
                Err(DecodeError::Again) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(shown)
    }
}

impl Decoder for Vp9 {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    /// No frame is disposable: each may change probabilities, motion and segments that the next starts from.
    fn access(&self, packet: &[u8]) -> Access {
        let first = frames(packet).ok().and_then(|frames| frames.first().copied()).unwrap_or_default();
        match header(first) {
            Ok(Some(header)) if header.key_frame && !header.show_existing_frame => Access::Independent,
            _ => Access::Dependent,
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.inner = Vp9Decoder::new();
        Ok(())
    }

    fn decode(&mut self, packet: &[u8]) -> Result<Option<Picture>> {
        frames(packet)?.into_iter().try_for_each(|frame| self.check(frame))?;
        let decoded = guarded(|| self.decode_all(packet));
        if !matches!(decoded, Ok(Ok(_))) {
            // What is left of the packet must not be taken for the next one's.
            self.inner = Vp9Decoder::new();
        }
        let Some(frame) = decoded?.map_err(broken)? else { return Ok(None) };
        self.size = (frame.width as usize, frame.height as usize);
        picture(frame, self.colour).map(Some)
    }
}

/// The frames of a packet: one, or those of a superframe, whose index stands at its end (annex B).
///
/// # Errors
/// An index whose sizes exceed the packet: the decoder would take frames from it that nobody has looked at.
fn frames(packet: &[u8]) -> Result<Vec<&[u8]>> {
    let Some((rest, index, bytes)) = superframe_index(packet) else { return Ok(vec![packet]) };
    let mut rest = rest;
    let mut frames = Vec::new();
    for size in index.chunks_exact(bytes) {
        let size = size.iter().rev().fold(0, |size, &byte| size << 8 | usize::from(byte));
        let Some((frame, after)) = rest.split_at_checked(size) else {
            return Err(Error::input("the VP9 data is broken: its packets are smaller than the frames in them"));
        };
        frames.push(frame);
        rest = after;
    }
    Ok(frames)
}

/// What stands before a superframe's index, its sizes, and the bytes of each.
fn superframe_index(packet: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let marker = *packet.last().filter(|&&marker| marker & 0xE0 == 0xC0)?;
    let (count, bytes) = (usize::from(marker & 7) + 1, usize::from(marker >> 3 & 3) + 1);
    let (rest, index) = packet.split_at_checked(packet.len().checked_sub(2 + count * bytes)?)?;
    Some((rest, index.strip_prefix(&[marker])?.get(..count * bytes)?, bytes))
}

/// A frame's header; none for a frame of no bytes, which is skipped.
fn header(frame: &[u8]) -> Result<Option<FrameHeader>> {
    if frame.is_empty() {
        return Ok(None);
    }
    guarded(|| parse_uncompressed_header(&mut BitReader::new(frame), &[(0, 0); 8]))?.map(Some).map_err(broken)
}

/// The colours that a key frame declares (`color_config` in 6.2): its numbers are not H.273's.
fn colour(frame: &[u8]) -> Option<Colour> {
    let mut bits = Bits::at(frame, 2);
    let profile = bits.bit()? | bits.bit()? << 1;
    bits.skip(if profile == 3 { 1 } else { 0 } + 4 + 24);
    if profile >= 2 {
        bits.skip(1);
    }
    let space = bits.number(3)?;
    let matrix = match space {
        1 => 5,
        2 => 1,
        3 => 6,
        4 => 7,
        5 => 9,
        7 => 0,
        _ => Colour::UNSPECIFIED,
    };
    Some(Colour { matrix, full_range: space == 7 || bits.flag()? })
}

fn broken(error: DecodeError) -> Error {
    Error::input(format!("the VP9 data is broken or of a kind not decoded here: {error}")).caused_by(error)
}

fn picture(frame: DecodedFrame, colour: Colour) -> Result<Picture> {
    let chroma = match (frame.subsampling_x, frame.subsampling_y) {
        (1, 1) => Chroma::Yuv420,
        (1, 0) => Chroma::Yuv422,
        (0, 1) => Chroma::Yuv440,
        _ => Chroma::Yuv444,
    };
    let planes: [Vec<u8>; 3] =
        frame.planes.try_into().map_err(|_| Error::input("the VP9 decoder gave other than three planes"))?;
    let planes = if frame.bit_depth > 8 { Planes::from_pairs(&planes) } else { Planes::Byte(planes) };
    let (width, height) = (frame.width as usize, frame.height as usize);
    Picture { width, height, depth: frame.bit_depth, chroma, planes, colour }.checked()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superframe_is_split_by_its_index() {
        assert_eq!(frames(&[1, 2, 3]).unwrap(), [&[1, 2, 3]]);
        // Two frames of 2 and 1 bytes, sizes of one byte.
        assert_eq!(frames(&[1, 2, 3, 0xC1, 2, 1, 0xC1]).unwrap(), [&[1, 2][..], &[3]]);
        // Sizes that exceed the packet would let frames through unseen.
        assert!(frames(&[1, 0xC1, 2, 1, 0xC1]).is_err());
    }

    #[test]
    fn colours_of_a_key_frame_are_translated() {
        // Marker 2, profile 0, a shown key frame, sync code, BT.709, full range.
        assert_eq!(colour(&[0x82, 0x49, 0x83, 0x42, 0b0101_0000]), Some(Colour { matrix: 1, full_range: true }));
        assert_eq!(colour(&[0x82, 0x49, 0x83, 0x42, 0b0010_0000]), Some(Colour { matrix: 5, full_range: false }));
        assert_eq!(colour(&[0x82]), None);
    }
}
