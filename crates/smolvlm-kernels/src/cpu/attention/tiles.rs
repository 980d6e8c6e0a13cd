//! Full attention inside tiles.

use super::block::{Block, HeadOutput};
use super::{HeadShape, PART, score_scale};
use crate::cpu::matmul::{Dot, PANEL, STEP, Session};
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::cpu::{CpuBackend, prefetch, scratch};

/// Full attention inside each group of `n` rows of `qkv` `[rows, 3 × heads × d]`.
pub(in crate::cpu) fn tiles(backend: &CpuBackend, qkv: &Tensor, n: usize, heads: usize) -> Tensor {
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

/// Rows between the one that is packed and the one that is brought nearer.
const AHEAD: usize = 16;

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
        block.score(session, 0, panels, &keys[part * (PART / PANEL) * shape.panel(shape.dim)..]);
        let weighed = block.weigh(backend, panels, score_scale(shape.dim), |_| count);
        let values = &values[part * shape.value_panels * shape.panel(PART)..];
        block.add_values(session, values, shape.panel(PART), 0, panels * PANEL);
        block.merge(backend, &weighed);
    }

    /// The bytes of the query (0), key (1) or value (2) of a row.
    fn bytes(&self, row: usize, which: usize) -> &[u8] {
        let size = self.shape.dim * self.shape.number;
        &self.qkv.bytes_from(self.first + row)[(which * self.heads + self.head) * size..][..size]
    }

    /// Brings a row's query, key and value nearer: they lie far from the next row's.
    fn read_soon(&self, row: usize) {
        if row < self.n {
            (0..3).for_each(|which| prefetch::read_soon(self.bytes(row, which)));
        }
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
                self.read_soon(panel * PANEL + column + AHEAD);
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
