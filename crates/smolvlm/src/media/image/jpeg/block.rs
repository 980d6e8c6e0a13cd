//! The entropy-coded form of one 8×8 block, sequential and progressive (`jdhuff.c`, `jdphuff.c`).

use super::bits::Bits;
use super::broken;
use super::huffman::{CombinedTable, HuffmanTable};
use crate::Result;

/// The 64 coefficients of a block in natural (row-major) order.
pub(super) use smolvlm_kernels::jpeg::Block;

/// Natural position of each coefficient in zigzag order.
#[rustfmt::skip]
pub(super) const NATURAL: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Position of zigzag index `k`. Runs past the end (broken data only) land on the last one, as in libjpeg.
#[inline]
pub(super) fn natural(k: usize) -> usize {
    usize::from(NATURAL[k.min(63)] & 63)
}

/// The coefficients a progressive scan carries.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// First zigzag index.
    pub(super) first: usize,
    /// Last zigzag index.
    pub(super) last: usize,
    /// Bit position the scan's values are scaled by.
    pub(super) low: u32,
}

/// All coefficients of a block of a sequential scan. `predicted` is the component's last DC value.
#[inline]
pub(super) fn sequential(
    bits: &mut Bits<'_, '_>,
    (dc, ac, combined): (&HuffmanTable, &HuffmanTable, &CombinedTable),
    predicted: &mut i32,
    block: &mut Block,
) -> Result<()> {
    block[0] = next_dc(bits, dc, predicted)? as i16;
    let mut k = 1;
    loop {
        k = bits.coefficients(combined, k, block);
        if k >= 64 {
            break;
        }
        bits.refill()?;
        let symbol = bits.symbol(ac);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size != 0 {
            k += run;
            block[natural(k)] = bits.signed(size) as i16;
        } else if run == 15 {
            k += 15;
        } else {
            break;
        }
        k += 1;
    }
    Ok(())
}

#[inline]
fn next_dc(bits: &mut Bits<'_, '_>, table: &HuffmanTable, predicted: &mut i32) -> Result<i32> {
    bits.refill()?;
    let size = u32::from(bits.symbol(table));
    let difference = bits.signed(size);
    *predicted = predicted.checked_add(difference).ok_or_else(|| broken("a DC coefficient overflows"))?;
    Ok(*predicted)
}

/// First scan of the DC coefficient.
pub(super) fn dc_first(
    bits: &mut Bits<'_, '_>,
    table: &HuffmanTable,
    predicted: &mut i32,
    low: u32,
    block: &mut Block,
) -> Result<()> {
    block[0] = (next_dc(bits, table, predicted)? << low) as i16;
    Ok(())
}

/// One more bit of the DC coefficient.
pub(super) fn dc_refine(bits: &mut Bits<'_, '_>, low: u32, block: &mut Block) -> Result<()> {
    if bits.bit()? {
        block[0] |= 1 << low;
    }
    Ok(())
}

/// First scan of a band of AC coefficients. `empty` counts the blocks to come that have none.
pub(super) fn ac_first(
    bits: &mut Bits<'_, '_>,
    table: &HuffmanTable,
    band: Band,
    empty: &mut u32,
    block: &mut Block,
) -> Result<()> {
    if *empty > 0 {
        *empty -= 1;
        return Ok(());
    }
    let mut k = band.first;
    while k <= band.last {
        bits.refill()?;
        let symbol = bits.symbol(table);
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size != 0 {
            k += run as usize;
            block[natural(k)] = (bits.signed(size) << band.low) as i16;
        } else if run == 15 {
            k += 15;
        } else {
            *empty = (1 << run) + bits.take(run) as u32 - 1;
            break;
        }
        k += 1;
    }
    Ok(())
}

/// One more bit of a band of AC coefficients, and those that become nonzero by it.
pub(super) fn ac_refine(
    bits: &mut Bits<'_, '_>,
    table: &HuffmanTable,
    band: Band,
    empty: &mut u32,
    block: &mut Block,
) -> Result<()> {
    let mut k = band.first;
    while *empty == 0 && k <= band.last {
        bits.refill()?;
        let symbol = bits.symbol(table);
        let (run, size) = (u32::from(symbol >> 4), symbol & 15);
        if size == 0 && run < 15 {
            *empty = (1 << run) + bits.take(run) as u32;
            break;
        }
        let new = match (size, size != 0 && bits.take(1) == 1) {
            (0, _) => 0,
            (_, true) => 1 << band.low,
            (_, false) => -1 << band.low,
        };
        k = skip_zeros(bits, band, k, run, block)?;
        if new != 0 {
            block[natural(k)] = new;
        }
        k += 1;
    }
    if *empty > 0 {
        skip_zeros(bits, band, k, u32::MAX, block)?;
        *empty -= 1;
    }
    Ok(())
}

/// Moves over `zeros` zero coefficients from `k`, refining the nonzero ones met, and stops at the next zero or just
/// past the band.
fn skip_zeros(bits: &mut Bits<'_, '_>, band: Band, mut k: usize, mut zeros: u32, block: &mut Block) -> Result<usize> {
    while k <= band.last {
        let coefficient = &mut block[natural(k)];
        if *coefficient != 0 {
            let bit = 1i16 << band.low;
            if bits.bit()? && *coefficient & bit == 0 {
                *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { bit } else { -bit });
            }
        } else if zeros == 0 {
            break;
        } else {
            zeros -= 1;
        }
        k += 1;
    }
    Ok(k)
}
