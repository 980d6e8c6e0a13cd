//! The passes in plain Rust.
//!
//! The horizontal pass turns a band of rows on its side first, so that both passes add whole rows of pixels with one
//! weight each, which compilers turn into vector code.

use std::ops::Range;

use super::{Rows, Span, Taps, clip};

/// Bytes summed at once: their 32-bit sums fill twelve 128-bit registers.
const LANES: usize = 48;

/// Rows turned on their side at once; with three colours they make one full block of [`LANES`].
const BAND: usize = 16;

/// Makes the lines `outputs` from those they read.
pub(super) fn down<W: Copy + Into<i32>>(rows: Rows<'_>, taps: &Taps<W>, outputs: Range<usize>, out: &mut [u8]) {
    weighted_rows(rows, taps, &taps.spans[outputs], out);
}

/// Resizes lines of `taps.inputs` pixels along the lines.
pub(super) fn across<W: Copy + Into<i32>>(rgb: &[u8], taps: &Taps<W>, out: &mut [u8]) {
    let (row, resized_row) = (taps.inputs * 3, taps.outputs() * 3);
    let mut upright = vec![0; row * BAND];
    let mut upright_resized = vec![0; resized_row * BAND];
    for (band, resized_band) in rgb.chunks(row * BAND).zip(out.chunks_mut(resized_row * BAND)) {
        transpose_to_columns(band, row, &mut upright);
        weighted_rows(Rows { rgb: &upright, first: 0, line: LANES }, taps, &taps.spans, &mut upright_resized);
        transpose_to_rows(&upright_resized, resized_row, resized_band);
    }
}

/// `out[i] = clip((½ + Σ_j w_ij · rows[first_i + j]) >> bits)` for each span `i`.
fn weighted_rows<W: Copy + Into<i32>>(rows: Rows<'_>, taps: &Taps<W>, spans: &[Span], out: &mut [u8]) {
    let row = rows.line;
    for (&span, out_row) in spans.iter().zip(out.chunks_exact_mut(row)) {
        let inputs = rows.of(span.first..span.first + span.len);
        let weights = taps.weights(span);
        let (blocks, tail) = out_row.as_chunks_mut::<LANES>();
        for (index, block) in blocks.iter_mut().enumerate() {
            weighted_block(&inputs[index * LANES..], row, weights, taps, block);
        }
        let tail_start = row - tail.len();
        for (column, value) in (tail_start..row).zip(tail) {
            let products = inputs[column..].iter().step_by(row).zip(weights);
            let sum = products.fold(taps.half(), |sum, (&pixel, &weight)| sum + weight.into() * i32::from(pixel));
            *value = clip(sum >> taps.bits);
        }
    }
}

#[inline]
fn weighted_block<W: Copy + Into<i32>>(
    inputs: &[u8],
    row: usize,
    weights: &[W],
    taps: &Taps<W>,
    out: &mut [u8; LANES],
) {
    let mut sums = [taps.half(); LANES];
    for (pixels, &weight) in inputs.chunks(row).zip(weights) {
        let Some(pixels) = pixels.first_chunk::<LANES>() else { continue };
        let weight: i32 = weight.into();
        for (sum, &pixel) in sums.iter_mut().zip(pixels) {
            *sum += weight * i32::from(pixel);
        }
    }
    for (value, sum) in out.iter_mut().zip(sums) {
        *value = clip(sum >> taps.bits);
    }
}

/// Rows of `row` bytes, at most [`BAND`] of them, to columns of [`BAND`] bytes; missing rows keep their old content.
fn transpose_to_columns(band: &[u8], row: usize, columns: &mut [u8]) {
    if let Some(lines) = whole_band(band, row) {
        for (index, column) in columns.as_chunks_mut::<BAND>().0.iter_mut().enumerate() {
            for (value, line) in column.iter_mut().zip(&lines) {
                *value = line[index];
            }
        }
        return;
    }
    for (line_index, line) in band.chunks_exact(row).enumerate() {
        for (column, &value) in columns.as_chunks_mut::<BAND>().0.iter_mut().zip(line) {
            column[line_index] = value;
        }
    }
}

/// The inverse of [`transpose_to_columns`].
fn transpose_to_rows(columns: &[u8], row: usize, band: &mut [u8]) {
    for (line_index, line) in band.chunks_exact_mut(row).enumerate() {
        for (column, value) in columns.as_chunks::<BAND>().0.iter().zip(line) {
            *value = column[line_index];
        }
    }
}

fn whole_band(band: &[u8], row: usize) -> Option<[&[u8]; BAND]> {
    (band.len() == row * BAND).then(|| std::array::from_fn(|index| &band[index * row..(index + 1) * row]))
}
