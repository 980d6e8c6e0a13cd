//! Full attention inside tiles.

use super::{BARRIER, FAST_HEAD, MMA_THREADS, MOST_HEAD, THREADS, WARPS, WGMMA_ROW, WGMMA_STREAM, mma_shared};
use crate::cuda::CudaBackend;
use crate::cuda::launch::{Module, Shape};
use crate::cuda::tensor::{Element, Tensor};
use crate::cuda::tensor_map::TensorMap;

/// Full attention inside each `tile_rows` rows of `qkv` `[rows, 3 × heads × d]`.
pub(in crate::cuda) fn tiles(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize) -> Tensor {
    tiles_with_sums(backend, qkv, tile_rows, heads, None)
}

/// The same; the kernels for matrix units also write the logarithms of the softmax's sums to `sums` `[heads, rows]`, in units of log2.
pub(in crate::cuda) fn tiles_with_sums(
    backend: &CudaBackend,
    qkv: &Tensor,
    tile_rows: usize,
    heads: usize,
    sums: Option<&Tensor>,
) -> Tensor {
    let head = qkv.width / (3 * heads);
    let out = backend.tensor(qkv.rows, heads * head, qkv.element);
    let sums = sums.map_or(0, Tensor::pointer);
    match (qkv.element, head) {
        (Element::Bf16, FAST_HEAD) if backend.has_wgmma() => tiles_wgmma(backend, qkv, tile_rows, heads, &out, sums),
        (Element::Bf16, FAST_HEAD | 72) => tiles_mma(backend, qkv, tile_rows, heads, &out, sums),
        _ => tiles_any(backend, qkv, tile_rows, heads, &out),
    }
    out
}

/// As `attention_entries.cu` declares it.
#[repr(C)]
struct TileArguments {
    map: TensorMap,
    out: u64,
    sums: u64,
    tiles: i32,
    tile_rows: i32,
    heads: i32,
}

/// Queries of a block of the kernel for `wgmma`, its threads, and its shared memory.
const WGMMA_QUERIES: usize = 128;
const WGMMA_THREADS: u32 = 384;
const WGMMA_SHARED: u32 = (WGMMA_QUERIES * WGMMA_ROW + WGMMA_STREAM + 14 * BARRIER) as u32;

fn tiles_wgmma(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize, out: &Tensor, sums: u64) {
    let tiles = qkv.rows / tile_rows;
    let map = TensorMap::of_bf16(&backend.device, qkv.pointer(), &[qkv.width, tile_rows, tiles]);
    let structure = TileArguments {
        map,
        out: out.pointer(),
        sums,
        tiles: tiles as i32,
        tile_rows: tile_rows as i32,
        heads: heads as i32,
    };
    let items = (tile_rows.div_ceil(WGMMA_QUERIES) * heads * tiles) as u32;
    let blocks = items.min(backend.device.info.multiprocessors);
    let shape = Shape { shared: WGMMA_SHARED, ..Shape::new((blocks, 1, 1), WGMMA_THREADS) }.early();
    let kernel = backend.kernel(Module::FastAttention, "tile_attention_wgmma");
    // Safety: the structure is the kernel's; the map describes all of `qkv`, and `out` has its rows.
    unsafe { backend.device.launch_struct("attention inside tiles", kernel, shape, &structure) };
}

/// Queries of a block of the kernel for `mma.sync`.
const MMA_QUERIES: usize = 128;

fn tiles_mma(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize, out: &Tensor, sums: u64) {
    let (head, tiles) = (qkv.width / (3 * heads), qkv.rows / tile_rows);
    let kernel = backend.kernel(Module::FastAttention, &format!("tile_attention_mma_{head}"));
    let arguments =
        [qkv.pointer().into(), out.pointer().into(), sums.into(), (tile_rows as u32).into(), (heads as u32).into()];
    let grid = (tile_rows.div_ceil(MMA_QUERIES) as u32, heads as u32, tiles as u32);
    let shape = Shape { shared: mma_shared(head), ..Shape::new(grid, MMA_THREADS) };
    // Safety: blocks for every query of every tile and head.
    unsafe { backend.device.launch("attention inside tiles", kernel, shape, &arguments) };
}

fn tiles_any(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize, out: &Tensor) {
    let head = qkv.width / (3 * heads);
    assert!(head <= MOST_HEAD, "heads of {head}");
    let kernel = backend.kernel(Module::Attention, &format!("tile_attention_{}", qkv.element.name()));
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
}
