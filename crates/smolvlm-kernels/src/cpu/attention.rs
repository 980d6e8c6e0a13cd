//! Attention inside tiles, and over pages of keys and values.
//!
//! A few query rows meet all their keys at once: scores, softmax, weighted values. Every row's sums run along its own
//! keys in order, so they are the same whichever rows share a tile.

use rayon::prelude::*;

use super::CpuBackend;
use super::cache::{Cache, Page};
use super::matmul::{PANEL, Rows, TILE_ROWS, Tile};
use super::scratch;
use super::shared::SharedRows;
use super::tensor::Tensor;
use crate::backend::{PAGE_TOKENS, Segment};

/// Query rows in a task, when there are many; a multiple of a tile's rows.
const TASK_QUERIES: usize = 48;
/// Up to this many query rows each is a task of its own, so that decoding keeps every thread busy.
const FEW_QUERIES: usize = 8;

const EMPTY: Tile = [[0.0; PANEL]; TILE_ROWS];

/// Full attention inside each group of `n` rows of `qkv` `[rows, 3 × heads × d]`.
pub(super) fn tiles(backend: &CpuBackend, qkv: &Tensor, n: usize, heads: usize) -> Tensor {
    let dim = qkv.width() / (3 * heads);
    let mut out = backend.tensor(qkv.rows(), heads * dim);
    let shared = SharedRows::new(&mut out);
    (0..qkv.rows() / n * heads).into_par_iter().for_each(|task| {
        let head = TileHead { qkv, first: task / heads * n, n, heads, head: task % heads, dim };
        head.attend(backend, &shared);
    });
    out
}

/// One head of one tile.
struct TileHead<'a> {
    qkv: &'a Tensor,
    first: usize,
    n: usize,
    heads: usize,
    head: usize,
    dim: usize,
}

impl TileHead<'_> {
    fn attend(&self, backend: &CpuBackend, out: &SharedRows<'_>) {
        let key_panels = self.n.div_ceil(PANEL);
        let value_panels = self.dim.div_ceil(PANEL);
        let (keys_len, values_len) = (key_panels * self.dim * PANEL, value_panels * self.n * PANEL);
        let scores_width = key_panels * PANEL;
        scratch::with(keys_len + values_len + TILE_ROWS * (scores_width + self.dim), |memory| {
            let (keys, memory) = memory.split_at_mut(keys_len);
            let (values, memory) = memory.split_at_mut(values_len);
            let (scores, queries) = memory.split_at_mut(TILE_ROWS * scores_width);
            self.pack_keys(keys);
            self.pack_values(values);
            let kernels = &backend.isa;
            for first in (0..self.n).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(self.n - first);
                for row in 0..rows {
                    scale_query(self.part(first + row, 0), &mut queries[row * self.dim..][..self.dim]);
                }
                for panel in 0..key_panels {
                    let mut tile = EMPTY;
                    let keys = &keys[panel * self.dim * PANEL..];
                    let queries = Rows { data: queries, stride: self.dim, count: rows };
                    kernels.tiles.f32(queries, keys, self.dim, &mut tile, false);
                    for (row, sums) in tile.iter().enumerate().take(rows) {
                        scores[row * scores_width + panel * PANEL..][..PANEL].copy_from_slice(sums);
                    }
                }
                let mut inverse = [0.0; TILE_ROWS];
                for (row, inverse) in inverse.iter_mut().enumerate().take(rows) {
                    *inverse = 1.0 / kernels.rows.softmax(&mut scores[row * scores_width..][..self.n]);
                }
                for panel in 0..value_panels {
                    let mut tile = EMPTY;
                    let values = &values[panel * self.n * PANEL..];
                    let weights = Rows { data: scores, stride: scores_width, count: rows };
                    kernels.tiles.f32(weights, values, self.n, &mut tile, false);
                    for row in 0..rows {
                        self.write(first + row, panel, &tile[row], inverse[row], out);
                    }
                }
            }
        });
    }

    /// The query (0), key (1) or value (2) of a row.
    fn part(&self, row: usize, which: usize) -> &[f32] {
        &self.qkv.row(self.first + row)[(which * self.heads + self.head) * self.dim..][..self.dim]
    }

    /// `[panels, d, 64 keys]`; keys past the last are zeros.
    fn pack_keys(&self, keys: &mut [f32]) {
        keys[self.n / PANEL * self.dim * PANEL..].fill(0.0);
        for row in 0..self.n {
            let panel = &mut keys[row / PANEL * self.dim * PANEL..];
            for (i, key) in self.part(row, 1).iter().enumerate() {
                panel[i * PANEL + row % PANEL] = *key;
            }
        }
    }

    /// `[⌈d / 64⌉, n, 64]`; columns past `d` are zeros.
    fn pack_values(&self, values: &mut [f32]) {
        for (panel, values) in values.chunks_mut(self.n * PANEL).enumerate() {
            for (row, target) in values.chunks_mut(PANEL).enumerate() {
                let source = &self.part(row, 2)[panel * PANEL..];
                let len = source.len().min(PANEL);
                target[..len].copy_from_slice(&source[..len]);
                target[len..].fill(0.0);
            }
        }
    }

    fn write(&self, row: usize, panel: usize, sums: &[f32; PANEL], inverse: f32, out: &SharedRows<'_>) {
        let len = PANEL.min(self.dim - panel * PANEL);
        // SAFETY: each (tile, head) is one task, and each of its rows and panels is written once.
        let target = unsafe { out.segment(self.first + row, self.head * self.dim + panel * PANEL, len) };
        target.iter_mut().zip(sums).for_each(|(target, sum)| *target = sum * inverse);
    }
}

