//! A block of query rows on its way through the parts of its keys.

use super::{HeadShape, NOTHING, PART, merge};
use crate::aligned::numbers_mut;
use crate::cpu::CpuBackend;
use crate::cpu::lanes::SoftmaxPart;
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

    /// Scores of all rows against `panel`, 32 keys.
    pub(super) fn score(&mut self, session: &Session<'_>, panel: usize, keys: &[u8]) {
        let shape = self.shape;
        let queries = Rows { bytes: self.queries, stride: shape.row(shape.dim), count: self.rows };
        let panels = Panels { bytes: keys, stride: shape.panel(shape.dim), count: 1 };
        session.multiply(
            shape.dot,
            queries,
            panels,
            chunks(shape.dim, shape.number),
            &mut self.scores[panel..=panel],
            false,
        );
    }

    /// Weights from the first `count(row)` scores of each row, over `panels` panels.
    pub(super) fn weigh(
        &mut self,
        backend: &CpuBackend,
        panels: usize,
        scale: f32,
        count: impl Fn(usize) -> usize,
    ) -> [SoftmaxPart; TILE_ROWS] {
        let stride = self.shape.row(PART);
        let kernels = &backend.isa.rows;
        let scores = &mut self.scores[..panels];
        let mut parts = [NOTHING; TILE_ROWS];
        for (row, part) in parts.iter_mut().enumerate().take(self.rows) {
            let weights = &mut self.weights[row * stride..][..panels * PANEL * self.shape.number];
            let count = count(row).min(panels * PANEL);
            if count == 0 {
                weights.fill(0);
                continue;
            }
            *part = match self.shape.dot {
                Dot::F32 => kernels.softmax(scores, row, count, scale, numbers_mut(weights)),
                _ => kernels.softmax_bf16(scores, row, count, scale, numbers_mut(weights)),
            };
        }
        parts
    }

    /// Adds weighted values: `keys` weights from `first` on meet a panel of as many values.
    pub(super) fn add_values(&mut self, session: &Session<'_>, panel: usize, values: &[u8], first: usize, keys: usize) {
        let shape = self.shape;
        let weights = Rows { bytes: &self.weights[first * shape.number..], stride: shape.row(PART), count: self.rows };
        let panels = Panels { bytes: values, stride: shape.panel(keys), count: 1 };
        session.multiply(
            shape.dot,
            weights,
            panels,
            chunks(keys, shape.number),
            &mut self.sums[panel..=panel],
            first > 0,
        );
    }

    /// The weighted values of a row of the current part.
    pub(super) fn part_values(&self, row: usize) -> impl Iterator<Item = &[f32; PANEL]> {
        self.sums.iter().map(move |tile| &tile.0[row])
    }

    /// Merges the current part into what came before.
    pub(super) fn merge(&mut self, backend: &CpuBackend, parts: &[SoftmaxPart; TILE_ROWS]) {
        let width = self.shape.value_panels * PANEL;
        let rows = self.merged.chunks_mut(width).zip(&mut self.state).zip(parts).enumerate();
        for (row, ((merged, state), part)) in rows.take(self.rows) {
            let values = self.sums.iter().map(|tile| &tile.0[row][..]);
            *state = merge(backend, *state, merged, *part, values);
        }
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
        let inverse = 1.0 / sum;
        let mut scaled = [0.0; PANEL];
        for (i, values) in values.chunks(PANEL).enumerate() {
            let scaled = &mut scaled[..values.len()];
            scaled.iter_mut().zip(values).for_each(|(scaled, value)| *scaled = value * inverse);
            // SAFETY: every row of every head is written once.
            unsafe {
                if self.narrow {
                    backend.isa.rows.round(scaled, self.rows.segment(row, first + i * PANEL, values.len()));
                } else {
                    self.rows.segment::<f32>(row, first + i * PANEL, values.len()).copy_from_slice(scaled);
                }
            }
        }
    }
}
