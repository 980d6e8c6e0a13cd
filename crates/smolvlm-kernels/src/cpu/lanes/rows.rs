//! Operations on whole rows.

use super::RowNorm;
use super::isa::{Isa, LANES, fold, larger, multiply_add, sum};

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
pub(super) fn rotate<I: Isa>(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (out_a, out_b)) = (x.split_at(half), out.split_at_mut(half));
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        out_a[i] = multiply_add::<I>(a[i], *cos, -(b[i] * sin));
        out_b[i] = multiply_add::<I>(b[i], *cos, a[i] * sin);
    }
}
