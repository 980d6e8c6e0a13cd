//! Keys and values in pages that are, as they lie, the panels attention multiplies by.

use std::marker::PhantomData;

use super::CpuBackend;
use super::matmul::{CHUNK, Dot, PANEL, STEP, chunks};
use super::tensor::Tensor;
use crate::aligned::Aligned;
use crate::backend::{CacheShape, PAGE_TOKENS, Segment, TokenBatch};
use crate::view::Format;

/// Up to this many tokens are written by the calling thread: they cost less than a region.
const FEW_TOKENS: usize = 4;
/// Most numbers of a head.
pub(super) const MOST_HEAD_DIM: usize = 256;

/// Keys and values of every layer, in pages of 64 tokens.
pub struct Cache {
    shape: CacheShape,
    dot: Dot,
    pages: Vec<Option<Aligned>>,
}

/// Where the parts of a block lie: a page is `[layers, kv_heads, block]`, a block being keys in panels of 32 tokens over
/// the head's numbers, then values in panels of 32 numbers over the page's tokens.
#[derive(Clone, Copy)]
struct BlockShape {
    head_dim: usize,
    /// Bytes of a number.
    number: usize,
}

impl BlockShape {
    fn key_panel(self) -> usize {
        chunks(self.head_dim, self.number) * CHUNK * PANEL
    }

    fn keys(self) -> usize {
        PAGE_TOKENS / PANEL * self.key_panel()
    }

    fn value_panel(self) -> usize {
        chunks(PAGE_TOKENS, self.number) * CHUNK * PANEL
    }

    fn len(self) -> usize {
        self.keys() + self.head_dim.div_ceil(PANEL) * self.value_panel()
    }

    /// The byte where number `i` of a token's key begins.
    fn key(self, token: usize, i: usize) -> usize {
        token / PANEL * self.key_panel() + self.in_panel(i, token % PANEL)
    }

    /// The byte where number `i` of a token's value begins.
    fn value(self, token: usize, i: usize) -> usize {
        self.keys() + i / PANEL * self.value_panel() + self.in_panel(token, i % PANEL)
    }

    /// The byte of an input's number of an output.
    fn in_panel(self, input: usize, output: usize) -> usize {
        let in_step = STEP / self.number;
        (input / in_step * PANEL + output) * STEP + input % in_step * self.number
    }
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Self {
        assert!(shape.head_dim <= MOST_HEAD_DIM, "heads of at most {MOST_HEAD_DIM} numbers");
        let dot = if shape.format == Format::F32 { Dot::F32 } else { Dot::Bf16 };
        Self { shape, dot, pages: std::iter::repeat_with(|| None).take(shape.pages).collect() }
    }

    pub(super) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// What products with keys and values are.
    pub(super) fn dot(&self) -> Dot {
        self.dot
    }

    fn block(&self) -> BlockShape {
        BlockShape { head_dim: self.shape.head_dim, number: if self.dot == Dot::F32 { 4 } else { 2 } }
    }

    pub(super) fn release(&mut self, pages: &[u32]) {
        for page in pages {
            self.pages[*page as usize] = None;
        }
    }

    /// The keys of a page that has been written, panel after panel.
    pub(super) fn keys(&self, page: u32, layer: usize, kv_head: usize) -> &[u8] {
        let page = self.pages[page as usize].as_deref().expect("pages are written before they are read");
        &page[self.block_start(layer, kv_head)..]
    }

    /// Its values, panel after panel.
    pub(super) fn values(&self, page: u32, layer: usize, kv_head: usize) -> &[u8] {
        &self.keys(page, layer, kv_head)[self.block().keys()..]
    }

