//! What the header of a BMP file tells beyond the `image` crate's decoder.

/// `BI_RGB` and `BI_BITFIELDS`: every row is stored whole.
const UNCOMPRESSED: [u32; 2] = [0, 3];

/// The fields of a `BITMAPINFOHEADER`.
struct Header {
    bits: u16,
    compression: u32,
    /// Which bits hold green, where the file says.
    green: u32,
}

impl Header {
    /// `None` for the older header of 12 bytes.
    fn read(data: &[u8]) -> Option<Self> {
        let long = |at: usize| data.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
        let bits = u16::from_le_bytes(*data.get(28..)?.first_chunk()?);
        (long(14)? >= 40).then_some(Self { bits, compression: long(30)?, green: long(58).unwrap_or(0) })
    }
}

/// Whether the file is long enough for its picture, where rows are stored whole.
pub(super) fn holds(data: &[u8], width: usize, height: usize) -> bool {
    Header::read(data).filter(|header| UNCOMPRESSED.contains(&header.compression)).is_none_or(|header| {
        let row = (width as u64).saturating_mul(header.bits.into()).div_ceil(8);
        row.saturating_mul(height as u64) <= data.len() as u64
    })
}

/// Colours of 5 or 6 bits as Pillow spreads them over 0 to 255: `v × 255 ÷ 31` cut off, where the decoder rounds.
pub(super) fn cut_short_colours(data: &[u8], rgb: &mut [u8]) {
    let Some(header) = Header::read(data).filter(|header| header.bits == 16) else { return };
    let green_levels = if header.compression == 3 && header.green == 0x7E0 { 63 } else { 31 };
    for pixel in rgb.as_chunks_mut::<3>().0 {
        for (value, levels) in pixel.iter_mut().zip([31, green_levels, 31]) {
            let stored = (u32::from(*value) * levels + 127) / 255;
            *value = (stored * 255 / levels) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_bits_are_cut_not_rounded() {
        let mut data = vec![0; 70];
        (data[14], data[28]) = (40, 16);
        for stored in 0..32_u32 {
            let rounded = ((stored * 510 + 31) / 62) as u8;
            let mut pixel = [rounded; 3];
            cut_short_colours(&data, &mut pixel);
            assert_eq!(pixel, [(stored * 255 / 31) as u8; 3]);
        }
    }
}
