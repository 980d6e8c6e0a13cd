//! What attention does between its two products: scores become weights, parts are merged, sums become means.

use std::f32::consts::LOG2_E;

use super::SoftmaxPart;
use super::isa::{Isa, LANES, Lanes, exp2, fold_halves, larger, multiply_add};
use crate::cpu::matmul::{PANEL, TILE_ROWS, Tile};

/// A block of rows of scores.
pub(in crate::cpu) struct Softmax<'a> {
    /// Side by side: of every row the first 32, the next 32, and so on.
    pub(in crate::cpu) scores: &'a mut [Tile],
    /// How many scores of each row count, from the first on.
    pub(in crate::cpu) counts: &'a [usize],
    /// What scores are multiplied by.
    pub(in crate::cpu) scale: f32,
    /// What comes of each row.
    pub(in crate::cpu) parts: &'a mut [SoftmaxPart],
}

impl Softmax<'_> {
    pub(super) fn check(&self, out: usize, stride: usize) {
        let (rows, width) = (self.counts.len(), self.scores.len() * PANEL);
        assert!(rows <= TILE_ROWS && self.parts.len() == rows, "rows of the tiles");
        assert!(self.counts.iter().all(|count| *count <= width), "scores inside the tiles");
        assert!(width <= stride && out >= rows * stride, "a place for each weight");
    }
}

/// All maxima first: the next row's exponentials need not wait for theirs.
#[inline(always)]
pub(super) fn softmax<I: Isa, T: Copy + Default>(
    softmax: &mut Softmax<'_>,
    out: &mut [T],
    stride: usize,
    round: impl Fn(&Lanes) -> [T; LANES],
) {
    let exponent = softmax.scale * LOG2_E;
    for (row, (part, count)) in softmax.parts.iter_mut().zip(softmax.counts).enumerate() {
        part.max = largest(softmax.scores, row, *count) * exponent;
    }
    let width = softmax.scores.len() * PANEL;
    let rows = softmax.parts.iter_mut().zip(softmax.counts).zip(out.chunks_mut(stride)).enumerate();
    for (row, ((part, count), out)) in rows {
        let (weights, unused) = out[..width].split_at_mut(count.div_ceil(PANEL) * PANEL);
        unused.fill(T::default());
        let mut sums = [[0.0; LANES]; 2];
        for (tile, weights) in softmax.scores.iter().zip(weights.as_chunks_mut::<PANEL>().0) {
            let scores = tile.0[row].as_chunks::<LANES>().0;
            for ((scores, weights), sums) in scores.iter().zip(weights.as_chunks_mut().0).zip(&mut sums) {
                let mut exponentials = *scores;
                for i in 0..LANES {
                    exponentials[i] = exp2::<I>(multiply_add::<I>(scores[i], exponent, -part.max));
                    sums[i] += exponentials[i];
                }
                *weights = round(&exponentials);
            }
        }
        part.sum = fold_halves(sums, |a, b| a + b);
    }
}

/// The largest of a row's first scores; those that do not count become −∞ as far as their panel reaches.
#[inline(always)]
fn largest(scores: &mut [Tile], row: usize, count: usize) -> f32 {
    let used = count.div_ceil(PANEL);
    if !count.is_multiple_of(PANEL) {
        scores[used - 1].0[row][count % PANEL..].fill(f32::NEG_INFINITY);
    }
    let mut lanes = [[f32::NEG_INFINITY; LANES]; 2];
    for tile in &scores[..used] {
        for (half, lanes) in tile.0[row].as_chunks::<LANES>().0.iter().zip(&mut lanes) {
            for i in 0..LANES {
                lanes[i] = larger(half[i], lanes[i]);
            }
        }
    }
    fold_halves(lanes, larger)
}

/// Adds a part of a row to the parts before it: weights of both are brought to the larger maximum.
#[inline(always)]
pub(super) fn merge<'v, I: Isa>(
    before: SoftmaxPart,
    merged: &mut [f32],
    part: SoftmaxPart,
    values: impl Iterator<Item = &'v [f32; PANEL]>,
) -> SoftmaxPart {
    if part.sum == 0.0 {
        return before;
    }
    let panels = merged.as_chunks_mut::<PANEL>().0.iter_mut().zip(values);
    if before.sum == 0.0 {
        panels.for_each(|(to, from)| *to = *from);
        return part;
    }
    let max = larger(before.max, part.max);
    let (keep, take) = (exp2::<I>(before.max - max), exp2::<I>(part.max - max));
    for (to, from) in panels {
        for i in 0..PANEL {
            to[i] = multiply_add::<I>(from[i], take, to[i] * keep);
        }
    }
    SoftmaxPart { max, sum: multiply_add::<I>(part.sum, take, before.sum * keep) }
}

/// The same of each row of a block.
#[inline(always)]
pub(super) fn merge_block<I: Isa>(
    before: &mut [SoftmaxPart],
    merged: &mut [f32],
    parts: &[SoftmaxPart],
    sums: &[Tile],
) {
    let rows = before.iter_mut().zip(merged.chunks_mut(sums.len() * PANEL)).zip(parts);
    for (row, ((before, merged), part)) in rows.enumerate() {
        *before = merge::<I>(*before, merged, *part, sums.iter().map(|tile| &tile.0[row]));
    }
}

/// Divides a row by its sum.
#[inline(always)]
pub(super) fn divide<T: Copy>(values: &[f32], sum: f32, out: &mut [T], round: impl Fn(&Lanes) -> [T; LANES]) {
    let inverse = 1.0 / sum;
    let scaled = |values: &[f32; LANES]| {
        let mut scaled = *values;
        scaled.iter_mut().for_each(|value| *value *= inverse);
        round(&scaled)
    };
    let ((whole, rest), (out, last)) = (values.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    whole.iter().zip(out).for_each(|(values, out)| *out = scaled(values));
    if !rest.is_empty() {
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        last.copy_from_slice(&scaled(&padded)[..rest.len()]);
    }
}
