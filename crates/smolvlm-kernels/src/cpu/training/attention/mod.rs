//! Backward of attention, head by head, in f32: weights are computed again from queries and keys.
//!
//! With weights `P = softmax(scale · Q Kᵀ)` and the gradient `dO` of `P V`: `dP = dO Vᵀ`, `dS = scale · P ∘ (dP − rowsum(P ∘
//! dP))`, `dQ = dS K`, `dK = dSᵀ Q`, `dV = Pᵀ dO`. Blocks of queries are taken in order, each against all keys it sees, so every
//! sum runs over queries, or keys, in order.

mod block;
mod memory;

use super::Floats;
use crate::aligned::numbers_mut;
use crate::backend::Segment;
use crate::cpu::cache::MOST_HEAD_DIM;
use crate::cpu::matmul::{CHUNK, PANEL, Tile};
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::cpu::{CpuBackend, scratch};
use crate::training::{AttentionBackward, HeadCounts, Rope};
use block::QueryBlock;
use memory::{Memory, Sizes};

/// Queries of a block, a whole number of chunks of the products that run along them.
const BLOCK: usize = 32;
/// f32 of a chunk.
const IN_CHUNK: usize = CHUNK / size_of::<f32>();

pub(super) fn tiles(
    backend: &CpuBackend,
    args: &AttentionBackward<'_, CpuBackend>,
    tile_rows: usize,
    heads: usize,
) -> Tensor {
    let qkv = args.qkv;
    let dim = qkv.width() / (3 * heads);
    let mut out = backend.tensor(qkv.rows(), qkv.width(), Stored::F32);
    let shared = SharedRows::new(&mut out);
    let count = qkv.rows().checked_div(tile_rows).unwrap_or(0);
    backend.threads.run(count * heads, |task| {
        let (tile, head) = (task / heads, task % heads);
        let group = Group {
            backend,
            args,
            first_row: tile * tile_rows,
            count: tile_rows,
            dim,
            queries: head..head + 1,
            key: heads + head,
            value: 2 * heads + head,
            rope: None,
        };
        group.backward(&shared);
    });
    out
}

pub(super) fn causal(
    backend: &CpuBackend,
    segments: &[Segment],
    args: &AttentionBackward<'_, CpuBackend>,
    heads: HeadCounts,
    rope: Rope<'_, CpuBackend>,
) -> Tensor {
    let qkv = args.qkv;
    let (dim, group) = (qkv.width() / (heads.queries + 2 * heads.keys), heads.queries / heads.keys);
    let mut out = backend.tensor(qkv.rows(), qkv.width(), Stored::F32);
    let shared = SharedRows::new(&mut out);
    // Turning back is turning by the negative angle.
    let mut back = Floats::from(rope.sin.as_slice());
    back.iter_mut().for_each(|sin| *sin = -*sin);
    backend.threads.run(segments.len() * heads.keys, |task| {
        let (segment, head) = (&segments[task / heads.keys], task % heads.keys);
        assert_eq!(segment.start, 0, "whole sequences");
        let group = Group {
            backend,
            args,
            first_row: segment.rows.start,
            count: segment.rows.len(),
            dim,
            queries: head * group..(head + 1) * group,
            key: heads.queries + head,
            value: heads.queries + heads.keys + head,
            rope: Some(Turn { cos: rope.cos, sin: rope.sin, back: &back }),
        };
        group.backward(&shared);
    });
    out
}

/// Angles of positions, forwards and backwards.
#[derive(Clone, Copy)]
struct Turn<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    back: &'a [f32],
}

/// The query heads of one sequence or tile that share a head of keys and values.
struct Group<'a> {
    backend: &'a CpuBackend,
    args: &'a AttentionBackward<'a, CpuBackend>,
    first_row: usize,
    /// Rows.
    count: usize,
    dim: usize,
    /// Heads of `qkv`, counted in `dim` numbers.
    queries: std::ops::Range<usize>,
    key: usize,
    value: usize,
    /// Causal attention turns queries and keys, and each query sees its own key and those before it.
    rope: Option<Turn<'a>>,
}

