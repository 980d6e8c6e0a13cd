//! A block of queries against the keys that it sees.

use super::memory::{Memory, Sizes};
use super::{BLOCK, Group, IN_CHUNK};
use crate::aligned::bytes;
use crate::cpu::matmul::{Dot, PANEL, Panels, Rows, STEP, Session, TILE_ROWS, Tile};
use crate::cpu::shared::SharedRows;

/// A block of queries of one head.
pub(super) struct QueryBlock<'a> {
    pub(super) group: &'a Group<'a>,
    pub(super) sizes: &'a Sizes,
    pub(super) session: &'a Session<'a>,
    pub(super) kernel_rows: usize,
    pub(super) head: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Whether keys and values already have gradients of other blocks.
    pub(super) add: bool,
}

impl QueryBlock<'_> {
    /// How many keys a query sees.
    fn seen(&self, row: usize) -> usize {
        if self.group.rope.is_some() { self.first + row + 1 } else { self.sizes.rows }
    }

    pub(super) fn backward(
        &self,
        memory: &mut Memory<'_>,
        keys: &mut [Tile],
        values: &mut [Tile],
        working: &mut [Tile],
        out: &SharedRows<'_>,
    ) {
        let (sizes, padded) = (self.sizes, self.sizes.padded);
        let rows = self.first * sizes.width..(self.first + BLOCK) * sizes.width;
        self.across(&memory.rows[rows.clone()], memory.keys_across, working, memory.weights);
        self.across(&memory.slopes[rows], memory.values_across, working, memory.scores);
        let kernels = self.group.backend.isa.rows.training();
        let scale = (self.group.dim as f32).powf(-0.5);
        for row in 0..BLOCK {
            let (weights, slopes) =
                (&mut memory.weights[row * padded..][..padded], &mut memory.scores[row * padded..][..padded]);
            let seen = if row < self.rows { self.seen(row) } else { 0 };
            if seen > 0 {
                kernels.attention_backward(&mut weights[..seen], &mut slopes[..seen], scale);
            }
            weights[seen..].fill(0.0);
            slopes[seen..].fill(0.0);
        }
        let reach = self.seen(self.rows - 1);
        turn(memory.weights, padded, reach, memory.turned);
        self.along(memory.turned, memory.slopes_along, reach, values);
        turn(memory.scores, padded, reach, memory.turned);
        self.along(memory.turned, memory.queries_along, reach, keys);
        self.queries(memory, reach, working, out);
    }

    /// `a · bᵀ` for the keys in reach, `[BLOCK, padded]`.
    fn across(&self, a: &[f32], b: &[f32], working: &mut [Tile], out: &mut [f32]) {
        let (sizes, panels) = (self.sizes, self.seen(self.rows - 1).div_ceil(PANEL));
        for first in (0..self.rows).step_by(self.kernel_rows) {
            let count = self.kernel_rows.min(self.rows - first);
            let rows = Rows { bytes: bytes(&a[first * sizes.width..]), stride: sizes.width * STEP, count };
            let operand = Panels { bytes: bytes(b), stride: sizes.width * PANEL * STEP, count: panels };
            self.session.multiply(Dot::F32, rows, operand, sizes.width / IN_CHUNK, working, false);
            for row in 0..count {
                let out = &mut out[(first + row) * sizes.padded..][..panels * PANEL];
                for (out, tile) in out.as_chunks_mut::<PANEL>().0.iter_mut().zip(&*working) {
                    *out = tile.0[row];
                }
            }
        }
    }

    /// Adds `turned · b` to the gradients of the keys in reach: `turned` is `[keys, BLOCK]`, `b` this block's rows of what lies
    /// along.
    fn along(&self, turned: &[f32], b: &[f32], reach: usize, gradients: &mut [Tile]) {
        let sizes = self.sizes;
        let panels =
            Panels { bytes: bytes(&b[self.first * PANEL..]), stride: sizes.padded * PANEL * STEP, count: sizes.wide };
        // What no earlier block reached has no gradient yet: all keys are taken by the first.
        let reach = if self.add { reach } else { sizes.rows };
        for (first, tiles) in (0..reach).step_by(self.kernel_rows).zip(gradients.chunks_mut(sizes.wide)) {
            let count = self.kernel_rows.min(sizes.rows - first);
            let rows = Rows { bytes: bytes(&turned[first * BLOCK..]), stride: BLOCK * STEP, count };
            self.session.multiply(Dot::F32, rows, panels, BLOCK / IN_CHUNK, tiles, self.add);
        }
    }

    /// Writes the gradient of the queries.
    fn queries(&self, memory: &Memory<'_>, reach: usize, working: &mut [Tile], out: &SharedRows<'_>) {
        let sizes = self.sizes;
        let panels = Panels { bytes: bytes(memory.keys_along), stride: sizes.padded * PANEL * STEP, count: sizes.wide };
        for first in (0..self.rows).step_by(self.kernel_rows) {
            let count = self.kernel_rows.min(self.rows - first);
            let scores = bytes(&memory.scores[first * sizes.padded..]);
            let rows = Rows { bytes: scores, stride: sizes.padded * STEP, count };
            self.session.multiply(Dot::F32, rows, panels, reach.div_ceil(IN_CHUNK), working, false);
            for row in 0..count {
                let (tiles, turn) = (&working[..sizes.wide], self.group.rope);
                self.group.write(self.first + first + row, self.head, tiles, row, turn, out);
            }
        }
    }
}

/// The first `columns` columns of a block of rows, and those up to a whole tile, as rows of `BLOCK` numbers.
fn turn(block: &[f32], stride: usize, columns: usize, out: &mut [f32]) {
    out[columns * BLOCK..].fill(0.0);
    let columns = columns.next_multiple_of(TILE_ROWS).min(stride);
    for first in (0..columns).step_by(IN_CHUNK) {
        for row in 0..BLOCK {
            for (i, number) in block[row * stride + first..][..IN_CHUNK].iter().enumerate() {
                out[(first + i) * BLOCK + row] = *number;
            }
        }
    }
}
