//! Operations on whole rows.

use std::f32::consts::LOG2_E;

use super::isa::{Isa, LANES, Lanes, exp2, fold, fold_halves, larger, multiply_add, sum};
use super::{RowNorm, SoftmaxPart};
use crate::cpu::matmul::{PANEL, Tile};

#[inline(always)]
pub(super) fn norm<I: Isa>(x: &[f32], norm: &RowNorm<'_>, out: &mut [f32]) {
    match norm {
        RowNorm::Rms { weight, eps } => {
            let scale = 1.0 / (sum(x, |sum, x| multiply_add::<I>(x, x, sum)) / x.len() as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(*weight) {
                *out = x * scale * w;
            }
        }
        RowNorm::Layer { weight, bias, eps } => {
            let mean = sum(x, |sum, x| sum + x) / x.len() as f32;
            let squares = sum(x, |sum, x| multiply_add::<I>(x - mean, x - mean, sum));
            let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
            for (((out, x), w), b) in out.iter_mut().zip(x).zip(*weight).zip(*bias) {
                *out = multiply_add::<I>((x - mean) * scale, *w, *b);
            }
        }
    }
}

#[inline(always)]
pub(super) fn round<I: Isa>(x: &[f32], out: &mut [u16]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (whole, tail) = out.split_at_mut(chunks.len() * LANES);
    for (out, x) in whole.as_chunks_mut::<LANES>().0.iter_mut().zip(chunks) {
        *out = I::round(x);
    }
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    tail[..rest.len()].copy_from_slice(&I::round(&padded)[..rest.len()]);
}

#[inline(always)]
pub(super) fn quantise(x: &[f32], out: &mut [u8]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(chunk[i].abs(), lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(x.abs(), *lane);
    }
    let largest = fold(lanes, larger);
    let inverse = if largest > 0.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
    // Adding 1.5 × 2²³ rounds to an integer, ties to even, which then stands in the low bits: 128 more, in the low byte.
    const ROUND: f32 = 12_582_912.0 + 128.0;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * inverse + ROUND).to_bits() as u8;
    }
    largest / 127.0
}

#[inline(always)]
pub(super) fn softmax<I: Isa>(
    tiles: &mut [Tile],
    row: usize,
    count: usize,
    scale: f32,
    mut write: impl FnMut(usize, &Lanes),
) -> SoftmaxPart {
    let used = count.div_ceil(PANEL);
    if !count.is_multiple_of(PANEL) {
        tiles[used - 1].0[row][count % PANEL..].fill(f32::NEG_INFINITY);
    }
    let mut lanes = [[f32::NEG_INFINITY; LANES]; 2];
    for tile in &tiles[..used] {
        for (half, lanes) in tile.0[row].as_chunks::<LANES>().0.iter().zip(&mut lanes) {
            for i in 0..LANES {
                lanes[i] = larger(half[i], lanes[i]);
            }
        }
    }
    let exponent = scale * LOG2_E;
    let max = fold_halves(lanes, larger) * exponent;
    let mut lanes = [[0.0; LANES]; 2];
    for (panel, tile) in tiles.iter().enumerate().take(used) {
        for (half, lanes) in lanes.iter_mut().enumerate() {
            let mut weights = tile.0[row].as_chunks::<LANES>().0[half];
            for i in 0..LANES {
                weights[i] = exp2::<I>(multiply_add::<I>(weights[i], exponent, -max));
                lanes[i] += weights[i];
            }
            write(2 * panel + half, &weights);
        }
    }
    (2 * used..2 * tiles.len()).for_each(|i| write(i, &[0.0; LANES]));
    SoftmaxPart { max, sum: fold_halves(lanes, |a, b| a + b) }
}

#[inline(always)]
pub(super) fn merge<I: Isa>(to: &mut [f32], keep: f32, from: &[f32], take: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = multiply_add::<I>(*from, take, *to * keep);
    }
}

#[inline(always)]
pub(super) fn rotate<I: Isa>(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (out_a, out_b)) = (x.split_at(half), out.split_at_mut(half));
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        out_a[i] = multiply_add::<I>(a[i], *cos, -(b[i] * sin));
        out_b[i] = multiply_add::<I>(b[i], *cos, a[i] * sin);
    }
}
