//! Attention inside tiles, and over pages of keys and values.
//!
//! A block of query rows meets its keys in parts of 256: scores, softmax of the part, weighted values; the parts are
//! then merged in order by their maxima and sums. Parts begin at the same keys for every query, so a row's numbers are the
//! same whichever rows share its block, and whether one thread computes all parts or each a part.

use std::ops::Range;

use super::CpuBackend;
use super::cache::{Cache, MOST_HEAD_DIM};
use super::lanes::SoftmaxPart;
use super::matmul::{CHUNK, Dot, PANEL, Panels, Rows, STEP, Session, TILE_ROWS, Tile, chunks};
use super::scratch;
use super::shared::SharedRows;
use super::tensor::{Stored, Tensor};
use crate::aligned::{LINE, numbers, numbers_mut};
use crate::backend::{PAGE_TOKENS, Segment, TokenBatch};

/// Keys of a part: their scores stay in the first-level cache.
const PART: usize = 256;
const PART_PAGES: usize = PART / PAGE_TOKENS;
/// Up to this many blocks of query rows, parts are tasks of their own, so that decoding keeps every thread busy.
const FEW_BLOCKS: usize = 1;

/// Sizes of one head's work.
#[derive(Clone, Copy)]
struct HeadShape {
    dim: usize,
    /// Panels of a row of values.
    value_panels: usize,
    dot: Dot,
    number: usize,
}

impl HeadShape {
    fn new(dim: usize, dot: Dot) -> Self {
        Self { dim, value_panels: dim.div_ceil(PANEL), dot, number: if dot == Dot::F32 { 4 } else { 2 } }
    }

    /// Bytes of a panel over `inputs` numbers.
    fn panel(self, inputs: usize) -> usize {
        chunks(inputs, self.number) * CHUNK * PANEL
    }

    /// Bytes of a row of `inputs` numbers, an odd number of cache lines.
    fn row(self, inputs: usize) -> usize {
        ((chunks(inputs, self.number) * CHUNK / LINE) | 1) * LINE
    }
}

/// One block of query rows on its way through the parts.
struct Block<'m> {
    shape: HeadShape,
    rows: usize,
    /// `[rows, d]`, as products take them.
    queries: &'m mut [u8],
    /// `[rows, keys of a part]`, likewise.
    weights: &'m mut [u8],
    /// Scores of a part.
    scores: &'m mut [Tile],
    /// Weighted values of a part.
    sums: &'m mut [Tile],
    /// The same of the parts so far, `[rows, value panels × 32]`.
    merged: &'m mut [f32],
    state: [SoftmaxPart; TILE_ROWS],
}

/// No part yet.
const NOTHING: SoftmaxPart = SoftmaxPart { max: f32::NEG_INFINITY, sum: 0.0 };

impl<'m> Block<'m> {
    /// Bytes of a block's memory.
    fn bytes(shape: HeadShape) -> usize {
        let tiles = (PART / PANEL + shape.value_panels) * size_of::<Tile>();
        let rows = shape.row(shape.dim) + shape.row(PART) + shape.value_panels * PANEL * size_of::<f32>();
        tiles + TILE_ROWS * rows
    }

    fn new(shape: HeadShape, rows: usize, memory: &'m mut [u8]) -> Self {
        let (tiles, memory) = memory.split_at_mut((PART / PANEL + shape.value_panels) * size_of::<Tile>());
        let (scores, sums) = Tile::all_in(tiles).split_at_mut(PART / PANEL);
        let (queries, memory) = memory.split_at_mut(TILE_ROWS * shape.row(shape.dim));
        let (weights, memory) = memory.split_at_mut(TILE_ROWS * shape.row(PART));
        let merged = &mut numbers_mut(memory)[..TILE_ROWS * shape.value_panels * PANEL];
        Self { shape, rows, queries, weights, scores, sums, merged, state: [NOTHING; TILE_ROWS] }
    }

