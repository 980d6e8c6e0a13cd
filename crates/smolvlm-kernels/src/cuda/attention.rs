//! Attention inside tiles and over pages.

use super::CudaBackend;
use super::cache::Cache;
use super::launch::{Argument, Shape};
use super::plan::{Plan, recorded_parts};
use super::tensor::{Element, Tensor};
use crate::backend::RopeTable;

/// The head size that the fast kernels are made for.
const FAST_HEAD: usize = 64;
/// Keys that one block of decoding meets.
pub(super) const DECODE_PART: usize = 128;
/// Query heads that may share a key-value head there.
const DECODE_GROUPS: std::ops::RangeInclusive<usize> = 1..=4;
/// Warps of a block of the kernels for any head size, a row each.
const WARPS: u32 = 4;
const THREADS: u32 = 32 * WARPS;
/// Most numbers of a head there.
const MOST_HEAD: usize = 160;

pub(super) fn tiles(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize) -> Tensor {
    let head = qkv.width / (3 * heads);
    assert!(head <= MOST_HEAD, "heads of {head}");
    let out = backend.tensor(qkv.rows, heads * head, qkv.element);
    let kernel = backend.kernel(&format!("tile_attention_{}", qkv.element.name()));
    let rows = qkv.rows as u32;
    let arguments = [
        qkv.pointer().into(),
        out.pointer().into(),
        rows.into(),
        (tile_rows as u32).into(),
        (heads as u32).into(),
        (head as u32).into(),
    ];
    let shape = Shape::new((rows.div_ceil(WARPS), heads as u32, 1), THREADS);
    // Safety: a warp for each row and head of `out`.
    unsafe { backend.device.launch("attention inside tiles", kernel, shape, &arguments) };
    out
}

/// Rotates, appends, attends. `layer` of the cache has memory for every page of the plan.
pub(super) fn cached(
    backend: &CudaBackend,
    plan: &Plan,
    qkv: &Tensor,
    cache: &Cache,
    layer: usize,
    rope: &RopeTable<CudaBackend>,
) -> Tensor {
    assert_eq!(qkv.element, cache.element, "formats of queries and cache");
    let attention = Paged::new(plan, qkv, cache, layer);
    attention.rotate_append(backend, rope);
    let out = backend.tensor(qkv.rows, attention.heads * attention.head, qkv.element);
    let group = attention.heads / attention.kv_heads;
    let decoding = plan.batch.segments.len() == plan.tokens();
    let fast = qkv.element == Element::Bf16 && attention.head == FAST_HEAD && DECODE_GROUPS.contains(&group);
    if decoding && fast {
        attention.decode(backend, group, &out);
    } else {
        attention.any(backend, &out);
    }
    out
}

/// Attention over pages in progress.
struct Paged<'a> {
    plan: &'a Plan,
    qkv: &'a Tensor,
    cache: u64,
    stride: u64,
    heads: usize,
    kv_heads: usize,
    head: usize,
}

impl<'a> Paged<'a> {
    fn new(plan: &'a Plan, qkv: &'a Tensor, cache: &Cache, layer: usize) -> Self {
        let (kv_heads, head) = (cache.shape.kv_heads, cache.shape.head_dim);
        let heads = qkv.width / head - 2 * kv_heads;
        Self { plan, qkv, cache: cache.layer(layer), stride: cache.page_numbers(), heads, kv_heads, head }
    }

    fn rotate_append(&self, backend: &CudaBackend, rope: &RopeTable<CudaBackend>) {
        let kernel = backend.kernel(&format!("rotate_append_{}", self.qkv.element.name()));
        let arguments: [Argument; 11] = [
            self.qkv.pointer().into(),
            self.cache.into(),
            self.stride.into(),
            self.plan.positions().into(),
            self.plan.first_pages().into(),
            self.plan.pages().into(),
            rope.cos.f32.pointer().into(),
            rope.sin.f32.pointer().into(),
            (self.heads as u32).into(),
            (self.kv_heads as u32).into(),
            (self.head as u32).into(),
        ];
        let shape = Shape::new((self.qkv.rows as u32, 1, 1), THREADS);
        // Safety: a block for each row; the plan's pages have memory.
        unsafe { backend.device.launch("rotating queries and keys", kernel, shape, &arguments) };
    }

    fn any(&self, backend: &CudaBackend, out: &Tensor) {
        assert!(self.head <= MOST_HEAD, "heads of {}", self.head);
        let kernel = backend.kernel(&format!("paged_attention_{}", self.qkv.element.name()));
        let rows = self.qkv.rows as u32;
        let arguments: [Argument; 11] = [
            self.qkv.pointer().into(),
            self.cache.into(),
            self.stride.into(),
            self.plan.positions().into(),
            self.plan.first_pages().into(),
            self.plan.pages().into(),
            out.pointer().into(),
            rows.into(),
            (self.heads as u32).into(),
            (self.kv_heads as u32).into(),
            (self.head as u32).into(),
        ];
        let shape = Shape::new((rows.div_ceil(WARPS), self.heads as u32, 1), THREADS);
        // Safety: a warp for each row and head of `out`.
        unsafe { backend.device.launch("attention over pages", kernel, shape, &arguments) };
    }

    /// One query for each sequence, its keys in parts.
    fn decode(&self, backend: &CudaBackend, group: usize, out: &Tensor) {
        let parts = recorded_parts(self.plan.most_keys, DECODE_PART);
        let partial = (parts > 1).then(|| backend.tensor(out.rows * self.heads * parts, FAST_HEAD + 2, Element::F32));
        let partial_pointer = partial.as_ref().map_or(0, Tensor::pointer);
        let arguments: [Argument; 10] = [
            self.qkv.pointer().into(),
            self.cache.into(),
            self.stride.into(),
            self.plan.positions().into(),
            self.plan.first_pages().into(),
            self.plan.pages().into(),
            out.pointer().into(),
            partial_pointer.into(),
            (self.kv_heads as u32).into(),
            (DECODE_PART as u32).into(),
        ];
        let kernel = backend.kernel(&format!("decode_attention_{group}"));
        let shape = Shape::new((self.kv_heads as u32, out.rows as u32, parts as u32), THREADS);
        // Safety: a block for each key-value head, row and part; `partial` has room for all parts.
        unsafe { backend.device.launch("attention of one token", kernel, shape, &arguments) };
        if parts == 1 {
            return;
        }
        let arguments = [
            partial_pointer.into(),
            self.plan.positions().into(),
            out.pointer().into(),
            (DECODE_PART as u32).into(),
            (parts as u32).into(),
        ];
        let shape = Shape::new((self.heads as u32, out.rows as u32, 1), FAST_HEAD as u32);
        // Safety: as above.
        unsafe { backend.device.launch("merging attention", backend.kernel("merge_parts"), shape, &arguments) };
    }
}
