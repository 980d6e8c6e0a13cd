//! TIFF files whose samples are palette indices or inks, which the `image` crate does not read as Pillow does.
//!
//! Their first directory is made to say that the samples are grey or RGBA, so that they come as they are stored; what
//! they mean is applied afterwards.

use std::borrow::Cow;

use super::jpeg;

const BITS_PER_SAMPLE: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const SAMPLES_PER_PIXEL: u16 = 277;
const COLOUR_MAP: u16 = 320;

/// Values of `PhotometricInterpretation`.
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const SEPARATED: u16 = 5;

/// JPEG inside TIFF: its decoder has converted the colours already.
const JPEG: u16 = 7;

/// What stored samples mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What the decoder makes of them.
    Plain,
    /// Indices of these colours; the decoder spreads samples of one bit over 0 to 255.
    Palette(Vec<[u8; 3]>),
    /// Cyan, magenta, yellow and black.
    Inks,
}

/// The file as the decoder is to see it, and what its samples then mean.
pub(super) fn reinterpret(data: &[u8]) -> (Cow<'_, [u8]>, Meaning) {
    match find_meaning(data) {
        Some((at, kind, meaning)) => {
            let mut changed = data.to_vec();
            changed[at..at + 2].copy_from_slice(&kind);
            (Cow::Owned(changed), meaning)
        }
        None => (Cow::Borrowed(data), Meaning::Plain),
    }
}

/// Where the interpretation stands, what to write there, and what it meant. `None` where nothing is to be changed.
fn find_meaning(data: &[u8]) -> Option<(usize, [u8; 2], Meaning)> {
    let file = Directory::read(data)?;
    if file.value(COMPRESSION) == Some(JPEG) {
        return None;
    }
    let samples = file.value(SAMPLES_PER_PIXEL).unwrap_or(1);
    let (kind, meaning) = match (file.value(PHOTOMETRIC)?, samples) {
        (PALETTE, 1) => (BLACK_IS_ZERO, Meaning::Palette(file.palette()?)),
        (SEPARATED, 4) => (RGB, Meaning::Inks),
        _ => return None,
    };
    Some((file.find(PHOTOMETRIC)? + 8, file.bytes(kind), meaning))
}

impl Meaning {
    /// RGB of samples that came as `channels` per pixel.
    pub(super) fn to_rgb(&self, samples: &[u8], channels: usize) -> Option<Vec<u8>> {
        match (self, channels) {
            (Self::Palette(colours), 1) => {
                let step = if colours.len() == 2 { 255 } else { 1 };
                let colour = |&index: &u8| colours.get(usize::from(index / step)).copied().unwrap_or_default();
                Some(samples.iter().flat_map(colour).collect())
            }
            (Self::Inks, 4) => {
                let pixel = |&[c, m, y, k]: &[u8; 4]| [c, m, y].map(|ink| jpeg::under_black(255 - ink, 255 - k));
                Some(samples.as_chunks().0.iter().flat_map(pixel).collect())
            }
            _ => None,
        }
    }
}

/// The first directory of a TIFF file.
struct Directory<'a> {
    data: &'a [u8],
    little: bool,
    start: usize,
    entries: usize,
}

impl<'a> Directory<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let mut this = Self { data, little: data.starts_with(b"II"), start: 0, entries: 0 };
        let at = this.long(4)? as usize;
        this.entries = usize::from(this.short(at)?);
        this.start = at.checked_add(2)?;
        Some(this)
    }

    /// Where an entry of twelve bytes begins: tag, type, count, and the value where it fits, else its place.
    fn find(&self, tag: u16) -> Option<usize> {
        (0..self.entries).map(|index| self.start + 12 * index).find(|&at| self.short(at) == Some(tag))
    }

    /// The first number of an entry of 16 bits.
    fn value(&self, tag: u16) -> Option<u16> {
        self.short(self.find(tag)? + 8)
    }

    /// The colours of indices of 1 or 8 bits: all reds, greens and blues in 16 bits, of which Pillow keeps the high byte.
    fn palette(&self) -> Option<Vec<[u8; 3]>> {
        let colours = match self.value(BITS_PER_SAMPLE).unwrap_or(1) {
            1 => 2,
            8 => 256,
            _ => return None,
        };
        let entry = self.find(COLOUR_MAP)?;
        if self.long(entry + 4)? as usize != 3 * colours {
            return None;
        }
        let start = self.long(entry + 8)? as usize;
        let level = |plane: usize, index: usize| {
            self.short(start.checked_add(2 * (plane * colours + index))?).map(|level| (level >> 8) as u8)
        };
        (0..colours).map(|index| Some([level(0, index)?, level(1, index)?, level(2, index)?])).collect()
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn bytes(&self, value: u16) -> [u8; 2] {
        if self.little { value.to_le_bytes() } else { value.to_be_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inks_darken_white_as_pillow_has_it() {
        // Pillow: Image.new("CMYK", (1, 1), inks).convert("RGB").
        for (inks, rgb) in
            [([0, 0, 0, 0], [255; 3]), ([255, 0, 128, 0], [0, 255, 127]), ([10, 200, 30, 90], [159, 36, 146])]
        {
            assert_eq!(Meaning::Inks.to_rgb(&inks, 4).unwrap(), rgb);
        }
    }

    #[test]
    fn a_directory_outside_the_file_changes_nothing() {
        for data in [
            &b"II*\0"[..],
            b"II*\0\xFF\xFF\xFF\xFF",
            b"MM\0*\0\0\0\x08\xFF\xFF",
            b"MM\0*\0\0\0\x08\0\x01\x01\x06\0\x03",
        ] {
            assert_eq!(reinterpret(data), (Cow::Borrowed(data), Meaning::Plain));
        }
    }
}
