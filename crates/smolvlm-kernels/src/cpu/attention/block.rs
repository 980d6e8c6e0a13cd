//! A block of query rows on its way through the parts of its keys.

use super::{HeadShape, NOTHING, PART};
use crate::aligned::numbers_mut;
use crate::cpu::CpuBackend;
use crate::cpu::lanes::{Softmax, SoftmaxPart};
use crate::cpu::matmul::{Dot, PANEL, Panels, Rows, Session, TILE_ROWS, Tile, chunks};
use crate::cpu::shared::SharedRows;

/// One block of query rows on its way through the parts.
pub(super) struct Block<'m> {
    pub(super) shape: HeadShape,
    pub(super) rows: usize,
    /// `[rows, d]`, as products take them.
    pub(super) queries: &'m mut [u8],
    /// `[rows, keys of a part]`, likewise.
    pub(super) weights: &'m mut [u8],
    /// Scores of a part.
    pub(super) scores: &'m mut [Tile],
    /// Weighted values of a part.
    pub(super) sums: &'m mut [Tile],
    /// The same of the parts so far, `[rows, value panels × 32]`.
    pub(super) merged: &'m mut [f32],
    pub(super) state: [SoftmaxPart; TILE_ROWS],
}

impl<'m> Block<'m> {
    /// Bytes of a block's memory.
    pub(super) fn bytes(shape: HeadShape) -> usize {
        let tiles = (PART / PANEL + shape.value_panels) * size_of::<Tile>();
        let rows = shape.row(shape.dim) + shape.row(PART) + shape.value_panels * PANEL * size_of::<f32>();
        tiles + TILE_ROWS * rows
    }

    pub(super) fn new(shape: HeadShape, rows: usize, memory: &'m mut [u8]) -> Self {
        let (tiles, memory) = memory.split_at_mut((PART / PANEL + shape.value_panels) * size_of::<Tile>());
        let (scores, sums) = Tile::all_in(tiles).split_at_mut(PART / PANEL);
        let (queries, memory) = memory.split_at_mut(TILE_ROWS * shape.row(shape.dim));
        let (weights, memory) = memory.split_at_mut(TILE_ROWS * shape.row(PART));
        let merged = &mut numbers_mut(memory)[..TILE_ROWS * shape.value_panels * PANEL];
        Self { shape, rows, queries, weights, scores, sums, merged, state: [NOTHING; TILE_ROWS] }
    }

    /// Stores a query row.
    pub(super) fn set_query(&mut self, backend: &CpuBackend, row: usize, query: &[f32]) {
        let stride = self.shape.row(self.shape.dim);
        let target = &mut self.queries[row * stride..][..stride];
        let used = self.shape.dim * self.shape.number;
        target[used..].fill(0);
        match self.shape.dot {
            Dot::F32 => numbers_mut(&mut target[..used]).copy_from_slice(query),
            _ => backend.isa.rows.round(query, numbers_mut(&mut target[..used])),
        }
    }

    /// Scores of all rows against some panels of 32 keys, the part's from `first` on.
    pub(super) fn score(&mut self, session: &Session<'_>, first: usize, count: usize, keys: &[u8]) {
        let shape = self.shape;
        let queries = Rows { bytes: self.queries, stride: shape.row(shape.dim), count: self.rows };
        let panels = Panels { bytes: keys, stride: shape.panel(shape.dim), count };
        let chunks = chunks(shape.dim, shape.number);
        session.multiply(shape.dot, queries, panels, chunks, &mut self.scores[first..first + count], false);
    }

    /// Weights from the first `count(row)` scores of each row, over `panels` panels.
    pub(super) fn weigh(
        &mut self,
        backend: &CpuBackend,
        panels: usize,
        scale: f32,
        count: impl Fn(usize) -> usize,
    ) -> [SoftmaxPart; TILE_ROWS] {
        let mut counts = [0; TILE_ROWS];
        counts.iter_mut().enumerate().take(self.rows).for_each(|(row, to)| *to = count(row).min(panels * PANEL));
        let mut parts = [NOTHING; TILE_ROWS];
        let mut softmax = Softmax {
            scores: &mut self.scores[..panels],
            counts: &counts[..self.rows],
            scale,
            parts: &mut parts[..self.rows],
        };
        let stride = self.shape.row(PART) / self.shape.number;
        match self.shape.dot {
            Dot::F32 => backend.isa.rows.softmax(&mut softmax, numbers_mut(self.weights), stride),
            _ => backend.isa.rows.softmax_bf16(&mut softmax, numbers_mut(self.weights), stride),
        }
        parts
    }

    /// Adds weighted values: `keys` weights from `first` on meet panels of as many values.
    pub(super) fn add_values(
        &mut self,
        session: &Session<'_>,
        values: &[u8],
        stride: usize,
        first: usize,
        keys: usize,
    ) {
        let shape = self.shape;
        let weights = Rows { bytes: &self.weights[first * shape.number..], stride: shape.row(PART), count: self.rows };
        let panels = Panels { bytes: values, stride, count: shape.value_panels };
        session.multiply(shape.dot, weights, panels, chunks(keys, shape.number), self.sums, first > 0);
    }

    /// The weighted values of a row of the current part.
    pub(super) fn part_values(&self, row: usize) -> impl Iterator<Item = &[f32; PANEL]> {
        self.sums.iter().map(move |tile| &tile.0[row])
    }

    /// Merges the current part into what came before.
    pub(super) fn merge(&mut self, backend: &CpuBackend, parts: &[SoftmaxPart; TILE_ROWS]) {
        backend.isa.rows.merge_block(&mut self.state[..self.rows], self.merged, parts, self.sums);
    }

    /// Writes the finished rows.
    pub(super) fn write(&self, backend: &CpuBackend, out: &HeadOutput<'_>, place: impl Fn(usize) -> (usize, usize)) {
        let width = self.shape.value_panels * PANEL;
        for row in 0..self.rows {
            out.write(backend, place(row), &self.merged[row * width..][..self.shape.dim], self.state[row].sum);
        }
    }
}

/// Where attention's rows go.
pub(super) struct HeadOutput<'a> {
    pub(super) rows: SharedRows<'a>,
    pub(super) narrow: bool,
}

impl HeadOutput<'_> {
    /// Writes `values ÷ sum` to `(row, first number)`.
    pub(super) fn write(&self, backend: &CpuBackend, (row, first): (usize, usize), values: &[f32], sum: f32) {
        // SAFETY: every row of every head is written once.
        unsafe {
            if self.narrow {
                backend.isa.rows.divide_bf16(values, sum, self.rows.segment(row, first, values.len()));
            } else {
                backend.isa.rows.divide(values, sum, self.rows.segment(row, first, values.len()));
            }
        }
    }
}
