//! The frame header: size, components and their sampling.

use super::broken;
use super::color::ColorSpace;
use crate::{Error, Result};

/// Blocks are 8×8 samples.
pub(super) const BLOCK: usize = 8;
/// libjpeg's `JPEG_MAX_DIMENSION`.
const MAX_DIMENSION: usize = 65500;

/// What the frame header says of one component.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Horizontal sampling factor, 1 to 4.
    pub(super) h: usize,
    /// Vertical sampling factor, 1 to 4.
    pub(super) v: usize,
    /// Which quantisation table it uses.
    pub(super) quantisation: usize,
    /// Samples across and down that matter.
    pub(super) size: (usize, usize),
    /// Blocks across and down that hold those samples.
    pub(super) blocks: (usize, usize),
    /// Blocks across and down with the padding to whole MCUs.
    pub(super) padded: (usize, usize),
}

/// The frame header.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// Largest sampling factors.
    pub(super) max: (usize, usize),
    /// MCUs across and down of an interleaved scan.
    pub(super) mcus: (usize, usize),
}

impl Frame {
    /// Reads the payload of start-of-frame marker `marker` (libjpeg's `get_sof` and `initial_setup`).
    pub(super) fn parse(marker: u8, payload: &[u8]) -> Result<Self> {
        let coding = match marker {
            0xC0..=0xC2 => None,
            0xC3 | 0xC5..=0xC7 => Some("lossless or hierarchical"),
            _ => Some("arithmetic"),
        };
        if let Some(coding) = coding {
            return Err(Error::input(format!(
                "{coding} JPEG coding is not supported; convert to baseline JPEG or PNG"
            )));
        }
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = payload else {
            return Err(broken("the frame header is too short"));
        };
        if precision != 8 {
            return Err(Error::input(format!("JPEG of {precision} bits a sample is not supported; convert to 8 bits")));
        }
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        if width == 0 || height == 0 || width > MAX_DIMENSION || height > MAX_DIMENSION {
            return Err(broken(format!("the frame header says {width}x{height}; each must be 1 to {MAX_DIMENSION}")));
        }
        if rest.len() != 3 * usize::from(count) || !matches!(count, 1 | 3 | 4) {
            return Err(broken(format!("the frame header has {count} components in {} bytes", rest.len())));
        }
        Self::with_components(marker == 0xC2, (width, height), rest)
    }

    fn with_components(progressive: bool, (width, height): (usize, usize), specs: &[u8]) -> Result<Self> {
        let factors = specs.chunks_exact(3).map(|spec| (usize::from(spec[1] >> 4), usize::from(spec[1] & 15)));
        if factors.clone().any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(broken("a sampling factor lies outside 1 to 4"));
        }
        let max = factors.clone().fold((1, 1), |max, (h, v)| (max.0.max(h), max.1.max(v)));
        if factors.clone().any(|(h, v)| max.0 % h != 0 || max.1 % v != 0) {
            return Err(Error::input("JPEG of fractional sampling ratios is not supported; convert to 4:2:0"));
        }
        let mcus = (width.div_ceil(max.0 * BLOCK), height.div_ceil(max.1 * BLOCK));
        let component = |(spec, (h, v)): (&[u8], (usize, usize))| {
            let size = ((width * h).div_ceil(max.0), (height * v).div_ceil(max.1));
            Component {
                id: spec[0],
                h,
                v,
                quantisation: usize::from(spec[2]),
                size,
                blocks: (size.0.div_ceil(BLOCK), size.1.div_ceil(BLOCK)),
                padded: (mcus.0 * h, mcus.1 * v),
            }
        };
        let components = specs.chunks_exact(3).zip(factors.clone()).map(component).collect();
        Ok(Self { progressive, width, height, components, max, mcus })
    }

    /// Blocks that the file must code at least once.
    pub(super) fn blocks(&self) -> usize {
        self.components.iter().map(|component| component.blocks.0 * component.blocks.1).sum()
    }

    /// How the components are to be read: libjpeg's guess in `default_decompress_parms`.
    pub(super) fn color_space(&self, jfif: bool, adobe: Option<u8>) -> ColorSpace {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        match (self.components.len(), jfif, adobe) {
            (1, ..) => ColorSpace::Grey,
            (3, true, _) => ColorSpace::YCbCr,
            (3, false, Some(0)) => ColorSpace::Rgb,
            (3, false, None) if ids == *b"RGB" => ColorSpace::Rgb,
            (3, ..) => ColorSpace::YCbCr,
            (_, _, None | Some(0)) => ColorSpace::Cmyk,
            _ => ColorSpace::Ycck,
        }
    }
}
