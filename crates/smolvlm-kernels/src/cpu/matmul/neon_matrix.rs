//! Tile products by the matrix instructions of 64-bit Arm (`BFMMLA`, `USMMLA`): 10 rows of a quarter of a panel, in 20
//! accumulators of 2 rows × 2 outputs. Few rows take more of it: 4 a half, 2 the whole.
//!
//! An instruction takes 8 bytes, two steps, of two rows and of two outputs, and adds their products step after step. A
//! last row without a partner is its own. Outputs of two steps are interleaved as they are loaded, once for all rows.
//! With accumulators, outputs and rows about to be used the 32 registers are full: with 24 accumulators the compiler
//! moves more registers than it multiplies.

#![allow(clippy::needless_range_loop, reason = "rows and outputs address accumulators and memory alike")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, PANEL, Product, STEP, TileKernels};

/// Bytes of a register, and outputs in one.
const WIDTH: usize = 16;
const OUTPUTS: usize = WIDTH / STEP;
/// Bytes of a step of a panel.
const PANEL_STEP: usize = PANEL * STEP;
/// Bytes of two steps of a row.
const TWO_STEPS: usize = 2 * STEP;
/// Outputs whose registers are held at a time.
const BLOCK: usize = 2 * OUTPUTS;
const ROWS: usize = 10;

/// Sums of two rows: of outputs 0 and 1, 2 and 3, 4 and 5, 6 and 7. Those of integers are the bits of an i32.
type Sums = [float32x4_t; BLOCK / 2];

/// `others` with the products that matrix instructions have.
pub(super) fn kernels(others: TileKernels) -> TileKernels {
    let kernel =
        |multiply| Kernel { rows: ROWS, row_step: 1, few_rows: 0, few_panels: 1, chunks: usize::MAX, multiply };
    TileKernels { bf16: kernel(bf16::multiply), u8i8: kernel(u8i8::multiply), ..others }
}

/// Stamps the kernel for one kind of product: `$instruction` adds to `sums` the products of the rows `x` and outputs `w`.
macro_rules! stamp {
    ($module:ident, $features:literal, $instruction:literal) => {
        mod $module {
            use super::*;

            /// `ROW_PAIRS` pairs of rows, in passes over so many [`BLOCK`]s of outputs.
            ///
            /// # Safety
            /// The machine has the instructions, and the product's addresses hold what they promise.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROW_PAIRS: usize, const BLOCKS: usize>(product: &Product) {
                for first in (0..PANEL).step_by(BLOCKS * BLOCK) {
                    let mut sums = [[[vdupq_n_f32(0.0); BLOCK / 2]; BLOCKS]; ROW_PAIRS];
                    // SAFETY: `ROW_PAIRS` pairs hold the rows and at most one more, which is read as the last one and has
                    // a place in the tile; whole chunks have whole pairs of steps; outputs are below `PANEL`.
                    unsafe {
                        if product.add {
                            for pair in 0..ROW_PAIRS {
                                for block in 0..BLOCKS {
                                    sums[pair][block] = load_sums(product, 2 * pair, first + block * BLOCK);
                                }
                            }
                        }
                        let mut outputs = product.panels.add(first * STEP);
                        for two in 0..product.steps / 2 {
                            for block in 0..BLOCKS {
                                let w = load_outputs(outputs.add(block * BLOCK * STEP));
                                for pair in 0..ROW_PAIRS {
                                    let x = load_rows(product, 2 * pair, two * TWO_STEPS);
                                    for i in 0..BLOCK / 2 {
                                        sums[pair][block][i] = dot(sums[pair][block][i], x, w[i]);
                                    }
                                }
                            }
                            outputs = outputs.add(2 * PANEL_STEP);
                        }
                        for pair in 0..ROW_PAIRS {
                            for block in 0..BLOCKS {
                                store_sums(product, 2 * pair, first + block * BLOCK, sums[pair][block]);
                            }
                        }
                    }
                }
            }

            /// Adds the products of two steps of two rows and of two outputs.
            #[inline]
            #[target_feature(enable = $features)]
            fn dot(mut sums: float32x4_t, x: uint8x16_t, w: uint32x4_t) -> float32x4_t {
                // The intrinsic is not stable.
                // SAFETY: works on registers alone, with instructions that this function is compiled for.
                unsafe {
                    asm!(
                        $instruction,
                        sums = inout(vreg) sums,
                        x = in(vreg) x,
                        w = in(vreg) w,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                sums
            }

            /// # Safety
            /// As [`tile`].
            pub(super) unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe {
                    match product.row_count.div_ceil(2) {
                        1 => tile::<1, 4>(product),
                        2 => tile::<2, 2>(product),
                        3 => tile::<3, 1>(product),
                        4 => tile::<4, 1>(product),
                        5 => tile::<5, 1>(product),
                        pairs => unreachable!("a product of {pairs} pairs of rows"),
                    }
                }
            }
        }
    };
}

