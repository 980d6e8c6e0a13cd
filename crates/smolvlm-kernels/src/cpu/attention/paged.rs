//! Causal attention over pages of keys and values.

use std::ops::Range;

use super::block::{Block, HeadOutput};
use super::{HeadShape, NOTHING, PART, PART_PAGES, score_scale};
use crate::aligned::{numbers, numbers_mut};
use crate::backend::{PAGE_TOKENS, Segment, TokenBatch};
use crate::cpu::cache::{Cache, MOST_HEAD_DIM};
use crate::cpu::lanes::SoftmaxPart;
use crate::cpu::matmul::{Dot, PANEL, Session, TILE_ROWS};
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::cpu::{CpuBackend, scratch};

/// Up to this many blocks of query rows, parts are tasks of their own, so that decoding keeps every thread busy.
const FEW_BLOCKS: usize = 1;

/// Causal attention of the segments' queries over their pages. `qkv` is `[T, (heads + 2 × kv_heads) × d]`, f32.
pub(in crate::cpu) fn paged(
    backend: &CpuBackend,
    batch: &TokenBatch,
    qkv: &Tensor,
    cache: &Cache,
    layer: usize,
    rope: (&[f32], &[f32]),
) -> Tensor {
    let format = cache.shape();
    let dot = cache.dot();
    let shape = HeadShape::new(format.head_dim, dot);
    let heads = qkv.width() / shape.dim - 2 * format.kv_heads;
    let narrow = dot == Dot::Bf16;
    let mut out = backend.tensor(qkv.rows(), heads * shape.dim, if narrow { Stored::Bf16 } else { Stored::F32 });
    let output = HeadOutput { narrow, rows: SharedRows::new(&mut out) };
    let group = heads / format.kv_heads;
    let block_rows = backend.isa.tiles.of(dot).rows;
    for segment in &batch.segments {
        let queries = segment.rows.len() * group;
        let blocks = queries.div_ceil(block_rows);
        let head = |kv_head| PagedHead {
            backend,
            qkv,
            cache,
            segment,
            pages: batch.pages_of(segment),
            layer,
            kv_head,
            group,
            shape,
            rope,
        };
        if blocks <= FEW_BLOCKS {
            split_parts(backend, &head, queries, format.kv_heads, &output);
            continue;
        }
        // The longest blocks first, so that the last to finish are short.
        backend.threads.run(blocks * format.kv_heads, |task| {
            let first = (blocks - 1 - task / format.kv_heads) * block_rows;
            head(task % format.kv_heads).attend(first, block_rows.min(queries - first), &output);
        });
    }
    out
}

/// One block of queries a head: every part of every head is a task, merged afterwards.
fn split_parts<'a>(
    backend: &CpuBackend,
    head: &(impl Fn(usize) -> PagedHead<'a> + Sync),
    queries: usize,
    kv_heads: usize,
    out: &HeadOutput<'_>,
) {
    let first = head(0);
    let shape = first.shape;
    let parts = (first.segment.start + first.segment.rows.len()).div_ceil(PART);
    let width = shape.value_panels * PANEL;
    // One row: its maximum, its sum, and the values.
    let stride = (2 + width) * size_of::<f32>();
    let mut results = backend.buffers.take(kv_heads * parts * queries * stride);
    let shared = SharedRows::of(&mut results, stride);
    backend.threads.run(kv_heads * parts, |task| {
        let (kv_head, part) = (task / parts, task % parts);
        scratch::with(Block::bytes(shape), |memory| {
            let mut block = Block::new(shape, queries, memory);
            let head = head(kv_head);
            let session = backend.isa.tiles.session();
            head.load_queries(&mut block, 0);
            let weighed = head.part(&session, &mut block, 0, part);
            for (row, weighed) in weighed.iter().enumerate().take(queries) {
                // SAFETY: each part of each row is computed once.
                let target: &mut [f32] = unsafe { shared.segment(task * queries + row, 0, 2 + width) };
                (target[0], target[1]) = (weighed.max, weighed.sum);
                target[2..]
                    .chunks_mut(PANEL)
                    .zip(block.part_values(row))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            }
        });
    });
    let results: &[f32] = numbers(&results);
    scratch::with(width * size_of::<f32>(), |memory| {
        let merged = &mut numbers_mut::<f32>(memory)[..width];
        for (kv_head, row) in (0..kv_heads).flat_map(|kv_head| (0..queries).map(move |row| (kv_head, row))) {
            let mut state = NOTHING;
            for part in 0..parts {
                let result = &results[((kv_head * parts + part) * queries + row) * (2 + width)..][..2 + width];
                let part = SoftmaxPart { max: result[0], sum: result[1] };
                state = backend.isa.rows.merge(state, merged, part, &result[2..]);
            }
            out.write(backend, head(kv_head).place(row), &merged[..shape.dim], state.sum);
        }
    });
}

