//! Tile products for 64-bit Arm: 5 rows of half a panel, in 20 accumulators of 4 outputs. One or two rows take a whole
//! panel.
//!
//! Four steps of a row are loaded at once and multiplied by element, so rows cost no broadcasts. With accumulators, rows
//! and outputs about to be used the 32 registers are full: a sixth row would be kept in memory. Where rows and outputs
//! are widened first they take twice the registers, so a tile has 4 rows.

#![allow(clippy::needless_range_loop, reason = "rows and pairs address accumulators and memory alike")]

use std::arch::aarch64::*;
use std::arch::asm;

// Closures (as `array::from_fn` takes them) would not be inlined: the standard library's functions around them are not
// compiled for these instructions. So arrays are filled by loops here.
use super::{Kernel, PANEL, Product, STEP, TileKernels, nothing};

/// Bytes of a register.
const WIDTH: usize = 16;
/// Bytes of a step of a panel.
const PANEL_STEP: usize = PANEL * STEP;
/// Bytes of a step of a pair of registers, and pairs in a panel.
const PAIR: usize = 2 * WIDTH;
const PAIRS: usize = PANEL_STEP / PAIR;

/// Sums of 8 outputs; those of integers are the bits of an i32.
type Sums = [float32x4_t; 2];

pub(super) fn kernels() -> TileKernels {
    let kernel =
        |rows, multiply| Kernel { rows, row_step: 1, few_rows: 0, few_panels: 1, chunks: usize::MAX, multiply };
    TileKernels {
        f32: kernel(5, f32::multiply),
        bf16: kernel(4, bf16::multiply),
        u8i8: kernel(4, u8i8::multiply),
        q4: None,
        enter: nothing,
        leave: nothing,
    }
}

pub(super) fn dotprod_kernels() -> TileKernels {
    let u8i8 = Kernel { rows: 5, multiply: multiply_shifted, ..kernels().u8i8 };
    TileKernels { u8i8, ..kernels() }
}

/// Repeats a block for each step that a register of a row holds.
macro_rules! steps {
    ($lane:ident in [$($step:literal),*] $body:block) => {
        $({
            const $lane: i32 = $step;
            $body
        })*
    };
}

