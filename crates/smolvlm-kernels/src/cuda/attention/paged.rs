//! Attention over pages of keys and values.

use super::decoding::DECODE_GROUPS;
use super::{BARRIER, FAST_HEAD, MMA_THREADS, MOST_HEAD, THREADS, WARPS, WGMMA_ROW, WGMMA_STREAM, mma_shared};
use crate::backend::RopeTable;
use crate::cuda::CudaBackend;
use crate::cuda::cache::Cache;
use crate::cuda::launch::{Argument, Function, Module, Shape};
use crate::cuda::plan::{Array, Plan, QUERIES_PER_BLOCK};
use crate::cuda::tensor::{Element, Tensor};
use crate::cuda::tensor_map::TensorMap;

/// Query heads of a key-value head that one block of the kernel for Hopper may take together.
const WGMMA_GROUP: usize = 3;

/// Rotates, appends, attends. `layer` of the cache has memory for every page of the plan.
pub(in crate::cuda) fn cached(
    backend: &CudaBackend,
    plan: &Plan,
    qkv: &Tensor,
    cache: &Cache,
    layer: usize,
    rope: &RopeTable<CudaBackend>,
) -> Tensor {
    assert_eq!(qkv.element, cache.element, "formats of queries and cache");
    let attention = Paged::new(plan, qkv, cache, layer);
    let out = backend.tensor(qkv.rows, attention.heads * attention.head, qkv.element);
    let group = attention.heads / attention.kv_heads;
    let decoding = plan.batch.segments.len() == plan.tokens();
    let fast = qkv.element == Element::Bf16 && attention.head == FAST_HEAD;
    if fast && decoding && DECODE_GROUPS.contains(&group) {
        attention.decode(backend, cache, layer, rope, group, &out);
        return out;
    }
    attention.rotate_append(backend, rope);
    if fast && !decoding && backend.has_wgmma() {
        attention.wgmma(backend, cache, layer, &out);
    } else if fast && !decoding {
        attention.mma(backend, &out);
    } else {
        attention.any(backend, &out);
    }
    out
}

/// As `paged_attention.cu` declares it.
#[repr(C)]
struct Segments {
    row: u64,
    row_count: u64,
    start: u64,
    first_page: u64,
    pages: u64,
}

/// As `attention_entries.cu` declares it.
#[repr(C)]
struct PagedArguments {
    map: TensorMap,
    qkv: u64,
    out: u64,
    work: u64,
    segments: Segments,
    layer_row: i32,
    page_rows: i32,
    heads: i32,
    kv_heads: i32,
}

/// As `attention_entries.cu` declares it.
#[repr(C)]
struct PagedMmaArguments {
    qkv: u64,
    out: u64,
    work: u64,
    segments: Segments,
    cache: u64,
    page_stride: u64,
    heads: i32,
    kv_heads: i32,
}

/// Attention over pages in progress.
pub(super) struct Paged<'a> {
    pub(super) plan: &'a Plan,
    pub(super) qkv: &'a Tensor,
    pub(super) cache: u64,
    pub(super) stride: u64,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    head: usize,
}

impl<'a> Paged<'a> {
    fn new(plan: &'a Plan, qkv: &'a Tensor, cache: &Cache, layer: usize) -> Self {
        let (kv_heads, head) = (cache.shape.kv_heads, cache.shape.head_dim);
        let heads = qkv.width / head - 2 * kv_heads;
        Self { plan, qkv, cache: cache.layer(layer), stride: cache.page_numbers(), heads, kv_heads, head }
    }

    /// Starts a kernel whose first arguments are queries, cache and where rows find their pages.
    ///
    /// # Safety
    /// As for [`Device::launch`](crate::cuda::device::Device::launch).
    pub(super) unsafe fn start(
        &self,
        backend: &CudaBackend,
        what: &str,
        kernel: Option<Function>,
        shape: Shape,
        rest: &[Argument],
    ) {
        let arrays = [Array::Positions, Array::FirstPages, Array::Pages].map(|array| self.plan.array(array));
        let first = [self.qkv.pointer(), self.cache, self.stride].into_iter().chain(arrays).map(Argument::from);
        let arguments: Vec<Argument> = first.chain(rest.iter().copied()).collect();
        // Safety: the caller's word.
        unsafe { backend.device.launch(what, kernel, shape, &arguments) };
    }