impl Group<'_> {
    fn backward(&self, out: &SharedRows<'_>) {
        let sizes = Sizes::of(self.count, self.dim);
        let kernel_rows = self.backend.isa.tiles.f32.rows;
        let tiles = 2 * sizes.tiles(kernel_rows) + sizes.padded / PANEL + sizes.wide;
        let numbers = 2 * sizes.matrix() + 2 * sizes.across() + 3 * sizes.along() + 3 * BLOCK * sizes.padded;
        scratch::with(tiles * size_of::<Tile>() + numbers * size_of::<f32>(), |memory| {
            let (tiles, rest) = memory.split_at_mut(tiles * size_of::<Tile>());
            let (keys, rest_tiles) = Tile::all_in(tiles).split_at_mut(sizes.tiles(kernel_rows));
            let (values, working) = rest_tiles.split_at_mut(sizes.tiles(kernel_rows));
            let mut memory = Memory::cut(&sizes, numbers_mut(rest));
            self.load_keys(&sizes, &mut memory);
            let session = self.backend.isa.tiles.session();
            for (i, head) in self.queries.clone().enumerate() {
                self.load_queries(&sizes, &mut memory, head);
                for first in (0..self.count).step_by(BLOCK) {
                    let block = QueryBlock {
                        group: self,
                        sizes: &sizes,
                        session: &session,
                        kernel_rows,
                        head,
                        first,
                        rows: BLOCK.min(self.count - first),
                        add: i > 0 || first > 0,
                    };
                    block.backward(&mut memory, keys, values, working, out);
                }
            }
            self.write_gradient(&sizes, keys, kernel_rows, self.key, self.rope, out);
            self.write_gradient(&sizes, values, kernel_rows, self.value, None, out);
        });
    }

    /// A head of a row as f32, turned to its position.
    fn load(&self, row: usize, head: usize, turn: Option<Turn<'_>>, out: &mut [f32]) {
        let qkv = self.args.qkv;
        let (first, row_of_step) = (head * self.dim, self.first_row + row);
        let mut numbers = [0.0; MOST_HEAD_DIM];
        let numbers = &mut numbers[..self.dim];
        match qkv.stored() {
            Stored::F32 => numbers.copy_from_slice(&qkv.row(row_of_step)[first..first + self.dim]),
            _ => qkv.widen(row_of_step, first, numbers),
        }
        match turn {
            Some(turn) => {
                let angles = row * self.dim / 2..(row + 1) * self.dim / 2;
                self.backend.isa.rows.rotate(numbers, &turn.cos[angles.clone()], &turn.sin[angles], out);
            }
            None => out.copy_from_slice(numbers),
        }
    }

    fn load_keys(&self, sizes: &Sizes, memory: &mut Memory<'_>) {
        let mut row_of_d = [0.0; MOST_HEAD_DIM];
        let row_of_d = &mut row_of_d[..self.dim];
        memory.keys_across.fill(0.0);
        memory.values_across.fill(0.0);
        memory.keys_along.fill(0.0);
        for row in 0..self.count {
            self.load(row, self.key, self.rope, row_of_d);
            sizes.put_across(memory.keys_across, row, row_of_d);
            sizes.put_along(memory.keys_along, row, row_of_d);
            self.load(row, self.value, None, row_of_d);
            sizes.put_across(memory.values_across, row, row_of_d);
        }
    }

    fn load_queries(&self, sizes: &Sizes, memory: &mut Memory<'_>, head: usize) {
        let mut row_of_d = [0.0; MOST_HEAD_DIM];
        let row_of_d = &mut row_of_d[..self.dim];
        memory.rows.fill(0.0);
        memory.slopes.fill(0.0);
        memory.queries_along.fill(0.0);
        memory.slopes_along.fill(0.0);
        let first = head * self.dim;
        for row in 0..self.count {
            self.load(row, head, self.rope, row_of_d);
            memory.rows[row * sizes.width..][..self.dim].copy_from_slice(row_of_d);
            sizes.put_along(memory.queries_along, row, row_of_d);
            let dy = &self.args.dy.row::<f32>(self.first_row + row)[first..first + self.dim];
            memory.slopes[row * sizes.width..][..self.dim].copy_from_slice(dy);
            sizes.put_along(memory.slopes_along, row, dy);
        }
    }

    /// Writes an accumulated gradient to its head, turned back from its position.
    fn write_gradient(
        &self,
        sizes: &Sizes,
        tiles: &[Tile],
        kernel_rows: usize,
        head: usize,
        turn: Option<Turn<'_>>,
        out: &SharedRows<'_>,
    ) {
        for row in 0..self.count {
            let tiles = &tiles[row / kernel_rows * sizes.wide..][..sizes.wide];
            self.write(row, head, tiles, row % kernel_rows, turn, out);
        }
    }

    fn write(
        &self,
        row: usize,
        head: usize,
        tiles: &[Tile],
        tile_row: usize,
        turn: Option<Turn<'_>>,
        out: &SharedRows<'_>,
    ) {
        let mut numbers = [0.0; MOST_HEAD_DIM];
        for (numbers, tile) in numbers.chunks_mut(PANEL).zip(tiles) {
            numbers.copy_from_slice(&tile.0[tile_row]);
        }
        // SAFETY: each head of each row is written once, by the task of its group.
        let to = unsafe { out.segment(self.first_row + row, head * self.dim, self.dim) };
        match turn {
            Some(turn) => {
                let angles = row * self.dim / 2..(row + 1) * self.dim / 2;
                let (cos, back) = (&turn.cos[angles.clone()], &turn.back[angles]);
                self.backend.isa.rows.rotate(&numbers[..self.dim], cos, back, to);
            }
            None => to.copy_from_slice(&numbers[..self.dim]),
        }
    }
}
