//! What an HEVC sequence parameter set says of colours (ITU-T H.265, 7.3.2.2 and E.2.1). The decoder does not tell.

use super::super::bits::Bits;
use super::super::picture::Colour;

/// More sets of reference pictures than the standard allows are not read.
const MAX_SETS: u32 = 64;

/// What a set declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) colour: Colour,
    /// Whether luma and chroma have the same number of bits.
    pub(super) is_even: bool,
}

/// What a set (without its header and emulation prevention) declares. `None` if it is broken.
pub(super) fn read(rbsp: &[u8]) -> Option<Parameters> {
    let mut bits = Bits::at(rbsp, 4);
    let sub_layers = bits.number(3)?;
    bits.skip(1);
    skip_profile(&mut bits, sub_layers)?;
    bits.golomb()?;
    let chroma_format = bits.golomb()?;
    if chroma_format == 3 {
        bits.skip(1);
    }
    bits.golomb()?;
    bits.golomb()?;
    if bits.flag()? {
        golombs(&mut bits, 4)?;
    }
    let is_even = bits.golomb()? == bits.golomb()?;
    let order_bits = bits.golomb()?.checked_add(4)?;
    let levels = if bits.flag()? { sub_layers + 1 } else { 1 };
    golombs(&mut bits, 3 * levels + 6)?;
    if bits.flag()? && bits.flag()? {
        skip_scaling_lists(&mut bits)?;
    }
    bits.skip(2);
    if bits.flag()? {
        bits.skip(8);
        golombs(&mut bits, 2)?;
        bits.skip(1);
    }
    skip_reference_sets(&mut bits)?;
    if bits.flag()? {
        let count = bits.golomb()?.min(33);
        bits.skip((count * (order_bits.min(16) + 1)) as usize);
    }
    bits.skip(2);
    Some(Parameters { colour: usability(&mut bits)?, is_even })
}

/// The beginning of `vui_parameters()`.
fn usability(bits: &mut Bits<'_>) -> Option<Colour> {
    let mut colour = Colour::UNKNOWN;
    if !bits.flag()? {
        return Some(colour);
    }
    if bits.flag()? && bits.number(8)? == 255 {
        bits.skip(32);
    }
    if bits.flag()? {
        bits.skip(1);
    }
    if bits.flag()? {
        bits.skip(3);
        colour.full_range = bits.flag()?;
        if bits.flag()? {
            bits.skip(16);
            colour.matrix = bits.number(8)? as u8;
        }
    }
    Some(colour)
}

fn golombs(bits: &mut Bits<'_>, count: u32) -> Option<()> {
    (0..count).try_for_each(|_| bits.golomb().map(|_| ()))
}

/// `profile_tier_level()`.
fn skip_profile(bits: &mut Bits<'_>, sub_layers: u32) -> Option<()> {
    bits.skip(96);
    let mut parts = 0;
    for _ in 0..sub_layers {
        parts += if bits.flag()? { 88 } else { 0 };
        parts += if bits.flag()? { 8 } else { 0 };
    }
    if sub_layers > 0 {
        bits.skip(2 * (8 - sub_layers as usize));
    }
    bits.skip(parts);
    Some(())
}

/// `scaling_list_data()`.
fn skip_scaling_lists(bits: &mut Bits<'_>) -> Option<()> {
    for size in 0..4 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !bits.flag()? {
                bits.golomb()?;
                continue;
            }
            let numbers = 64.min(1 << (4 + 2 * size));
            golombs(bits, numbers + u32::from(size > 1))?;
        }
    }
    Some(())
}

/// All `st_ref_pic_set()`.
fn skip_reference_sets(bits: &mut Bits<'_>) -> Option<()> {
    let count = bits.golomb().filter(|&count| count <= MAX_SETS)?;
    let mut pictures = 0;
    for set in 0..count {
        if set > 0 && bits.flag()? {
            bits.skip(1);
            bits.golomb()?;
            let mut kept = 0;
            for _ in 0..=pictures {
                let is_kept = bits.flag()? || bits.flag()?;
                kept += u32::from(is_kept);
            }
            pictures = kept;
        } else {
            let (before, after) = (bits.golomb()?, bits.golomb()?);
            pictures = before.checked_add(after).filter(|&pictures| pictures <= 32)?;
            for _ in 0..pictures {
                bits.golomb()?;
                bits.skip(1);
            }
        }
    }
    Some(())
}
