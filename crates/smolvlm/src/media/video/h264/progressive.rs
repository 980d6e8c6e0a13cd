//! The faster of the two decoders (crate `rusty_h264-decoder`), for the streams it takes: progressive 8-bit 4:2:0.

use rusty_h264_decoder::Decoder;

use super::super::embedded::guarded;
use super::super::picture::{Chroma, Colour, Picture, Planes};
use crate::{Error, Result};

/// Takes the NAL units of one sample and gives its picture at once.
pub(super) struct Progressive {
    inner: Decoder,
    /// The sample with start codes, as the decoder wants it.
    annex_b: Vec<u8>,
}

impl Progressive {
    pub(super) fn new() -> Self {
        Self { inner: Decoder::new(), annex_b: Vec::new() }
    }

    pub(super) fn decode<'u>(
        &mut self,
        units: impl Iterator<Item = &'u [u8]>,
        colour: Colour,
    ) -> Result<Option<Picture>> {
        self.annex_b.clear();
        for unit in units {
            self.annex_b.extend_from_slice(&[0, 0, 1]);
            self.annex_b.extend_from_slice(unit);
        }
        let decoded = guarded(|| self.inner.decode(&self.annex_b))?;
        let decoded = decoded.map_err(|error| Error::input(format!("the H.264 data is broken: {error}")))?;
        let Some(frame) = decoded else { return Ok(None) };
        let planes = Planes::Byte([frame.y, frame.u, frame.v]);
        let (width, height, chroma) = (frame.width, frame.height, Chroma::Yuv420);
        Picture { width, height, depth: 8, chroma, planes, colour }.checked().map(Some)
    }
}
