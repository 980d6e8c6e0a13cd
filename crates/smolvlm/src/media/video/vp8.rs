//! VP8 (RFC 6386), decoded by the crate `oxideav-vp8`.

use oxideav_vp8::coded_header::Vp8CodedHeader;
use oxideav_vp8::frame_header::Vp8FrameHeader;
use oxideav_vp8::state::Vp8DecoderState;

use super::embedded::{Access, Decoder, guarded};
use super::picture::{Chroma, Colour, Picture, Planes};
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// Bytes before the first partition of a key frame (9.1).
const KEY_HEADER: usize = 10;

/// A decoder that takes one frame and gives its picture, or none if it is hidden.
pub(super) struct Vp8 {
    inner: Vp8DecoderState,
    size: (usize, usize),
    full_range: bool,
    max_pixels: u64,
}

impl Vp8 {
    pub(super) fn open(limits: &MediaLimits) -> Self {
        Self { inner: fresh(limits.pixels), size: (0, 0), full_range: false, max_pixels: limits.pixels }
    }

    /// Notes what a key frame says of size and range, before the decoder allocates anything.
    fn note(&mut self, header: &Vp8FrameHeader, frame: &[u8]) -> Result<()> {
        let (width, height) = (usize::from(header.width.unwrap_or(0)), usize::from(header.height.unwrap_or(0)));
        let (pixels, limit) = (width as u64 * height as u64, self.max_pixels);
        if pixels == 0 || pixels > limit {
            return Err(Error::input(format!("frames of {width}×{height} pixels are outside 1 to {limit} pixels")));
        }
        self.size = (width, height);
        let coded = Vp8CodedHeader::parse(frame.get(KEY_HEADER..).unwrap_or_default(), true);
        // Values are not clamped where they span the full range (libavcodec/vp8.c: vp8_decode_frame_header).
        self.full_range = coded.is_ok_and(|coded| coded.clamping_type == Some(true));
        Ok(())
    }
}

fn fresh(max_pixels: u64) -> Vp8DecoderState {
    Vp8DecoderState::new().with_max_pixels_per_frame(max_pixels)
}

impl Decoder for Vp8 {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    /// No frame is disposable: each changes the probabilities that the next starts from.
    fn access(&self, frame: &[u8]) -> Access {
        match frame.first() {
            Some(tag) if tag & 1 == 0 => Access::Independent,
            _ => Access::Dependent,
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.inner = fresh(self.max_pixels);
        Ok(())
    }

    fn decode(&mut self, frame: &[u8]) -> Result<Option<Picture>> {
        let broken = |error: String| Error::input(format!("the VP8 data is broken: {error}"));
        let header = guarded(|| Vp8FrameHeader::parse(frame))?.map_err(|error| broken(error.to_string()))?;
        if header.key_frame {
            guarded(|| self.note(&header, frame))??;
        }
        let decoded = guarded(|| self.inner.decode_frame(frame))?.map_err(|error| broken(error.to_string()))?;
        if !header.show_frame {
            return Ok(None);
        }
        let (width, height) = (decoded.width as usize, decoded.height as usize);
        let planes = Planes::Byte([decoded.y, decoded.u, decoded.v]);
        let colour = Colour { matrix: Colour::BT601, full_range: self.full_range };
        Picture { width, height, depth: 8, chroma: Chroma::Yuv420, planes, colour }.checked().map(Some)
    }
}