/// Causal attention of rotated queries over the segments' pages. `qkv` is `[T, (heads + 2 × kv_heads) × d]`.
pub(super) fn paged(backend: &CpuBackend, segments: &[Segment], qkv: &Tensor, cache: &Cache, layer: usize) -> Tensor {
    let shape = cache.shape();
    let dim = shape.head_dim;
    let heads = qkv.width() / dim - 2 * shape.kv_heads;
    let mut out = backend.tensor(qkv.rows(), heads * dim);
    let shared = SharedRows::new(&mut out);
    let group = heads / shape.kv_heads;
    let mut tasks = Vec::new();
    for segment in segments {
        let queries = segment.rows.len() * group;
        let step = if queries <= FEW_QUERIES { 1 } else { TASK_QUERIES };
        for kv_head in 0..shape.kv_heads {
            for first in (0..queries).step_by(step) {
                tasks.push((segment, kv_head, first..(first + step).min(queries)));
            }
        }
    }
    tasks.into_par_iter().for_each(|(segment, kv_head, queries)| {
        let head = PagedHead { backend, qkv, cache, segment, layer, kv_head, group, dim };
        for first in queries.clone().step_by(TILE_ROWS) {
            head.attend(first, TILE_ROWS.min(queries.end - first), &shared);
        }
    });
    out
}

/// The query heads of one sequence that share a key-value head. Query `q` is head `q mod group` of token `q / group`.
struct PagedHead<'a> {
    backend: &'a CpuBackend,
    qkv: &'a Tensor,
    cache: &'a Cache,
    segment: &'a Segment,
    layer: usize,
    kv_head: usize,
    group: usize,
    dim: usize,
}

