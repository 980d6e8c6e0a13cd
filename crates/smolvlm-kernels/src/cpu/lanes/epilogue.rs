//! What follows a product's sums.

use super::isa::{Isa, LANES, multiply_add, sigmoid};
use crate::cpu::matmul::{PANEL, Tile};

/// What happens to the sums of a tile.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Finish<'a> {
    /// Rows in use.
    pub(in crate::cpu) rows: usize,
    /// For sums of integers.
    pub(in crate::cpu) scales: Option<Scales<'a>>,
    /// Of the panel's outputs; missing ones are zero.
    pub(in crate::cpu) bias: Option<&'a [f32; PANEL]>,
    pub(in crate::cpu) activation: TileActivation,
    /// Rows of f32 that are added to the result, where the first row's begin, and bytes from one row to the next.
    pub(in crate::cpu) residual: Option<(*const u8, usize)>,
    pub(in crate::cpu) target: TileTarget,
}

/// Where the result of a tile goes.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct TileTarget {
    /// Where the first row's begins.
    pub(in crate::cpu) start: *mut u8,
    /// Bytes from one row to the next.
    pub(in crate::cpu) stride: usize,
    /// Numbers of a row, at most 32.
    pub(in crate::cpu) columns: usize,
    /// Whether they are rounded to bfloat16.
    pub(in crate::cpu) narrow: bool,
}

/// How sums of 8-bit products become numbers: `row · output · (sum − 128 · total)`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scales<'a> {
    /// One for each row in use.
    pub(in crate::cpu) rows: &'a [f32],
    /// One for each output of the panel.
    pub(in crate::cpu) outputs: &'a [f32; PANEL],
    /// Sum of each output's integers.
    pub(in crate::cpu) totals: &'a [i32; PANEL],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum TileActivation {
    Identity,
    GeluTanh,
    /// The first half of the panel are gates, the second what they open; the first half of a row is the result.
    SwiGlu,
}

/// # Safety
/// The residual's and the target's rows are there.
#[inline(always)]
pub(super) unsafe fn finish<I: Isa>(tile: &mut Tile, finish: &Finish<'_>) {
    let columns = finish.target.columns;
    for (i, row) in tile.0.iter_mut().enumerate().take(finish.rows) {
        if let Some(scales) = &finish.scales {
            for (x, (scale, total)) in row.iter_mut().zip(scales.outputs.iter().zip(scales.totals)) {
                let sum = x.to_bits().cast_signed().wrapping_sub(total.wrapping_mul(128));
                *x = sum as f32 * (scales.rows[i] * scale);
            }
        }
        if let Some(bias) = finish.bias {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        activate::<I>(row, finish.activation);
        // SAFETY: the caller's promise; rows are aligned for f32, and for bfloat16 where they are those.
        unsafe {
            if let Some((start, stride)) = finish.residual {
                add(row, std::slice::from_raw_parts(start.add(i * stride).cast(), columns));
            }
            let start = finish.target.start.add(i * finish.target.stride);
            if finish.target.narrow {
                write_bf16::<I>(row, std::slice::from_raw_parts_mut(start.cast(), columns));
            } else {
                write(row, std::slice::from_raw_parts_mut(start.cast(), columns));
            }
        }
    }
}

#[inline(always)]
fn activate<I: Isa>(row: &mut [f32; PANEL], activation: TileActivation) {
    match activation {
        TileActivation::Identity => (),
        TileActivation::GeluTanh => {
            // 0.5 (1 + tanh u) = sigmoid(2u)
            const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
            const CUBIC: f32 = TWO_SQRT_2_OVER_PI * 0.044_715;
            for x in row.as_chunks_mut::<LANES>().0 {
                let mut u = *x;
                for i in 0..LANES {
                    u[i] = x[i] * multiply_add::<I>(x[i] * x[i], CUBIC, TWO_SQRT_2_OVER_PI);
                }
                let weights = sigmoid::<I>(&u);
                for i in 0..LANES {
                    x[i] *= weights[i];
                }
            }
        }
        TileActivation::SwiGlu => {
            let [gates, ups] = row.as_chunks_mut::<{ PANEL / 2 }>().0 else { unreachable!("a panel has two halves") };
            let weights = sigmoid::<I>(gates);
            for i in 0..LANES {
                gates[i] = gates[i] * weights[i] * ups[i];
            }
        }
    }
}

/// Adds the numbers that are there. (Whole panels and halves have their lengths known, so that they are vectors.)
#[inline(always)]
fn add(row: &mut [f32; PANEL], from: &[f32]) {
    if let Ok(from) = <&[f32; PANEL]>::try_from(from) {
        row.iter_mut().zip(from).for_each(|(x, from)| *x += from);
    } else {
        row.iter_mut().zip(from).for_each(|(x, from)| *x += from);
    }
}

#[inline(always)]
fn write(row: &[f32; PANEL], out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) {
        *out = *row;
    } else {
        out.copy_from_slice(&row[..out.len()]);
    }
}

#[inline(always)]
fn write_bf16<I: Isa>(row: &[f32; PANEL], out: &mut [u16]) {
    let halves = row.as_chunks::<LANES>().0;
    if let Ok(out) = <&mut [u16; PANEL]>::try_from(&mut *out) {
        for (out, half) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(halves) {
            *out = I::round(half);
        }
    } else if let Ok(out) = <&mut [u16; LANES]>::try_from(&mut *out) {
        *out = I::round(&halves[0]);
    } else {
        let rounded = [I::round(&halves[0]), I::round(&halves[1])];
        out.copy_from_slice(&rounded.as_flattened()[..out.len()]);
    }
}
