//! Tile products in plain Rust: for any machine, and the text to read first.

use super::{PANEL, Tile, TileKernels, per_row_count};

pub(super) fn kernels() -> TileKernels {
    TileKernels {
        f32: per_row_count!(self::f32_rows),
        f32_widening: per_row_count!(self::f32_widening_rows),
        bf16: per_row_count!(self::bf16_rows),
    }
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// # Safety
/// `a` holds `ROWS` rows of `k` numbers at `stride`; `panel` holds `k × 64`.
unsafe fn f32_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const f32,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    reset::<ROWS>(tile, add);
    for i in 0..k {
        for (row, sums) in tile.iter_mut().enumerate().take(ROWS) {
            // SAFETY: `row < ROWS`, `i < k`.
            let x = unsafe { *a.add(row * stride + i) };
            for (column, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `i < k`, `column < 64`.
                *sum += x * unsafe { *panel.add(i * PANEL + column) };
            }
        }
    }
}

/// # Safety
/// As [`f32_rows`].
unsafe fn f32_widening_rows<const ROWS: usize>(
    a: *const f32,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    reset::<ROWS>(tile, add);
    for i in 0..k {
        for (row, sums) in tile.iter_mut().enumerate().take(ROWS) {
            // SAFETY: `row < ROWS`, `i < k`.
            let x = unsafe { *a.add(row * stride + i) };
            for (column, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `i < k`, `column < 64`.
                *sum += x * widen(unsafe { *panel.add(i * PANEL + column) });
            }
        }
    }
}

/// # Safety
/// As [`f32_rows`], with `k` even.
unsafe fn bf16_rows<const ROWS: usize>(
    a: *const u16,
    stride: usize,
    panel: *const u16,
    k: usize,
    tile: &mut Tile,
    add: bool,
) {
    reset::<ROWS>(tile, add);
    for pair in 0..k / 2 {
        for (row, sums) in tile.iter_mut().enumerate().take(ROWS) {
            // SAFETY: `row < ROWS`, `2 × pair + 1 < k`.
            let [x0, x1] = unsafe { *a.add(row * stride + 2 * pair).cast::<[u16; 2]>() }.map(widen);
            for (column, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `pair < k / 2`, `column < 64`.
                let [w0, w1] = unsafe { *panel.add((pair * PANEL + column) * 2).cast::<[u16; 2]>() }.map(widen);
                *sum += x0 * w0 + x1 * w1;
            }
        }
    }
}

fn reset<const ROWS: usize>(tile: &mut Tile, add: bool) {
    if !add {
        tile[..ROWS].fill([0.0; PANEL]);
    }
}
