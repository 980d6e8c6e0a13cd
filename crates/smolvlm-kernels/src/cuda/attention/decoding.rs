//! Attention of one new token of each sequence.

use super::FAST_HEAD;
use super::paged::Paged;
use crate::backend::RopeTable;
use crate::cuda::CudaBackend;
use crate::cuda::cache::Cache;
use crate::cuda::launch::{Module, Shape};
use crate::cuda::plan::{Array, recorded_parts};
use crate::cuda::tensor::{Element, Tensor};
use crate::cuda::tensor_map::TensorMap;

/// Keys that one block of decoding meets.
pub(in crate::cuda) const DECODE_PART: usize = 256;
/// Threads of such a block, and on Hopper.
const DECODE_THREADS: u32 = 256;
const DECODING_THREADS: u32 = 128;
/// Tokens that are copied at a time there.
const DECODING_TILE: u32 = 16;
/// Query heads that may share a key-value head there.
pub(super) const DECODE_GROUPS: std::ops::RangeInclusive<usize> = 1..=4;
/// As `decoding_attention.cu` declares it.
#[repr(C)]
struct DecodingArguments {
    map: TensorMap,
    qkv: u64,
    cache: u64,
    positions: u64,
    first_pages: u64,
    pages: u64,
    cosines: u64,
    sines: u64,
    out: u64,
    partial: u64,
    page_stride: u64,
    layer_row: i32,
    page_rows: i32,
    kv_heads: i32,
}

impl Paged<'_> {
    /// One query for each sequence, its keys in parts; rotates and appends too.
    pub(super) fn decode(
        &self,
        backend: &CudaBackend,
        cache: &Cache,
        layer: usize,
        rope: &RopeTable<CudaBackend>,
        group: usize,
        out: &Tensor,
    ) {
        let parts = recorded_parts(self.plan.most_keys, DECODE_PART);
        let partial = (parts > 1).then(|| backend.tensor(out.rows * self.heads * parts, FAST_HEAD + 2, Element::F32));
        let partial = partial.as_ref().map_or(0, Tensor::pointer);
        let grid = (self.kv_heads as u32, out.rows as u32, parts as u32);
        if backend.has_wgmma() {
            let structure = self.decoding_arguments(backend, cache, layer, rope, out, partial);
            let kernel = backend.kernel(Module::DecodingAttention, &format!("decoding_attention_{group}"));
            let shared = (2 * DECODE_PART * FAST_HEAD * Element::Bf16.bytes()) as u32;
            let shape = Shape { shared, ..Shape::new(grid, DECODING_THREADS).early() };
            // Safety: as below; the map describes the whole cache.
            unsafe { backend.device.launch_struct("attention of one token", kernel, shape, &structure) };
        } else {
            let rest = [
                rope.cos.f32.pointer().into(),
                rope.sin.f32.pointer().into(),
                out.pointer().into(),
                partial.into(),
                (self.kv_heads as u32).into(),
                (DECODE_PART as u32).into(),
            ];
            let kernel = backend.kernel(Module::Attention, &format!("decode_attention_{group}"));
            let shape = Shape::new(grid, DECODE_THREADS).early();
            // Safety: a block for each key-value head, row and part; `partial` has room for all parts.
            unsafe { self.start(backend, "attention of one token", kernel, shape, &rest) };
        }
        if parts > 1 {
            self.merge(backend, partial, parts, out);
        }
    }

    fn decoding_arguments(
        &self,
        backend: &CudaBackend,
        cache: &Cache,
        layer: usize,
        rope: &RopeTable<CudaBackend>,
        out: &Tensor,
        partial: u64,
    ) -> DecodingArguments {
        let array = |array| self.plan.array(array);
        let rows_per_page = cache.page_numbers() / FAST_HEAD as u64;
        let rows = rows_per_page * (cache.shape.pages as u64 + 1);
        DecodingArguments {
            map: TensorMap::in_boxes(&backend.device, cache.layer(0), &[FAST_HEAD, rows as usize], DECODING_TILE),
            qkv: self.qkv.pointer(),
            cache: self.cache,
            positions: array(Array::Positions),
            first_pages: array(Array::FirstPages),
            pages: array(Array::Pages),
            cosines: rope.cos.f32.pointer(),
            sines: rope.sin.f32.pointer(),
            out: out.pointer(),
            partial,
            page_stride: self.stride,
            layer_row: (layer as u64 * cache.layer_numbers() / FAST_HEAD as u64) as i32,
            page_rows: rows_per_page as i32,
            kv_heads: self.kv_heads as i32,
        }
    }

    /// Adds up what the parts of every head's keys gave.
    fn merge(&self, backend: &CudaBackend, partial: u64, parts: usize, out: &Tensor) {
        let arguments = [
            partial.into(),
            self.plan.array(Array::Positions).into(),
            out.pointer().into(),
            (DECODE_PART as u32).into(),
            (parts as u32).into(),
        ];
        let shape = Shape::new((self.heads as u32, out.rows as u32, 1), FAST_HEAD as u32).early();
        let kernel = backend.kernel(Module::Attention, "merge_parts");
        // Safety: `partial` has as many parts.
        unsafe { backend.device.launch("merging attention", kernel, shape, &arguments) };
    }
}
