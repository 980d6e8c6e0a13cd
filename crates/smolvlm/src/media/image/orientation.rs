//! The EXIF orientation: which way up a stored picture is.

use super::super::Image;

/// How stored pixels become upright ones: transposed first, then mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orientation {
    transpose: bool,
    mirror_x: bool,
    mirror_y: bool,
}

const ORIENTATION_TAG: u16 = 0x0112;

impl Orientation {
    /// The value of the EXIF tag; anything but 2 to 8 leaves the picture as stored.
    pub(super) fn from_value(value: u16) -> Self {
        let (transpose, mirror_x, mirror_y) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => (false, false, false),
        };
        Self { transpose, mirror_x, mirror_y }
    }

    /// Finds the tag in the first directory of a TIFF structure; `fetch_exif_orientation` of torchcodec's `Exif.h`.
    pub(super) fn from_exif(tiff: &[u8]) -> Self {
        Self::from_value(find_tag(tiff).unwrap_or(1))
    }

    /// The upright size of a stored one.
    pub(super) fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Turns a stored picture upright.
    pub(super) fn apply(self, image: Image) -> Image {
        if self == Self::default() {
            return image;
        }
        let (width, height) = self.size((image.width, image.height));
        let stored = image.rgb.as_chunks::<3>().0;
        let mut rgb = Vec::with_capacity(image.rgb.len());
        for y in 0..height {
            let y = if self.mirror_y { height - 1 - y } else { y };
            for x in 0..width {
                let x = if self.mirror_x { width - 1 - x } else { x };
                let (row, column) = if self.transpose { (x, y) } else { (y, x) };
                rgb.extend_from_slice(&stored[row * image.width + column]);
            }
        }
        Image { width, height, rgb }
    }
}

fn find_tag(tiff: &[u8]) -> Option<u16> {
    let little = tiff.starts_with(b"II");
    let bytes = |at: usize, count: usize| tiff.get(at..at.checked_add(count)?);
    let short = |at: usize| {
        let bytes = bytes(at, 2)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = bytes(at, 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    if short(2)? != 42 {
        return None;
    }
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    // Entries are twelve bytes: tag, type, count, and the value itself where it fits.
    let entry =
        (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| short(at).is_none_or(|tag| tag == ORIENTATION_TAG));
    short(entry? + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_orientation_moves_the_first_pixel_where_the_standard_says() {
        // Stored 3x2, its first pixel (row 0, column 0) marked. Where it is seen: top/bottom, left/right.
        let corners = [(1, 0, 0), (2, 0, 2), (3, 1, 2), (4, 1, 0), (5, 0, 0), (6, 0, 1), (7, 2, 1), (8, 2, 0)];
        for (value, row, column) in corners {
            let mut rgb = vec![0; 18];
            rgb[0] = 255;
            let upright = Orientation::from_value(value).apply(Image { width: 3, height: 2, rgb });
            let expected_size = if value < 5 { (3, 2) } else { (2, 3) };
            assert_eq!((upright.width, upright.height), expected_size);
            let marked = upright.rgb.iter().position(|&sample| sample == 255);
            assert_eq!(marked, Some((row * upright.width + column) * 3), "orientation {value}");
        }
    }

    #[test]
    fn the_tag_is_found_in_both_byte_orders_and_never_past_the_end() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
        assert_eq!(Orientation::from_exif(little), Orientation::from_value(6));
        assert_eq!(Orientation::from_exif(big), Orientation::from_value(6));
        for length in 0..20 {
            assert_eq!(Orientation::from_exif(&little[..length.min(18)]), Orientation::default());
        }
        let far = b"II*\0\xF0\xFF\xFF\xFF\x01\0";
        assert_eq!(Orientation::from_exif(far), Orientation::default());
    }
}
