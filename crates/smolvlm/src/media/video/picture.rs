//! Decoded pictures before their conversion to RGB.

use crate::media::Image;

/// How a stream codes colour: H.273's `MatrixCoefficients`, and whether luma spans 0–255 or 16–235.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) matrix: u8,
    pub(super) full_range: bool,
}

impl Colour {
    /// `MatrixCoefficients` of a stream that does not say; BT.601 is assumed, as in swscale.
    pub(super) const UNSPECIFIED: u8 = 2;
}

/// Which luma samples share a chroma sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// Two across, two down.
    Yuv420,
    /// Two across.
    Yuv422,
}

/// A planar picture of 8-bit samples, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height, width]`.
    pub(super) y: Vec<u8>,
    /// `[height or height ÷ 2, width ÷ 2]`, rounded up.
    pub(super) u: Vec<u8>,
    /// As `u`.
    pub(super) v: Vec<u8>,
    pub(super) chroma: Chroma,
    pub(super) colour: Colour,
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
