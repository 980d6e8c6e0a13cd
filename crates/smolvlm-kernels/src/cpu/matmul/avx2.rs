//! Tile products for AVX2 and FMA: four passes over a panel, each 16 outputs wide with 12 accumulators of 8 lanes.

#![allow(clippy::needless_range_loop, reason = "rows and columns address accumulators and memory alike")]

use std::arch::x86_64::*;

// Closures (as `array::from_fn` takes them) would not be inlined: the standard library's functions around them are not
// compiled for these instructions. So arrays are filled by loops here.
use super::{PANEL, Tile, TileKernels, per_row_count};

const LANES: usize = 8;
/// Outputs of one pass.
const WIDTH: usize = 2 * LANES;

pub(super) fn kernels() -> TileKernels {
    TileKernels {
        f32: per_row_count!(self::f32_rows),
        f32_widening: per_row_count!(self::f32_widening_rows),
        bf16: per_row_count!(self::bf16_rows),
    }
}

type Sums<const ROWS: usize> = [[__m256; 2]; ROWS];

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load<const ROWS: usize>(tile: &Tile, first: usize, add: bool) -> Sums<ROWS> {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    if add {
        for row in 0..ROWS {
            for half in 0..2 {
                // SAFETY: `first` is at most 48, so 16 numbers are left in the row.
                sums[row][half] = unsafe { _mm256_loadu_ps(tile[row].as_ptr().add(first + half * LANES)) };
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store<const ROWS: usize>(sums: &Sums<ROWS>, tile: &mut Tile, first: usize) {
    for row in 0..ROWS {
        for half in 0..2 {
            // SAFETY: as in `load`.
            unsafe { _mm256_storeu_ps(tile[row].as_mut_ptr().add(first + half * LANES), sums[row][half]) };
        }
    }
}

/// # Safety
/// The machine has AVX2 and FMA; `a` holds `ROWS` rows of `k` numbers at `stride`; `panel` holds `k × 64`.
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const f32,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    for first in (0..PANEL).step_by(WIDTH) {
        let mut sums = load::<ROWS>(tile, first, add);
        for i in 0..k {
            // SAFETY: `i < k`, `first + 16 <= 64`; every row index is below `ROWS`.
            unsafe {
                let mut w = [_mm256_setzero_ps(); 2];
                for half in 0..2 {
                    w[half] = _mm256_loadu_ps(panel.add(i * PANEL + first + half * LANES));
                }
                for row in 0..ROWS {
                    let x = _mm256_set1_ps(*a.add(row * stride + i));
                    for half in 0..2 {
                        sums[row][half] = _mm256_fmadd_ps(x, w[half], sums[row][half]);
                    }
                }
            }
        }
        store(&sums, tile, first);
    }
}

/// # Safety
/// As [`f32_rows`].
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_widening_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    for first in (0..PANEL).step_by(WIDTH) {
        let mut sums = load::<ROWS>(tile, first, add);
        for i in 0..k {
            // SAFETY: `i < k`, `first + 16 <= 64`; every row index is below `ROWS`.
            unsafe {
                let mut w = [_mm256_setzero_ps(); 2];
                for half in 0..2 {
                    let bits = _mm_loadu_si128(panel.add(i * PANEL + first + half * LANES).cast());
                    w[half] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)));
                }
                for row in 0..ROWS {
                    let x = _mm256_set1_ps(*a.add(row * stride + i));
                    for half in 0..2 {
                        sums[row][half] = _mm256_fmadd_ps(x, w[half], sums[row][half]);
                    }
                }
            }
        }
        store(&sums, tile, first);
    }
}

/// # Safety
/// As [`f32_rows`], with `k` even.
#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_rows<const ROWS: usize>(
    a: *const u16,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    for first in (0..PANEL).step_by(WIDTH) {
        let mut sums = load::<ROWS>(tile, first, add);
        for pair in 0..k / 2 {
            // SAFETY: `2 × pair + 1 < k`, `first + 16 <= 64`; every row index is below `ROWS`.
            unsafe {
                let (mut even, mut odd) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
                for half in 0..2 {
                    let bits = _mm256_loadu_si256(panel.add((pair * PANEL + first + half * LANES) * 2).cast());
                    even[half] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
                    odd[half] = _mm256_castsi256_ps(_mm256_and_si256(bits, high));
                }
                for row in 0..ROWS {
                    let x = a.add(row * stride + 2 * pair).cast::<u32>().read_unaligned();
                    let x0 = _mm256_set1_ps(f32::from_bits(x << 16));
                    let x1 = _mm256_set1_ps(f32::from_bits(x & 0xffff_0000));
                    for half in 0..2 {
                        let sum = _mm256_fmadd_ps(x0, even[half], sums[row][half]);
                        sums[row][half] = _mm256_fmadd_ps(x1, odd[half], sum);
                    }
                }
            }
        }
        store(&sums, tile, first);
    }
}
