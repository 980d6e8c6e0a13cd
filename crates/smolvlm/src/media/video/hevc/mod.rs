//! HEVC in length-prefixed samples (ISO/IEC 14496-15), decoded by the crate `rust_h265`.

mod parameters;

use rust_h265::{DecodeLimits, Decoder as Inner, Frame, PixelData, parse_hvcc};

use super::bits::{Units, unescape};
use super::bytes::Fields;
use super::embedded::{Access, Decoder, guarded};
use super::picture::{Chroma, Colour, Picture, Planes};
use super::stream::StreamHeader;
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// What one picture's decoding may take: a picture at the highest level, with its state.
const MAX_PICTURE_BYTES: u64 = 1 << 30;

/// A decoder that takes one sample and gives its picture at once, in decode order.
pub(super) struct Hevc {
    inner: Inner,
    /// Parameter sets of `hvcC`, length-prefixed as in a sample.
    parameter_sets: Vec<u8>,
    length_size: usize,
    /// Temporal layers, 0 if the container does not say.
    layers: u8,
    size: (usize, usize),
    colour: Colour,
    container_colour: Option<Colour>,
    limits: DecodeLimits,
}

impl Hevc {
    pub(super) fn open(stream: &StreamHeader, limits: &MediaLimits) -> Result<Self> {
        let config = Config::read(&stream.config)
            .ok_or_else(|| Error::input("its HEVC configuration (`hvcC`) is missing or broken"))?;
        let mut picture_limits = DecodeLimits::default();
        picture_limits.max_picture_pixels = limits.pixels.min(picture_limits.max_picture_pixels);
        picture_limits.max_picture_memory_bytes = MAX_PICTURE_BYTES;
        let mut this = Self {
            inner: Inner::with_limits(picture_limits),
            parameter_sets: config.parameter_sets,
            length_size: config.length_size,
            layers: config.layers,
            size: (0, 0),
            colour: Colour::UNKNOWN.or(stream.colour),
            container_colour: stream.colour,
            limits: picture_limits,
        };
        this.restart()?;
        Ok(this)
    }

    fn feed(&mut self, sample: &[u8]) -> Result<Option<Frame>> {
        for unit in Units::new(sample, self.length_size).filter(|unit| kind(unit) == SPS) {
            let Some(parameters) = parameters::read(&unescape(&unit[2..])) else { continue };
            if !parameters.is_even {
                return Err(Error::input("HEVC with different bit depths of luma and chroma is not decoded here"));
            }
            self.colour = parameters.colour.or(self.container_colour);
        }
        guarded(|| {
            let mut last = None;
            for unit in parse_hvcc(sample, self.length_size as u8).iter().filter(|unit| unit.nuh_layer_id == 0) {
                last = self.inner.decode_nal(unit).map_err(broken)?.or(last);
            }
            // Samples are whole access units, so nothing can still be missing from the picture.
            while let Some(frame) = self.inner.flush() {
                last = Some(frame);
            }
            Ok(last)
        })?
    }
}

impl Decoder for Hevc {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn access(&self, sample: &[u8]) -> Access {
        let Some(unit) = Units::new(sample, self.length_size).find(|unit| kind(unit) < 32) else {
            return Access::Dependent;
        };
        let layer = unit.get(1).map_or(0, |byte| byte & 7).saturating_sub(1);
        match kind(unit) {
            BLA_FIRST..=IDR_LAST => Access::Independent,
            CRA => Access::Recovery,
            // Not referred to within its own temporal layer; higher ones may refer to it.
            kind if kind < 16 && kind % 2 == 0 && self.layers > 0 && layer + 1 >= self.layers => Access::Disposable,
            _ => Access::Dependent,
        }
    }

    fn is_skipped(&self, sample: &[u8]) -> bool {
        Units::new(sample, self.length_size).any(|unit| matches!(kind(unit), RASL_N | RASL_R))
    }

    fn restart(&mut self) -> Result<()> {
        self.inner = Inner::with_limits(self.limits);
        let sets = std::mem::take(&mut self.parameter_sets);
        let fed = self.feed(&sets);
        self.parameter_sets = sets;
        fed.map(|_| ())
    }

    fn decode(&mut self, sample: &[u8]) -> Result<Option<Picture>> {
        let Some(frame) = self.feed(sample)? else { return Ok(None) };
        let picture = picture(frame, self.colour)?;
        self.size = (picture.width, picture.height);
        Ok(Some(picture))
    }
}

const RASL_N: u8 = 8;
const RASL_R: u8 = 9;
const BLA_FIRST: u8 = 16;
const IDR_LAST: u8 = 20;
const CRA: u8 = 21;
const SPS: u8 = 33;

/// `nal_unit_type`; of what is too short for a header, one that nobody looks for.
fn kind(unit: &[u8]) -> u8 {
    if unit.len() < 2 { 63 } else { unit[0] >> 1 & 0x3F }
}

/// What matters of `hvcC` (ISO/IEC 14496-15, 8.3.3.1).
struct Config {
    length_size: usize,
    layers: u8,
    parameter_sets: Vec<u8>,
}

impl Config {
    fn read(config: &[u8]) -> Option<Self> {
        let mut fields = Fields(config);
        fields.skip(21)?;
        let packed = fields.u8()?;
        let length_size = usize::from(packed & 3) + 1;
        let mut parameter_sets = Vec::new();
        for _ in 0..fields.u8()? {
            fields.skip(1)?;
            for _ in 0..fields.u16()? {
                let length = usize::from(fields.u16()?);
                let unit = fields.take(length)?;
                parameter_sets.extend_from_slice(&(length as u32).to_be_bytes()[4 - length_size..]);
                parameter_sets.extend_from_slice(unit);
            }
        }
        Some(Self { length_size, layers: packed >> 3 & 7, parameter_sets })
    }
}

fn broken(error: rust_h265::DecodeError) -> Error {
    Error::input(format!("the HEVC data is broken or of a kind not decoded here: {error}")).caused_by(error)
}

fn picture(frame: Frame, colour: Colour) -> Result<Picture> {
    let chroma = match frame.chroma_format_idc {
        0 => Chroma::Grey,
        1 => Chroma::Yuv420,
        2 => Chroma::Yuv422,
        _ => Chroma::Yuv444,
    };
    let planes = match (frame.y, frame.u, frame.v) {
        (PixelData::U8(y), PixelData::U8(u), PixelData::U8(v)) => Planes::Byte([y, u, v]),
        (PixelData::U16(y), PixelData::U16(u), PixelData::U16(v)) => Planes::Wide([y, u, v]),
        _ => return Err(Error::input("HEVC with different bit depths of luma and chroma is not decoded here")),
    };
    let (width, height) = (frame.width as usize, frame.height as usize);
    Picture { width, height, depth: frame.bit_depth.into(), chroma, planes, colour }.checked()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_with_its_parameter_sets() {
        let mut config = vec![1; 21];
        // One temporal layer, 4-byte lengths; one array with one unit of three bytes.
        config.extend_from_slice(&[0b0000_1111, 1, 33, 0, 1, 0, 3, 0x42, 1, 7]);
        let read = Config::read(&config).unwrap();
        assert_eq!((read.length_size, read.layers), (4, 1));
        assert_eq!(read.parameter_sets, [0, 0, 0, 3, 0x42, 1, 7]);
        assert!(Config::read(&config[..config.len() - 1]).is_none());
    }
}
