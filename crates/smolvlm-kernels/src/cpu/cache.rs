//! Keys and values in pages that are, as they lie, the panels attention multiplies by.

use half::bf16;
use rayon::prelude::*;

use super::matmul::PANEL;
use super::tensor::Tensor;
use crate::aligned::Aligned;
use crate::backend::{CacheShape, PAGE_TOKENS, Segment};
use crate::view::Format;

/// Keys and values of every layer, in pages of 64 tokens.
pub struct Cache {
    shape: CacheShape,
    pages: Vec<Option<Page>>,
}

/// One page: `[layers, kv_heads, block]`, a block being keys `[d, 64 tokens]`, then values in panels
/// `[⌈d / 64⌉, 64 tokens, 64]`.
pub(super) enum Page {
    F32(Aligned<f32>),
    Bf16(Aligned<u16>),
}

/// Where the parts of a block lie.
#[derive(Clone, Copy)]
pub(super) struct BlockShape {
    pub(super) head_dim: usize,
}

impl BlockShape {
    pub(super) fn keys(self) -> usize {
        self.head_dim * PAGE_TOKENS
    }

    pub(super) fn value_panels(self) -> usize {
        self.head_dim.div_ceil(PANEL)
    }

    pub(super) fn len(self) -> usize {
        self.keys() + self.value_panels() * PAGE_TOKENS * PANEL
    }

    fn key_index(self, token: usize, i: usize) -> usize {
        i * PAGE_TOKENS + token
    }

    fn value_index(self, token: usize, i: usize) -> usize {
        self.keys() + (i / PANEL * PAGE_TOKENS + token) * PANEL + i % PANEL
    }
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Self {
        Self { shape, pages: std::iter::repeat_with(|| None).take(shape.pages).collect() }
    }

    pub(super) fn shape(&self) -> CacheShape {
        self.shape
    }

    pub(super) fn block_shape(&self) -> BlockShape {
        BlockShape { head_dim: self.shape.head_dim }
    }

    pub(super) fn release(&mut self, pages: &[u32]) {
        for page in pages {
            self.pages[*page as usize] = None;
        }
    }

    /// A page that has been written.
    pub(super) fn page(&self, page: u32) -> &Page {
        self.pages[page as usize].as_ref().expect("pages are written before they are read")
    }

    /// Where the block of `(layer, kv_head)` begins in a page.
    pub(super) fn block_start(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.shape.kv_heads + kv_head) * self.block_shape().len()
    }

    /// Rotates queries and keys of `qkv` in place and writes keys and values to the segments' pages.
    pub(super) fn append(&mut self, segments: &[Segment], qkv: &mut Tensor, layer: usize, cos: &[f32], sin: &[f32]) {
        let (dim, kv_heads) = (self.shape.head_dim, self.shape.kv_heads);
        let width = qkv.width();
        for segment in segments {
            let rows = &mut qkv.data_mut()[segment.rows.start * width..segment.rows.end * width];
            rows.par_chunks_mut(width).enumerate().with_min_len(8).for_each(|(i, row)| {
                let angles = (segment.start + i) * (dim / 2)..(segment.start + i + 1) * (dim / 2);
                for head in row[..width - kv_heads * dim].chunks_mut(dim) {
                    rotate(head, &cos[angles.clone()], &sin[angles.clone()]);
                }
            });
            for (i, row) in rows.chunks(width).enumerate() {
                self.write(segment, segment.start + i, &row[width - 2 * kv_heads * dim..], layer);
            }
        }
    }

    /// Writes one token's keys and values, `[kv_heads × d]` each.
    fn write(&mut self, segment: &Segment, position: usize, keys_values: &[f32], layer: usize) {
        let block = self.block_shape();
        let (page, token) = (segment.pages[position / PAGE_TOKENS] as usize, position % PAGE_TOKENS);
        let starts: Vec<usize> = (0..self.shape.kv_heads).map(|head| self.block_start(layer, head)).collect();
        let (keys, values) = keys_values.split_at(keys_values.len() / 2);
        let shape = self.shape;
        let page = self.pages[page].get_or_insert_with(|| Page::new(shape, block));
        for (head, start) in starts.into_iter().enumerate() {
            for i in 0..shape.head_dim {
                page.set(start + block.key_index(token, i), keys[head * shape.head_dim + i]);
                page.set(start + block.value_index(token, i), values[head * shape.head_dim + i]);
            }
        }
    }
}

impl Page {
    fn new(shape: CacheShape, block: BlockShape) -> Self {
        let len = shape.layers * shape.kv_heads * block.len();
        match shape.format {
            Format::F32 => Self::F32(Aligned::zeroed(len)),
            Format::Bf16 => Self::Bf16(Aligned::zeroed(len)),
        }
    }

    fn set(&mut self, index: usize, value: f32) {
        match self {
            Self::F32(data) => data[index] = value,
            Self::Bf16(data) => data[index] = bf16::from_f32(value).to_bits(),
        }
    }
}

/// Half-split rotation: pairs `(i, i + d/2)` (`rotate_half` of modeling_llama.py).
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