    fn rotate_append(&self, backend: &CudaBackend, rope: &RopeTable<CudaBackend>) {
        let kernel = backend.kernel(Module::Attention, &format!("rotate_append_{}", self.qkv.element.name()));
        let rest = [
            rope.cos.f32.pointer().into(),
            rope.sin.f32.pointer().into(),
            (self.heads as u32).into(),
            (self.kv_heads as u32).into(),
            (self.head as u32).into(),
        ];
        let shape = Shape::new((self.qkv.rows as u32, 1, 1), THREADS);
        // Safety: a block for each row; the plan's pages have memory.
        unsafe { self.start(backend, "rotating queries and keys", kernel, shape, &rest) };
    }

    fn any(&self, backend: &CudaBackend, out: &Tensor) {
        assert!(self.head <= MOST_HEAD, "heads of {}", self.head);
        let kernel = backend.kernel(Module::Attention, &format!("paged_attention_{}", self.qkv.element.name()));
        let rows = self.qkv.rows as u32;
        let rest = [
            out.pointer().into(),
            rows.into(),
            (self.heads as u32).into(),
            (self.kv_heads as u32).into(),
            (self.head as u32).into(),
        ];
        let shape = Shape::new((rows.div_ceil(WARPS), self.heads as u32, 1), THREADS);
        // Safety: a warp for each row and head of `out`.
        unsafe { self.start(backend, "attention over pages", kernel, shape, &rest) };
    }

    fn segments(&self) -> Segments {
        let array = |array| self.plan.array(array);
        Segments {
            row: array(Array::SegmentRow),
            row_count: array(Array::SegmentRows),
            start: array(Array::SegmentStart),
            first_page: array(Array::SegmentFirstPage),
            pages: array(Array::Pages),
        }
    }

    fn wgmma(&self, backend: &CudaBackend, cache: &Cache, layer: usize, out: &Tensor) {
        // Together they read keys and values once; apart they keep more multiprocessors busy.
        let together = self.heads / self.kv_heads == WGMMA_GROUP
            && self.kv_heads * self.plan.work_items > backend.device.info.multiprocessors as usize;
        let group = if together { WGMMA_GROUP } else { 1 };
        let rows_per_page = cache.page_numbers() / FAST_HEAD as u64;
        let rows = rows_per_page * (cache.shape.pages as u64 + 1);
        let structure = PagedArguments {
            map: TensorMap::of_bf16(&backend.device, cache.layer(0), &[FAST_HEAD, rows as usize]),
            qkv: self.qkv.pointer(),
            out: out.pointer(),
            work: self.plan.array(Array::Work),
            segments: self.segments(),
            layer_row: (layer as u64 * cache.layer_numbers() / FAST_HEAD as u64) as i32,
            page_rows: rows_per_page as i32,
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
        };
        let kernel = backend.kernel(Module::FastAttention, &format!("paged_attention_wgmma_{group}"));
        let grid = ((self.heads / group) as u32, self.plan.work_items as u32, 1);
        let shared = (group * QUERIES_PER_BLOCK * WGMMA_ROW + WGMMA_STREAM + 13 * BARRIER) as u32;
        let shape = Shape { shared, ..Shape::new(grid, (group as u32 + 1) * 128) };
        // Safety: the structure is the kernel's; the map describes the whole cache, of which the plan's pages have memory.
        unsafe { backend.device.launch_struct("attention over pages", kernel, shape, &structure) };
    }

    fn mma(&self, backend: &CudaBackend, out: &Tensor) {
        let structure = PagedMmaArguments {
            qkv: self.qkv.pointer(),
            out: out.pointer(),
            work: self.plan.array(Array::Work),
            segments: self.segments(),
            cache: self.cache,
            page_stride: self.stride,
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
        };
        let grid = (self.heads as u32, self.plan.work_items as u32, 1);
        let shape = Shape { shared: mma_shared(FAST_HEAD), ..Shape::new(grid, MMA_THREADS) };
        let kernel = backend.kernel(Module::FastAttention, "paged_attention_mma");
        // Safety: the structure is the kernel's; the plan's pages have memory.
        unsafe { backend.device.launch_struct("attention over pages", kernel, shape, &structure) };
    }
}