/// Stamps the kernel for one kind of product, for one, two and `$rows` rows: `$row(four steps of a row)` and `$outputs(step
/// of 8 outputs)` prepare what `$dot::<STEP>(sums, row, outputs)` multiplies.
macro_rules! stamp {
    ($module:ident, $features:literal, [$($rows:literal),*], $row:ident, $outputs:ident, $dot:ident) => {
        mod $module {
            use super::*;

            /// # Safety
            /// The machine has the instructions, and the product's addresses hold what they promise.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize, const PASS: usize>(product: &Product) {
                for pass in 0..PAIRS / PASS {
                    let mut sums = [[[vdupq_n_f32(0.0); 2]; PASS]; ROWS];
                    // SAFETY: every row index is below `ROWS`, every pair of a pass below `PASS`, and whole chunks have
                    // whole groups of four steps; a tile's row has 32 numbers.
                    unsafe {
                        if product.add {
                            for row in 0..ROWS {
                                for pair in 0..PASS {
                                    let place = sum(product, row, pass * PASS + pair);
                                    sums[row][pair] = [vld1q_f32(place), vld1q_f32(place.add(4))];
                                }
                            }
                        }
                        let (mut rows, mut outputs) = (product.rows, product.panels.add(pass * PASS * PAIR));
                        for _ in 0..product.steps * STEP / WIDTH {
                            let mut x = [$row(vld1q_u8(rows)); ROWS];
                            for row in 1..ROWS {
                                x[row] = $row(vld1q_u8(rows.add(row * product.row_stride)));
                            }
                            steps!(LANE in [0, 1, 2, 3] {
                                for pair in 0..PASS {
                                    let place = outputs.add(pair * PAIR);
                                    let w = $outputs(vld1q_u8(place), vld1q_u8(place.add(WIDTH)));
                                    for row in 0..ROWS {
                                        sums[row][pair] = $dot::<LANE>(sums[row][pair], x[row], w);
                                    }
                                }
                                outputs = outputs.add(PANEL_STEP);
                            });
                            rows = rows.add(WIDTH);
                        }
                        for row in 0..ROWS {
                            for pair in 0..PASS {
                                let place = sum(product, row, pass * PASS + pair);
                                vst1q_f32(place, sums[row][pair][0]);
                                vst1q_f32(place.add(4), sums[row][pair][1]);
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// As [`tile`].
            pub(super) unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe {
                    match product.row_count {
                        1 => tile::<1, 4>(product),
                        2 => tile::<2, 4>(product),
                        $($rows => tile::<$rows, 2>(product),)*
                        rows => unreachable!("a product of {rows} rows"),
                    }
                }
            }
        }
    };
}

stamp!(f32, "neon", [3, 4, 5], f32_row, f32_outputs, fma);
stamp!(bf16, "neon", [3, 4], split_bf16, bf16_outputs, fma_pair);
stamp!(u8i8, "neon", [3, 4], split_u8, i8_outputs, multiply_add_long);
stamp!(shifted, "neon,dotprod", [3, 4, 5], u8_row, shifted_outputs, udot);

/// Where the sums of a pair of registers lie.
///
/// # Safety
/// The product has that row.
#[inline(always)]
unsafe fn sum(product: &Product, row: usize, pair: usize) -> *mut f32 {
    // SAFETY: there is a tile for the panel.
    unsafe { &raw mut (*product.tiles).0[row][pair * PAIR / STEP] }
}

#[inline]
#[target_feature(enable = "neon")]
fn f32_row(x: uint8x16_t) -> float32x4_t {
    vreinterpretq_f32_u8(x)
}

#[inline]
#[target_feature(enable = "neon")]
fn f32_outputs(first: uint8x16_t, second: uint8x16_t) -> [float32x4_t; 2] {
    [vreinterpretq_f32_u8(first), vreinterpretq_f32_u8(second)]
}

#[inline]
#[target_feature(enable = "neon")]
fn fma<const LANE: i32>(sums: Sums, x: float32x4_t, w: [float32x4_t; 2]) -> Sums {
    [vfmaq_laneq_f32::<LANE>(sums[0], w[0], x), vfmaq_laneq_f32::<LANE>(sums[1], w[1], x)]
}

/// The first and the second of each pair, as f32.
#[inline]
#[target_feature(enable = "neon")]
fn split_bf16(pairs: uint8x16_t) -> [float32x4_t; 2] {
    let pairs = vreinterpretq_u32_u8(pairs);
    let second = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
    [vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(second)]
}

#[inline]
#[target_feature(enable = "neon")]
fn bf16_outputs(first: uint8x16_t, second: uint8x16_t) -> [[float32x4_t; 2]; 2] {
    [split_bf16(first), split_bf16(second)]
}

#[inline]
#[target_feature(enable = "neon")]
fn fma_pair<const LANE: i32>(sums: Sums, x: [float32x4_t; 2], w: [[float32x4_t; 2]; 2]) -> Sums {
    let sums = fma::<LANE>(sums, x[0], [w[0][0], w[1][0]]);
    fma::<LANE>(sums, x[1], [w[0][1], w[1][1]])
}

/// The first and the second two steps, as 16-bit integers.
#[inline]
#[target_feature(enable = "neon")]
fn split_u8(x: uint8x16_t) -> [int16x8_t; 2] {
    [vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_high_u8(x))]
}

/// Of 8 outputs the first bytes, the second, the third and the fourth, as 16-bit integers.
#[inline]
#[target_feature(enable = "neon")]
fn i8_outputs(first: uint8x16_t, second: uint8x16_t) -> [int16x8_t; 4] {
    let (even, odd) = (vuzp1q_u8(first, second), vuzp2q_u8(first, second));
    let lower = vreinterpretq_s8_u8(vuzp1q_u8(even, odd));
    let upper = vreinterpretq_s8_u8(vuzp2q_u8(even, odd));
    [vmovl_s8(vget_low_s8(lower)), vmovl_high_s8(lower), vmovl_s8(vget_low_s8(upper)), vmovl_high_s8(upper)]
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add_long<const LANE: i32>(sums: Sums, x: [int16x8_t; 2], w: [int16x8_t; 4]) -> Sums {
    let sums = [vreinterpretq_s32_f32(sums[0]), vreinterpretq_s32_f32(sums[1])];
    let [first, second] = match LANE {
        0 => step_long::<0, 1, 2, 3>(sums, x[0], w),
        1 => step_long::<4, 5, 6, 7>(sums, x[0], w),
        2 => step_long::<0, 1, 2, 3>(sums, x[1], w),
        _ => step_long::<4, 5, 6, 7>(sums, x[1], w),
    };
    [vreinterpretq_f32_s32(first), vreinterpretq_f32_s32(second)]
}

/// Adds the products of the four bytes that stand in the given places of `x`.
#[inline]
#[target_feature(enable = "neon")]
fn step_long<const A: i32, const B: i32, const C: i32, const D: i32>(
    [mut first, mut second]: [int32x4_t; 2],
    x: int16x8_t,
    w: [int16x8_t; 4],
) -> [int32x4_t; 2] {
    first = vmlal_laneq_s16::<A>(first, vget_low_s16(w[0]), x);
    second = vmlal_high_laneq_s16::<A>(second, w[0], x);
    first = vmlal_laneq_s16::<B>(first, vget_low_s16(w[1]), x);
    second = vmlal_high_laneq_s16::<B>(second, w[1], x);
    first = vmlal_laneq_s16::<C>(first, vget_low_s16(w[2]), x);
    second = vmlal_high_laneq_s16::<C>(second, w[2], x);
    first = vmlal_laneq_s16::<D>(first, vget_low_s16(w[3]), x);
    second = vmlal_high_laneq_s16::<D>(second, w[3], x);
    [first, second]
}

/// Products of 8-bit integers where only those of equal signs have an instruction: outputs are taken 128 too large, and
/// 128 times the sum of its row is taken from each result.
///
/// # Safety
/// As `shifted::tile`.
unsafe fn multiply_shifted(product: &Product) {
    // SAFETY: the caller's promise; there is a tile for the panel.
    let tile = unsafe {
        shifted::multiply(product);
        &mut (*product.tiles).0
    };
    for (row, sums) in tile.iter_mut().enumerate().take(product.row_count) {
        // SAFETY: `row < row_count`.
        let row =
            unsafe { std::slice::from_raw_parts(product.rows.add(row * product.row_stride), product.steps * STEP) };
        let excess = row.iter().fold(0, |sum: u32, x| sum.wrapping_add(u32::from(*x))).wrapping_mul(128);
        for sum in sums {
            *sum = f32::from_bits(sum.to_bits().wrapping_sub(excess));
        }
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn u8_row(x: uint8x16_t) -> uint8x16_t {
    x
}

/// 128 more, and so not below zero.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn shifted_outputs(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2] {
    [veorq_u8(first, vdupq_n_u8(0x80)), veorq_u8(second, vdupq_n_u8(0x80))]
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn udot<const LANE: i32>(sums: Sums, x: uint8x16_t, w: [uint8x16_t; 2]) -> Sums {
    [udot_lane::<LANE>(sums[0], x, w[0]), udot_lane::<LANE>(sums[1], x, w[1])]
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn udot_lane<const LANE: i32>(mut sums: float32x4_t, x: uint8x16_t, w: uint8x16_t) -> float32x4_t {
    // The intrinsic is not stable.
    // SAFETY: works on registers alone, with an instruction that this function is compiled for.
    unsafe {
        asm!(
            "udot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            x = in(vreg) x,
            w = in(vreg) w,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
