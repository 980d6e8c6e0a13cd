//! Products of many rows: cut into blocks that stay in the caches.

use std::ops::Range;

use super::Product;
use crate::backend::Activation;
use crate::cpu::matmul::{CHUNK, PANEL, PANEL_CHUNK, Panels, Q4_CHUNK, Rows, Session, Tile};
use crate::cpu::{prefetch, scratch};
use crate::view::Format;

/// Tasks for each thread, so that a late one is made up for.
const TASKS_PER_THREAD: usize = 4;

/// Chunks of inputs up to which a pass is over all of them.
const SHORT: usize = 24;
/// Rows of a block whose inputs are longer, and chunks of each of its passes.
const LONG_ROWS: usize = 256;
const LONG_PASS: usize = 8;

/// How a product of many rows is cut: what a task goes back to stays in the second-level cache.
pub(super) struct Blocking {
    /// Rows of a block.
    pub(super) rows: usize,
    pub(super) blocks: usize,
    /// Runs of panels.
    pub(super) runs: usize,
    /// Chunks of inputs of a pass over a block's panels.
    pub(super) pass: usize,
}

impl Blocking {
    pub(super) fn new(product: &Product<'_>, rows: usize, panels: usize, threads: usize) -> Self {
        let (step, chunks) = (product.kernel.rows, product.weight.chunks());
        let room = product.backend.cache_bytes * 2 / 5;
        // A kernel that cuts its inputs loads and stores sums as often anyway.
        let pass = if chunks > SHORT && product.kernel.chunks < SHORT { LONG_PASS } else { SHORT };
        // The room is for a pass's part of the rows, which every panel meets, or for the sums, to which every pass adds.
        let most = if pass == SHORT { room / (SHORT * CHUNK) } else { LONG_ROWS };
        let blocks = rows.div_ceil((most / step).max(1) * step);
        let rows = rows.div_ceil(blocks).next_multiple_of(step);
        let most_panels = if chunks > pass { (room / (rows * PANEL * size_of::<f32>())).max(1) } else { panels };
        let runs = panels.div_ceil(most_panels).max((threads * TASKS_PER_THREAD).div_ceil(blocks));
        Self { rows, blocks, runs: runs.min(panels), pass }
    }
}

/// A block of rows times a run of panels.
pub(super) struct Block<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) session: Session<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    /// Chunks of inputs of a pass.
    pub(super) pass: usize,
}

impl Block<'_> {
    /// Pass after pass over the inputs; sums wait in memory between passes.
    pub(super) fn run(&self) {
        let chunks = self.product.weight.chunks();
        let row_tiles = self.rows.len().div_ceil(self.product.kernel.rows);
        let kept = if chunks > self.pass { self.panels.len() } else { 1 };
        let sums_len = kept * row_tiles * size_of::<Tile>();
        let expanded = if self.product.weight.format() == Format::Q4 { self.pass * PANEL_CHUNK } else { 0 };
        scratch::with(sums_len + expanded, |memory| {
            let (sums, memory) = memory.split_at_mut(sums_len);
            let sums = Tile::all_in(sums);
            for start in (0..chunks).step_by(self.pass) {
                let pass = start..(start + self.pass).min(chunks);
                for (i, panel) in self.panels.clone().enumerate() {
                    let sums = &mut sums[i % kept * row_tiles..][..row_tiles];
                    self.pass(panel, self.operand(panel, &pass, memory), &pass, sums);
                }
            }
        });
    }

    /// What a pass reads of a panel.
    fn operand<'m>(&'m self, panel: usize, pass: &Range<usize>, memory: &'m mut [u8]) -> &'m [u8] {
        let stored = self.stored(panel, pass);
        if self.product.weight.format() != Format::Q4 {
            return stored;
        }
        self.product.backend.isa.rows.expand_q4(stored, pass.len(), memory);
        memory
    }

    /// A pass's part of a panel as it lies.
    fn stored(&self, panel: usize, pass: &Range<usize>) -> &[u8] {
        let weight = self.product.weight;
        let chunk = if weight.format() == Format::Q4 { Q4_CHUNK } else { PANEL_CHUNK };
        &weight.panels_from(panel)[pass.start * chunk..pass.end * chunk]
    }

    /// All rows of the block by a panel, over the inputs of one pass, a few chunks at a time so that the panel stays in
    /// the first-level cache. The panel that comes next is brought nearer meanwhile, a piece before each product.
    fn pass(&self, panel: usize, operand: &[u8], pass: &Range<usize>, sums: &mut [Tile]) {
        let product = self.product;
        let (step, most) = (product.kernel.rows, product.kernel.chunks);
        let pieces = pass.len().div_ceil(most);
        let mut next = if panel + 1 < self.panels.end { self.stored(panel + 1, pass) } else { &[] };
        let share = next.len().div_ceil(sums.len() * pieces);
        for (piece, start) in pass.clone().step_by(most).enumerate() {
            let chunks = most.min(pass.end - start);
            let panels = Panels { bytes: &operand[(start - pass.start) * PANEL_CHUNK..], stride: 0, count: 1 };
            let last = start + chunks == product.weight.chunks();
            for (row, tile) in self.rows.clone().step_by(step).zip(&mut *sums) {
                let rows = step.min(self.rows.end - row);
                let bytes = &product.x.bytes_from(row)[start * CHUNK..];
                let x = Rows { bytes, stride: product.x.stride(), count: rows };
                let (soon, later) = next.split_at(share.min(next.len()));
                prefetch::read_soon(soon);
                next = later;
                if self.leaves_time(pass) {
                    product.finish_soon(row + piece * rows / pieces..row + (piece + 1) * rows / pieces, panel);
                }
                let tiles = std::slice::from_mut(tile);
                self.session.multiply(product.weight.dot(), x, panels, chunks, tiles, start > 0);
                if last {
                    product.finish(tile, row, rows, panel);
                }
            }
        }
    }

    /// Whether the rows that a pass writes had better be brought nearer during its products: those must last long enough,
    /// and writing must not be slow by itself, as with an activation.
    fn leaves_time(&self, pass: &Range<usize>) -> bool {
        let product = self.product;
        let last = pass.end == product.weight.chunks();
        last && pass.len() > LONG_PASS && product.epilogue.activation == Activation::Identity
    }
}