stamp!(bf16, "neon,bf16", "bfmmla {sums:v}.4s, {x:v}.8h, {w:v}.8h");
stamp!(u8i8, "neon,i8mm", "usmmla {sums:v}.4s, {x:v}.16b, {w:v}.16b");

/// Two steps of a row and the next, from byte `place` on; for rows beyond the last, of the last.
///
/// # Safety
/// Two steps can be read there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_rows(product: &Product, row: usize, place: usize) -> uint8x16_t {
    let last = product.row_count - 1;
    // SAFETY: the product has those rows; the caller's promise.
    unsafe {
        let upper = product.rows.add(row.min(last) * product.row_stride + place);
        let lower = product.rows.add((row + 1).min(last) * product.row_stride + place);
        vcombine_u8(vld1_u8(upper), vld1_u8(lower))
    }
}

/// Two steps of 8 outputs, each register of two outputs.
///
/// # Safety
/// The step at `place` and the next one can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_outputs(place: *const u8) -> [uint32x4_t; BLOCK / 2] {
    // SAFETY: the caller's promise.
    let ([a, b], [c, d]) = unsafe { (load_step(place), load_step(place.add(PANEL_STEP))) };
    [vzip1q_u32(a, c), vzip2q_u32(a, c), vzip1q_u32(b, d), vzip2q_u32(b, d)]
}

/// A step of 8 outputs.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_step(place: *const u8) -> [uint32x4_t; 2] {
    // SAFETY: the caller's promise.
    unsafe { [vreinterpretq_u32_u8(vld1q_u8(place)), vreinterpretq_u32_u8(vld1q_u8(place.add(WIDTH)))] }
}

/// The sums of 8 outputs of a row and the next.
///
/// # Safety
/// There is a tile for the panel.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_sums(product: &Product, row: usize, first: usize) -> Sums {
    // SAFETY: the caller's promise.
    let (upper, lower) = unsafe { (&(*product.tiles).0[row], &(*product.tiles).0[row + 1]) };
    let mut sums = [vdupq_n_f32(0.0); BLOCK / 2];
    for i in 0..BLOCK / 2 {
        // SAFETY: both have `BLOCK` numbers from `first` on.
        unsafe {
            sums[i] =
                vcombine_f32(vld1_f32(&raw const upper[first + 2 * i]), vld1_f32(&raw const lower[first + 2 * i]));
        }
    }
    sums
}

/// Writes what [`load_sums`] reads.
///
/// # Safety
/// As [`load_sums`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_sums(product: &Product, row: usize, first: usize, sums: Sums) {
    for i in 0..BLOCK / 2 {
        // SAFETY: the caller's promise; both rows have `BLOCK` numbers from `first` on.
        unsafe {
            let tile = &raw mut (*product.tiles).0;
            vst1_f32(&raw mut (*tile)[row][first + 2 * i], vget_low_f32(sums[i]));
            vst1_f32(&raw mut (*tile)[row + 1][first + 2 * i], vget_high_f32(sums[i]));
        }
    }
}