/// The query heads of one sequence that share a key-value head. Query `q` is head `q mod group` of token `q / group`.
struct PagedHead<'a> {
    backend: &'a CpuBackend,
    qkv: &'a Tensor,
    cache: &'a Cache,
    segment: &'a Segment,
    pages: &'a [u32],
    layer: usize,
    kv_head: usize,
    group: usize,
    shape: HeadShape,
    /// Cosines and sines of every position.
    rope: (&'a [f32], &'a [f32]),
}

impl PagedHead<'_> {
    /// Attention of `rows` queries from `first` on, part by part.
    fn attend(&self, first: usize, rows: usize, out: &HeadOutput<'_>) {
        scratch::with(Block::bytes(self.shape), |memory| {
            let session = self.backend.isa.tiles.session();
            let mut block = Block::new(self.shape, rows, memory);
            self.load_queries(&mut block, first);
            for part in 0..self.visible(first + rows - 1).div_ceil(PART) {
                let weighed = self.part(&session, &mut block, first, part);
                block.merge(self.backend, &weighed);
            }
            block.write(self.backend, out, |row| self.place(first + row));
        });
    }

    /// A query sees its own token and all before it.
    fn visible(&self, query: usize) -> usize {
        self.segment.start + query / self.group + 1
    }

    /// A block's rows against one part of the pages.
    fn part(
        &self,
        session: &Session<'_>,
        block: &mut Block<'_>,
        first: usize,
        part: usize,
    ) -> [SoftmaxPart; TILE_ROWS] {
        let shape = self.shape;
        let seen = (self.visible(first + block.rows - 1) - part * PART).min(PART);
        let pages: Range<usize> = part * PART_PAGES..part * PART_PAGES + seen.div_ceil(PAGE_TOKENS);
        for (i, page) in pages.clone().enumerate() {
            let keys = self.cache.keys(self.pages[page], self.layer, self.kv_head);
            block.score(session, i * (PAGE_TOKENS / PANEL), PAGE_TOKENS / PANEL, keys);
        }
        let visible = |row| self.visible(first + row).saturating_sub(part * PART);
        let weighed = block.weigh(self.backend, pages.len() * (PAGE_TOKENS / PANEL), score_scale(shape.dim), visible);
        for (i, page) in pages.enumerate() {
            let values = self.cache.values(self.pages[page], self.layer, self.kv_head);
            block.add_values(session, values, shape.panel(PAGE_TOKENS), i * PAGE_TOKENS, PAGE_TOKENS);
        }
        weighed
    }

    /// Queries turned to their positions.
    fn load_queries(&self, block: &mut Block<'_>, first: usize) {
        let (dim, half) = (self.shape.dim, self.shape.dim / 2);
        let mut rotated = [0.0; MOST_HEAD_DIM];
        for row in 0..block.rows {
            let (token, at) = self.place(first + row);
            let position = self.segment.start + token - self.segment.rows.start;
            let angles = position * half..(position + 1) * half;
            let query = &self.qkv.row(token)[at..at + dim];
            let rotated = &mut rotated[..dim];
            self.backend.isa.rows.rotate(query, &self.rope.0[angles.clone()], &self.rope.1[angles], rotated);
            block.set_query(self.backend, row, rotated);
        }
    }

    /// The step's row, and the number in it, where a query begins.
    fn place(&self, query: usize) -> (usize, usize) {
        let head = self.kv_head * self.group + query % self.group;
        (self.segment.rows.start + query / self.group, head * self.shape.dim)
    }
}
