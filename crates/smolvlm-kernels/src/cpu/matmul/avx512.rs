//! Tile products for AVX-512 with BF16: 24 accumulators of 16 lanes, four loads of the panel per step.

#![allow(clippy::needless_range_loop, reason = "rows and columns address accumulators and memory alike")]

use std::arch::x86_64::*;

// Closures (as `array::from_fn` takes them) would not be inlined: the standard library's functions around them are not
// compiled for these instructions. So arrays are filled by loops here.
use super::{PANEL, TILE_ROWS, Tile, TileKernels, per_row_count};

const LANES: usize = 16;
const COLUMNS: usize = PANEL / LANES;

pub(super) fn kernels() -> TileKernels {
    TileKernels {
        f32: per_row_count!(self::f32_rows),
        f32_widening: per_row_count!(self::f32_widening_rows),
        bf16: per_row_count!(self::bf16_rows),
    }
}

type Sums<const ROWS: usize> = [[__m512; COLUMNS]; ROWS];

#[inline]
#[target_feature(enable = "avx512f")]
fn load<const ROWS: usize>(tile: &Tile, add: bool) -> Sums<ROWS> {
    let mut sums = [[_mm512_setzero_ps(); COLUMNS]; ROWS];
    if add {
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                // SAFETY: a row of the tile has 64 numbers.
                sums[row][column] = unsafe { _mm512_loadu_ps(tile[row].as_ptr().add(column * LANES)) };
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const ROWS: usize>(sums: &Sums<ROWS>, tile: &mut [[f32; PANEL]; TILE_ROWS]) {
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            // SAFETY: a row of the tile has 64 numbers.
            unsafe { _mm512_storeu_ps(tile[row].as_mut_ptr().add(column * LANES), sums[row][column]) };
        }
    }
}

/// # Safety
/// The machine has AVX-512F; `a` holds `ROWS` rows of `k` numbers at `stride`; `panel` holds `k × 64`.
#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const f32,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    let mut sums = load::<ROWS>(tile, add);
    for i in 0..k {
        // SAFETY: `i < k`; every row index is below `ROWS`.
        unsafe {
            let mut w = [_mm512_setzero_ps(); COLUMNS];
            for column in 0..COLUMNS {
                w[column] = _mm512_loadu_ps(panel.add(i * PANEL + column * LANES));
            }
            for row in 0..ROWS {
                let x = _mm512_set1_ps(*a.add(row * stride + i));
                for column in 0..COLUMNS {
                    sums[row][column] = _mm512_fmadd_ps(x, w[column], sums[row][column]);
                }
            }
        }
    }
    store(&sums, tile);
}

/// # Safety
/// As [`f32_rows`].
#[target_feature(enable = "avx512f")]
unsafe fn f32_widening_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    let mut sums = load::<ROWS>(tile, add);
    for i in 0..k {
        // SAFETY: `i < k`; every row index is below `ROWS`.
        unsafe {
            let mut w = [_mm512_setzero_ps(); COLUMNS];
            for column in 0..COLUMNS {
                let bits = _mm256_loadu_si256(panel.add(i * PANEL + column * LANES).cast());
                w[column] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)));
            }
            for row in 0..ROWS {
                let x = _mm512_set1_ps(*a.add(row * stride + i));
                for column in 0..COLUMNS {
                    sums[row][column] = _mm512_fmadd_ps(x, w[column], sums[row][column]);
                }
            }
        }
    }
    store(&sums, tile);
}

/// # Safety
/// The machine has AVX-512F and BF16; else as [`f32_rows`], with `k` even.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_rows<const ROWS: usize>(
    a: *const u16,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    let mut sums = load::<ROWS>(tile, add);
    for pair in 0..k / 2 {
        // SAFETY: `2 × pair + 1 < k`; every row index is below `ROWS`; `__m512bh` is 32 bfloat16 of any bits.
        unsafe {
            let mut w = [_mm512_setzero_si512(); COLUMNS];
            for column in 0..COLUMNS {
                w[column] = _mm512_loadu_si512(panel.add((pair * PANEL + column * LANES) * 2).cast());
            }
            for row in 0..ROWS {
                let x = a.add(row * stride + 2 * pair).cast::<i32>().read_unaligned();
                let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(x));
                for column in 0..COLUMNS {
                    sums[row][column] =
                        _mm512_dpbf16_ps(sums[row][column], x, std::mem::transmute::<__m512i, __m512bh>(w[column]));
                }
            }
        }
    }
    store(&sums, tile);
}
