//! Decoded pictures before their conversion to RGB.

use crate::media::Image;
use crate::{Error, Result};

/// How a stream codes colour: H.273's `MatrixCoefficients`, and whether luma spans 0–255 or 16–235.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) matrix: u8,
    pub(super) full_range: bool,
}

impl Colour {
    /// `MatrixCoefficients` of a stream that does not say; BT.601 is assumed, as in swscale.
    pub(super) const UNSPECIFIED: u8 = 2;
    pub(super) const BT601: u8 = 5;
    /// Of planes that are green, blue and red.
    pub(super) const IDENTITY: u8 = 0;
    pub(super) const UNKNOWN: Self = Self { matrix: Self::UNSPECIFIED, full_range: false };

    /// What a codec says, completed by what the container says (libavcodec's decoders set only what they know).
    pub(super) fn or(self, container: Option<Self>) -> Self {
        let Some(container) = container else { return self };
        Self {
            matrix: if self.matrix == Self::UNSPECIFIED { container.matrix } else { self.matrix },
            full_range: self.full_range || container.full_range,
        }
    }
}

/// Which luma samples share a chroma sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// Two across, two down.
    Yuv420,
    /// Two across.
    Yuv422,
    /// Two down.
    Yuv440,
    /// None. With the identity matrix, the planes are green, blue and red.
    Yuv444,
    /// There are no chroma samples.
    Grey,
}

impl Chroma {
    /// Samples across and down that share a chroma sample, as shifts.
    pub(super) fn shifts(self) -> (u32, u32) {
        match self {
            Self::Yuv420 => (1, 1),
            Self::Yuv422 => (1, 0),
            Self::Yuv440 => (0, 1),
            Self::Yuv444 | Self::Grey => (0, 0),
        }
    }

    /// Samples of one chroma plane of a picture.
    pub(super) fn plane_len(self, width: usize, height: usize) -> usize {
        let (across, down) = self.shifts();
        if self == Self::Grey { 0 } else { width.div_ceil(1 << across) * height.div_ceil(1 << down) }
    }
}

/// The planes Y, U, V (or G, B, R), each row-major without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Planes {
    /// Of 8 bits.
    Byte([Vec<u8>; 3]),
    /// Of 9 to 16 bits.
    Wide([Vec<u16>; 3]),
}

impl Planes {
    /// Samples of two bytes each, the lower first.
    pub(super) fn from_pairs(planes: &[Vec<u8>; 3]) -> Self {
        let wide = |plane: &Vec<u8>| plane.as_chunks().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect();
        let [y, u, v] = planes;
        Self::Wide([wide(y), wide(u), wide(v)])
    }

    fn lens(&self) -> [usize; 3] {
        match self {
            Self::Byte(planes) => [planes[0].len(), planes[1].len(), planes[2].len()],
            Self::Wide(planes) => [planes[0].len(), planes[1].len(), planes[2].len()],
        }
    }

    /// Brings both chroma planes to `len` samples, the missing ones without colour.
    pub(super) fn with_grey_chroma(mut self, len: usize, depth: u32) -> Self {
        match &mut self {
            Self::Byte([_, u, v]) => [u, v].into_iter().for_each(|plane| plane.resize(len, 128)),
            Self::Wide([_, u, v]) => {
                let middle = 1 << depth.saturating_sub(1).min(15);
                [u, v].into_iter().for_each(|plane| plane.resize(len, middle));
            }
        }
        self
    }
}

/// A planar picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits of a sample.
    pub(super) depth: u32,
    pub(super) chroma: Chroma,
    pub(super) planes: Planes,
    pub(super) colour: Colour,
}

impl Picture {
    /// The picture, if its planes have the sizes that the rest says.
    pub(super) fn checked(self) -> Result<Self> {
        let chroma = self.chroma.plane_len(self.width, self.height);
        let expected = [self.width * self.height, chroma, chroma];
        let found = self.planes.lens();
        let depth_fits = match self.planes {
            Planes::Byte(_) => self.depth == 8,
            Planes::Wide(_) => (9..=16).contains(&self.depth),
        };
        if found != expected || expected[0] == 0 || !depth_fits {
            let (width, height, depth) = (self.width, self.height, self.depth);
            return Err(Error::input(format!(
                "its decoder gave planes of {found:?} samples for {width}×{height} pixels of {depth} bits"
            )));
        }
        Ok(self)
    }
}

/// The image turned clockwise by 0, 90, 180 or 270 degrees.
pub(super) fn rotate(image: Image, degrees: u16) -> Image {
    let (width, height) = (image.width, image.height);
    // Where a turned image's pixel (row, column) comes from.
    let source: fn(usize, usize, usize, usize) -> (usize, usize) = match degrees {
        90 => |row, column, _, height| (height - 1 - column, row),
        180 => |row, column, width, height| (height - 1 - row, width - 1 - column),
        270 => |row, column, width, _| (column, width - 1 - row),
        _ => return image,
    };
    let (turned_width, turned_height) = if degrees == 180 { (width, height) } else { (height, width) };
    let mut rgb = Vec::with_capacity(image.rgb.len());
    for row in 0..turned_height {
        for column in 0..turned_width {
            let (from_row, from_column) = source(row, column, width, height);
            let at = (from_row * width + from_column) * 3;
            rgb.extend_from_slice(&image.rgb[at..at + 3]);
        }
    }
    Image { width: turned_width, height: turned_height, rgb }
}

/// A size as shown after a turn of `degrees`.
pub(super) fn rotated_size(width: usize, height: usize, degrees: u16) -> (usize, usize) {
    if degrees % 180 == 90 { (height, width) } else { (width, height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, grey: &[u8]) -> Image {
        Image { width, height, rgb: grey.iter().flat_map(|&value| [value; 3]).collect() }
    }

    #[test]
    fn turning_is_clockwise() {
        // 1 2 3
        // 4 5 6
        let upright = image(3, 2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(rotate(upright.clone(), 90), image(2, 3, &[4, 1, 5, 2, 6, 3]));
        assert_eq!(rotate(upright.clone(), 180), image(3, 2, &[6, 5, 4, 3, 2, 1]));
        assert_eq!(rotate(upright.clone(), 270), image(2, 3, &[3, 6, 2, 5, 1, 4]));
        assert_eq!(rotate(upright.clone(), 0), upright);
    }
}