    fn block_start(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.shape.kv_heads + kv_head) * self.block().len()
    }

    /// Rotates the keys of `qkv` to their positions and writes keys and values to the segments' pages.
    pub(super) fn append(
        &mut self,
        backend: &CpuBackend,
        batch: &TokenBatch,
        qkv: &Tensor,
        layer: usize,
        rope: (&[f32], &[f32]),
    ) {
        let page_len = self.shape.layers * self.shape.kv_heads * self.block().len();
        let (block, start, kv_heads, dot) = (self.block(), self.block_start(layer, 0), self.shape.kv_heads, self.dot);
        for segment in &batch.segments {
            let end = segment.start + segment.rows.len();
            let (first, pages) = (segment.start / PAGE_TOKENS, batch.pages_of(segment));
            let shared = SharedPages::new(&mut self.pages);
            let writer = Writer { backend, block, kv_heads, dot, segment, qkv, rope };
            let write = |task: usize| {
                let page = first + task;
                // SAFETY: a segment's pages are different ones, and each is one task.
                let memory = unsafe { shared.page(pages[page] as usize) };
                let memory = memory.get_or_insert_with(|| Aligned::zeroed(page_len));
                let tokens = (page * PAGE_TOKENS).max(segment.start)..((page + 1) * PAGE_TOKENS).min(end);
                tokens.for_each(|position| writer.write(&mut memory[start..], position));
            };
            let tasks = end.div_ceil(PAGE_TOKENS) - first;
            if segment.rows.len() <= FEW_TOKENS {
                (0..tasks).for_each(write);
            } else {
                backend.threads.run(tasks, write);
            }
        }
    }
}

/// All pages, each writable by one thread at a time.
struct SharedPages<'a> {
    pages: *mut Option<Aligned>,
    len: usize,
    borrow: PhantomData<&'a mut [Option<Aligned>]>,
}

// SAFETY: the pointer stands for a unique borrow; `page` hands out pages that callers keep apart.
unsafe impl Sync for SharedPages<'_> {}

impl<'a> SharedPages<'a> {
    fn new(pages: &'a mut [Option<Aligned>]) -> Self {
        Self { pages: pages.as_mut_ptr(), len: pages.len(), borrow: PhantomData }
    }

    /// # Safety
    /// No page is asked for twice while the first result lives, on any thread.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    unsafe fn page(&self, page: usize) -> &mut Option<Aligned> {
        assert!(page < self.len, "a page of the cache");
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { &mut *self.pages.add(page) }
    }
}

/// Writes a segment's tokens.
struct Writer<'a> {
    backend: &'a CpuBackend,
    block: BlockShape,
    kv_heads: usize,
    dot: Dot,
    segment: &'a Segment,
    qkv: &'a Tensor,
    /// Cosines and sines of every position.
    rope: (&'a [f32], &'a [f32]),
}

impl Writer<'_> {
    /// Writes one token's keys and values to a page's blocks of one layer.
    fn write(&self, blocks: &mut [u8], position: usize) {
        let (dim, half) = (self.block.head_dim, self.block.head_dim / 2);
        let row = self.qkv.row::<f32>(self.segment.rows.start + position - self.segment.start);
        let (keys, values) = row[row.len() - 2 * self.kv_heads * dim..].split_at(self.kv_heads * dim);
        let (cos, sin) = (&self.rope.0[position * half..][..half], &self.rope.1[position * half..][..half]);
        let token = position % PAGE_TOKENS;
        let mut rotated = [0.0; MOST_HEAD_DIM];
        for head in 0..self.kv_heads {
            let block = &mut blocks[head * self.block.len()..][..self.block.len()];
            let rotated = &mut rotated[..dim];
            self.backend.isa.rows.rotate(&keys[head * dim..][..dim], cos, sin, rotated);
            self.store(block, rotated, |i| self.block.key(token, i));
            self.store(block, &values[head * dim..][..dim], |i| self.block.value(token, i));
        }
    }

    /// Writes each number to its place, as products take it.
    fn store(&self, block: &mut [u8], numbers: &[f32], place: impl Fn(usize) -> usize) {
        if self.dot == Dot::F32 {
            for (i, number) in numbers.iter().enumerate() {
                block[place(i)..][..4].copy_from_slice(&number.to_le_bytes());
            }
            return;
        }
        let mut rounded = [0; MOST_HEAD_DIM];
        let rounded = &mut rounded[..numbers.len()];
        self.backend.isa.rows.round(numbers, rounded);
        for (i, number) in rounded.iter().enumerate() {
            block[place(i)..][..2].copy_from_slice(&number.to_le_bytes());
        }
    }
}