    /// Stores a query row.
    fn set_query(&mut self, backend: &CpuBackend, row: usize, query: &[f32]) {
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
    fn score(&mut self, session: &Session<'_>, panel: usize, keys: &[u8]) {
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
    fn weigh(
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
    fn add_values(&mut self, session: &Session<'_>, panel: usize, values: &[u8], first: usize, keys: usize) {
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
    fn part_values(&self, row: usize) -> impl Iterator<Item = &[f32; PANEL]> {
        self.sums.iter().map(move |tile| &tile.0[row])
    }

    /// Merges the current part into what came before.
    fn merge(&mut self, backend: &CpuBackend, parts: &[SoftmaxPart; TILE_ROWS]) {
        let width = self.shape.value_panels * PANEL;
        let rows = self.merged.chunks_mut(width).zip(&mut self.state).zip(parts).enumerate();
        for (row, ((merged, state), part)) in rows.take(self.rows) {
            let values = self.sums.iter().map(|tile| &tile.0[row][..]);
            *state = merge(backend, *state, merged, *part, values);
        }
    }

    /// Writes the finished rows.
    fn write(&self, backend: &CpuBackend, out: &HeadOutput<'_>, place: impl Fn(usize) -> (usize, usize)) {
        let width = self.shape.value_panels * PANEL;
        for row in 0..self.rows {
            out.write(backend, place(row), &self.merged[row * width..][..self.shape.dim], self.state[row].sum);
        }
    }
}

/// Where attention's rows go.
struct HeadOutput<'a> {
    rows: SharedRows<'a>,
    narrow: bool,
}

impl HeadOutput<'_> {
    /// Writes `values ÷ sum` to `(row, first number)`.
    fn write(&self, backend: &CpuBackend, (row, first): (usize, usize), values: &[f32], sum: f32) {
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

/// Adds a part to the parts before it: weights of both are brought to the larger maximum.
fn merge<'v>(
    backend: &CpuBackend,
    before: SoftmaxPart,
    merged: &mut [f32],
    part: SoftmaxPart,
    values: impl Iterator<Item = &'v [f32]>,
) -> SoftmaxPart {
    if part.sum == 0.0 {
        return before;
    }
    if before.sum == 0.0 {
        merged.chunks_mut(PANEL).zip(values).for_each(|(to, from)| to.copy_from_slice(from));
        return part;
    }
    let max = before.max.max(part.max);
    let (keep, take) = ((before.max - max).exp2(), (part.max - max).exp2());
    for (to, from) in merged.chunks_mut(PANEL).zip(values) {
        backend.isa.rows.merge(to, keep, from, take);
    }
    SoftmaxPart { max, sum: before.sum * keep + part.sum * take }
}

/// `d^-0.5`, by which scores are scaled.
fn score_scale(dim: usize) -> f32 {
    (dim as f32).powf(-0.5)
}

/// Full attention inside each group of `n` rows of `qkv` `[rows, 3 × heads × d]`.
pub(super) fn tiles(backend: &CpuBackend, qkv: &Tensor, n: usize, heads: usize) -> Tensor {
    let dot = if qkv.stored() == Stored::F32 { Dot::F32 } else { Dot::Bf16 };
    let shape = HeadShape::new(qkv.width() / (3 * heads), dot);
    let mut out = backend.tensor(qkv.rows(), heads * shape.dim, qkv.stored());
    let output = HeadOutput { narrow: qkv.stored() == Stored::Bf16, rows: SharedRows::new(&mut out) };
    backend.threads.run(qkv.rows() / n * heads, |task| {
        let head = TileHead { qkv, first: task / heads * n, n, heads, head: task % heads, shape };
        head.attend(backend, &output);
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
    shape: HeadShape,
}

impl TileHead<'_> {
    fn attend(&self, backend: &CpuBackend, out: &HeadOutput<'_>) {
        let shape = self.shape;
        let parts = self.n.div_ceil(PART);
        let keys_len = parts * (PART / PANEL) * shape.panel(shape.dim);
        let values_len = parts * shape.value_panels * shape.panel(PART);
        scratch::with(keys_len + values_len + Block::bytes(shape), |memory| {
            let (keys, memory) = memory.split_at_mut(keys_len);
            let (values, memory) = memory.split_at_mut(values_len);
            self.pack_keys(keys);
            self.pack_values(values);
            let session = backend.isa.tiles.session();
            let most_rows = backend.isa.tiles.of(shape.dot).rows;
            for first in (0..self.n).step_by(most_rows) {
                let mut block = Block::new(shape, most_rows.min(self.n - first), memory);
                self.load_queries(&mut block, first);
                for part in 0..parts {
                    self.part(backend, &session, &mut block, part, keys, values);
                }
                block.write(backend, out, |row| (self.first + first + row, self.head * shape.dim));
            }
        });
    }

    /// A block's rows against one part of the keys.
    fn part(
        &self,
        backend: &CpuBackend,
        session: &Session<'_>,
        block: &mut Block<'_>,
        part: usize,
        keys: &[u8],
        values: &[u8],
    ) {
        let shape = self.shape;
        let count = PART.min(self.n - part * PART);
        let panels = count.div_ceil(PANEL);
        for panel in 0..panels {
            block.score(session, panel, &keys[(part * (PART / PANEL) + panel) * shape.panel(shape.dim)..]);
        }
        let weighed = block.weigh(backend, panels, score_scale(shape.dim), |_| count);
        for panel in 0..shape.value_panels {
            let values = &values[(part * shape.value_panels + panel) * shape.panel(PART)..];
            block.add_values(session, panel, values, 0, panels * PANEL);
        }
        block.merge(backend, &weighed);
    }

    /// The bytes of the query (0), key (1) or value (2) of a row.
    fn bytes(&self, row: usize, which: usize) -> &[u8] {
        let size = self.shape.dim * self.shape.number;
        &self.qkv.bytes_from(self.first + row)[(which * self.heads + self.head) * size..][..size]
    }

    fn load_queries(&self, block: &mut Block<'_>, first: usize) {
        let stride = self.shape.row(self.shape.dim);
        for (row, target) in block.queries.chunks_mut(stride).enumerate().take(block.rows) {
            let query = self.bytes(first + row, 0);
            target[..query.len()].copy_from_slice(query);
            target[query.len()..].fill(0);
        }
    }

    /// `[panels, steps, 32 keys, 4 bytes]`; keys past the last are zeros.
    fn pack_keys(&self, keys: &mut [u8]) {
        let panel_len = self.shape.panel(self.shape.dim);
        keys[self.n / PANEL * panel_len..].fill(0);
        for (panel, keys) in keys.chunks_mut(panel_len).enumerate().take(self.n.div_ceil(PANEL)) {
            let steps = keys.as_chunks_mut::<STEP>().0.as_chunks_mut::<PANEL>().0;
            for column in 0..PANEL.min(self.n - panel * PANEL) {
                let (words, rest) = self.bytes(panel * PANEL + column, 1).as_chunks::<STEP>();
                for (step, word) in steps.iter_mut().zip(words) {
                    step[column] = *word;
                }
                if !rest.is_empty() {
                    steps[words.len()][column] = [0; STEP];
                    steps[words.len()][column][..rest.len()].copy_from_slice(rest);
                }
            }
            let used = (self.shape.dim * self.shape.number).div_ceil(STEP);
            steps[used..].fill([[0; STEP]; PANEL]);
        }
    }

    /// `[parts, panels, steps, 32, 4 bytes]`; numbers past `d` and keys past the last are zeros.
    fn pack_values(&self, values: &mut [u8]) {
        let (shape, panel_len) = (self.shape, self.shape.panel(PART));
        let in_step = STEP / shape.number;
        for (i, panel) in values.chunks_mut(panel_len).enumerate() {
            let (first_row, first) = (i / shape.value_panels * PART, i % shape.value_panels * PANEL * shape.number);
            let steps = panel.as_chunks_mut::<STEP>().0.as_chunks_mut::<PANEL>().0;
            for (i, step) in steps.iter_mut().enumerate() {
                let row = first_row + i * in_step;
                let numbers = |row: usize| if row < self.n { &self.bytes(row, 2)[first..] } else { &[] };
                match shape.dot {
                    Dot::F32 => place(step, numbers(row).as_chunks::<4>().0),
                    _ => interleave(step, numbers(row).as_chunks::<2>().0, numbers(row + 1).as_chunks::<2>().0),
                }
            }
        }
    }
}

/// A step of one row's f32; missing ones are zeros.
fn place(step: &mut [[u8; STEP]; PANEL], row: &[[u8; 4]]) {
    let count = row.len().min(PANEL);
    step[..count].copy_from_slice(&row[..count]);
    step[count..].fill([0; STEP]);
}

/// A step of two rows' bfloat16; missing ones are zeros.
fn interleave(step: &mut [[u8; STEP]; PANEL], even: &[[u8; 2]], odd: &[[u8; 2]]) {
    if let (Some(even), Some(odd)) = (even.first_chunk::<PANEL>(), odd.first_chunk::<PANEL>()) {
        for i in 0..PANEL {
            step[i] = [even[i][0], even[i][1], odd[i][0], odd[i][1]];
        }
        return;
    }
    for (i, step) in step.iter_mut().enumerate() {
        let number = |row: &[[u8; 2]]| row.get(i).copied().unwrap_or_default();
        let ([a, b], [c, d]) = (number(even), number(odd));
        *step = [a, b, c, d];
    }
}

/// Causal attention of the segments' queries over their pages. `qkv` is `[T, (heads + 2 × kv_heads) × d]`, f32.
pub(super) fn paged(
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
                state = merge(backend, state, merged, part, result[2..].chunks(PANEL));
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
            for panel in 0..PAGE_TOKENS / PANEL {
                let panel_keys = &keys[panel * shape.panel(shape.dim)..];
                block.score(session, i * (PAGE_TOKENS / PANEL) + panel, panel_keys);
            }
        }
        let visible = |row| self.visible(first + row).saturating_sub(part * PART);
        let weighed = block.weigh(self.backend, pages.len() * (PAGE_TOKENS / PANEL), score_scale(shape.dim), visible);
        for (i, page) in pages.enumerate() {
            let values = self.cache.values(self.pages[page], self.layer, self.kv_head);
            for panel in 0..shape.value_panels {
                let panel_values = &values[panel * shape.panel(PAGE_TOKENS)..];
                block.add_values(session, panel, panel_values, i * PAGE_TOKENS, PAGE_TOKENS);
            }
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