impl PagedHead<'_> {
    /// Attention of `rows` queries from `first` on.
    fn attend(&self, first: usize, rows: usize, out: &SharedRows<'_>) {
        // A query sees its own token and all before it.
        let visible = |query: usize| self.segment.start + query / self.group + 1;
        let keys = visible(first + rows - 1);
        let pages = keys.div_ceil(PAGE_TOKENS);
        let width = pages * PAGE_TOKENS;
        scratch::with(TILE_ROWS * (width + self.dim), |memory| {
            let (scores, queries) = memory.split_at_mut(TILE_ROWS * width);
            for row in 0..rows {
                scale_query(self.query(first + row), &mut queries[row * self.dim..][..self.dim]);
            }
            for page in 0..pages {
                let mut tile = EMPTY;
                self.multiply_keys(page, Rows { data: queries, stride: self.dim, count: rows }, &mut tile);
                for (row, sums) in tile.iter().enumerate().take(rows) {
                    scores[row * width + page * PAGE_TOKENS..][..PAGE_TOKENS].copy_from_slice(sums);
                }
            }
            let mut inverse = [0.0; TILE_ROWS];
            for (row, inverse) in inverse.iter_mut().enumerate().take(rows) {
                let (seen, unseen) = scores[row * width..][..width].split_at_mut(visible(first + row));
                *inverse = 1.0 / self.backend.isa.rows.softmax(seen);
                unseen.fill(0.0);
            }
            for panel in 0..self.cache.block_shape().value_panels() {
                let mut tile = EMPTY;
                for page in 0..pages {
                    let tokens = PAGE_TOKENS.min(keys - page * PAGE_TOKENS);
                    let weights = Rows { data: &scores[page * PAGE_TOKENS..], stride: width, count: rows };
                    self.multiply_values(page, panel, weights, tokens, &mut tile);
                }
                for row in 0..rows {
                    self.write(first + row, panel, &tile[row], inverse[row], out);
                }
            }
        });
    }

    fn query(&self, query: usize) -> &[f32] {
        let head = self.kv_head * self.group + query % self.group;
        &self.qkv.row(self.segment.rows.start + query / self.group)[head * self.dim..][..self.dim]
    }

    fn multiply_keys(&self, page: usize, queries: Rows<'_, f32>, tile: &mut Tile) {
        let kernels = &self.backend.isa.tiles;
        let start = self.cache.block_start(self.layer, self.kv_head);
        match self.cache.page(self.segment.pages[page]) {
            Page::F32(data) => kernels.f32(queries, &data[start..], self.dim, tile, false),
            Page::Bf16(data) => kernels.f32_widening(queries, &data[start..], self.dim, tile, false),
        }
    }

    /// Adds the values of `tokens` tokens of a page, weighted.
    fn multiply_values(&self, page: usize, panel: usize, weights: Rows<'_, f32>, tokens: usize, tile: &mut Tile) {
        let kernels = &self.backend.isa.tiles;
        let block = self.cache.block_start(self.layer, self.kv_head);
        let start = block + self.cache.block_shape().keys() + panel * PAGE_TOKENS * PANEL;
        match self.cache.page(self.segment.pages[page]) {
            Page::F32(data) => kernels.f32(weights, &data[start..], tokens, tile, true),
            Page::Bf16(data) => kernels.f32_widening(weights, &data[start..], tokens, tile, true),
        }
    }

    fn write(&self, query: usize, panel: usize, sums: &[f32; PANEL], inverse: f32, out: &SharedRows<'_>) {
        let head = self.kv_head * self.group + query % self.group;
        let row = self.segment.rows.start + query / self.group;
        let len = PANEL.min(self.dim - panel * PANEL);
        // SAFETY: tasks cover disjoint (sequence, head, query) sets, and each row and panel is written once.
        let target = unsafe { out.segment(row, head * self.dim + panel * PANEL, len) };
        target.iter_mut().zip(sums).for_each(|(target, sum)| *target = sum * inverse);
    }
}

/// Scores are scaled by `d^-0.5`; scaling the query does so once for all keys.
fn scale_query(query: &[f32], scaled: &mut [f32]) {
    let scale = (query.len() as f32).powf(-0.5);
    scaled.iter_mut().zip(query).for_each(|(scaled, x)| *scaled = x * scale);
}
