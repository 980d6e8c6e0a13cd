//! What follows a product's sums.

use super::isa::{Isa, LANES, Lanes, multiply_add, sigmoid};
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

/// The numbers of a row, held in registers: loops over memory that may overlap would not become vectors.
type Row = [Lanes; PANEL / LANES];

/// # Safety
/// The residual's and the target's rows are there.
#[inline(always)]
pub(super) unsafe fn finish<I: Isa>(tile: &Tile, finish: &Finish<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match finish.activation {
            TileActivation::Identity => finish_rows::<I>(tile, finish, |row| *row),
            TileActivation::GeluTanh => finish_rows::<I>(tile, finish, |row| [gelu::<I>(&row[0]), gelu::<I>(&row[1])]),
            TileActivation::SwiGlu => finish_rows::<I>(tile, finish, |[gates, ups]| [swiglu::<I>(gates, ups), *ups]),
        }
    }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn finish_rows<I: Isa>(tile: &Tile, finish: &Finish<'_>, activate: impl Fn(&Row) -> Row) {
    let whole = if finish.activation == TileActivation::SwiGlu { LANES } else { PANEL };
    let bias = finish.bias.map_or([[0.0; LANES]; 2], row_of);
    for (i, sums) in tile.0.iter().enumerate().take(finish.rows) {
        let sums = finish.scales.as_ref().map_or_else(|| row_of(sums), |scales| scale(sums, scales, scales.rows[i]));
        let row = activate(&add(&sums, &bias));
        // SAFETY: the caller's promise.
        unsafe {
            let residual = finish.residual.map(|(start, stride)| start.add(i * stride));
            let target = finish.target.start.add(i * finish.target.stride);
            if finish.target.columns == whole {
                finish_row::<I>(&row, whole, finish.target.narrow, residual, target);
            } else {
                finish_ragged_row::<I>(&row, finish.target.columns, finish.target.narrow, residual, target);
            }
        }
    }
}

/// Adds the residual to the first half of a row, or to all of it, and writes it.
///
/// # Safety
/// Both places hold so many numbers.
#[inline(always)]
unsafe fn finish_row<I: Isa>(row: &Row, columns: usize, narrow: bool, residual: Option<*const u8>, target: *mut u8) {
    for (half, numbers) in row.iter().enumerate().take(columns / LANES) {
        let mut numbers = *numbers;
        // SAFETY: the caller's promise; no order of bytes in memory is asked for.
        unsafe {
            if let Some(residual) = residual {
                let residual = residual.cast::<Lanes>().add(half).read_unaligned();
                for i in 0..LANES {
                    numbers[i] += residual[i];
                }
            }
            if narrow {
                target.cast::<[u16; LANES]>().add(half).write_unaligned(I::round(&numbers));
            } else {
                target.cast::<Lanes>().add(half).write_unaligned(numbers);
            }
        }
    }
}

/// The same of the last, narrower panel of a matrix.
///
/// # Safety
/// As [`finish_row`].
#[inline(always)]
unsafe fn finish_ragged_row<I: Isa>(
    row: &Row,
    columns: usize,
    narrow: bool,
    residual: Option<*const u8>,
    target: *mut u8,
) {
    let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
    let (mut padded, mut out) = ([0.0_f32; PANEL], [0_u8; PANEL * size_of::<f32>()]);
    // SAFETY: the caller's promise; a whole row fits both arrays.
    unsafe {
        if let Some(residual) = residual {
            std::ptr::copy_nonoverlapping(residual, padded.as_mut_ptr().cast(), columns * size_of::<f32>());
        }
        finish_row::<I>(row, PANEL, narrow, Some(padded.as_ptr().cast()), out.as_mut_ptr());
        std::ptr::copy_nonoverlapping(out.as_ptr(), target, columns * size);
    }
}

#[inline(always)]
fn row_of(numbers: &[f32; PANEL]) -> Row {
    let [first, second] = numbers.as_chunks().0 else { unreachable!("a row has two halves") };
    [*first, *second]
}

#[inline(always)]
fn add(row: &Row, other: &Row) -> Row {
    let mut out = *row;
    for half in 0..out.len() {
        for i in 0..LANES {
            out[half][i] += other[half][i];
        }
    }
    out
}

#[inline(always)]
fn scale(sums: &[f32; PANEL], scales: &Scales<'_>, row_scale: f32) -> Row {
    let mut out = row_of(sums);
    let (outputs, totals) = (scales.outputs.as_chunks::<LANES>().0, scales.totals.as_chunks::<LANES>().0);
    for half in 0..out.len() {
        for i in 0..LANES {
            let sum = out[half][i].to_bits().cast_signed().wrapping_sub(totals[half][i].wrapping_mul(128));
            out[half][i] = sum as f32 * (row_scale * outputs[half][i]);
        }
    }
    out
}

#[inline(always)]
pub(super) fn swiglu<I: Isa>(gates: &Lanes, ups: &Lanes) -> Lanes {
    let mut out = sigmoid::<I>(gates);
    for i in 0..LANES {
        out[i] = gates[i] * out[i] * ups[i];
    }
    out
}

/// `0.5 x (1 + tanh u)`, which is `x · sigmoid(2u)`.
#[inline(always)]
pub(super) fn gelu<I: Isa>(x: &Lanes) -> Lanes {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    const CUBIC: f32 = TWO_SQRT_2_OVER_PI * 0.044_715;
    let mut u = *x;
    for i in 0..LANES {
        u[i] = x[i] * multiply_add::<I>(x[i] * x[i], CUBIC, TWO_SQRT_2_OVER_PI);
    }
    let mut out = sigmoid::<I>(&u);
    for i in 0..LANES {
        out[i] *= x[i];
    }
    out
}
