//! Attention with what its way back needs, and that way: on matrix units for bf16 with heads of 64, else a warp for each row and head.

use super::{CudaBackend, Saved};
use crate::cuda::attention::{FAST_HEAD, MOST_HEAD, THREADS, WARPS, tiles_with_sums};
use crate::cuda::launch::{Argument, Module, Shape};
use crate::cuda::linear::convert;
use crate::cuda::plan::{Array, Plan, QUERIES_PER_BLOCK};
use crate::cuda::tensor::{Element, Tensor};
use crate::training::{AttentionBackward, HeadCounts, Rope};
use crate::view::Format;

/// Threads of a block of the kernels on matrix units, which has 64 rows.
const FAST_THREADS: u32 = 128;
/// Bytes of 64 rows of a head, padded for `mma.sync`, as they are for `wgmma`.
const PADDED_TILE: usize = QUERIES_PER_BLOCK * (FAST_HEAD + 8) * 2;
const TILE: usize = QUERIES_PER_BLOCK * FAST_HEAD * 2;
/// Blocks for each multiprocessor that hide how long the longest of them takes.
const KEY_BLOCKS: usize = 8;
/// Two numbers for each of 64 rows.
const NUMBERS: usize = QUERIES_PER_BLOCK * 2 * 4;

/// Shared memory of a block: two turns of two tiles and their numbers; for `wgmma` the block's own two tiles too.
fn shared(has_wgmma: bool) -> u32 {
    let tiles = if has_wgmma { 6 * TILE } else { 4 * PADDED_TILE };
    (tiles + 2 * NUMBERS) as u32
}

/// As `training_fast_attention.cu` declares it.
#[repr(C)]
struct FastArguments {
    qkv: u64,
    dy: u64,
    out: u64,
    of_heads: u64,
    sums: u64,
    deltas: u64,
    work: u64,
    segment_row: u64,
    segment_rows: u64,
    rows: i32,
    tile_rows: i32,
    heads: i32,
    kv_heads: i32,
    work_items: i32,
}

/// As `training_attention.cu` declares it.
#[repr(C)]
struct AnyArguments {
    qkv: u64,
    out: u64,
    dy: u64,
    dqkv: u64,
    sums: u64,
    deltas: u64,
    positions: u64,
    tile_rows: u32,
    rows: u32,
    heads: u32,
    kv_heads: u32,
    d: u32,
}

/// Which rows attend to which.
#[derive(Clone, Copy)]
enum Sequences<'a> {
    Tiles(usize),
    Segments(&'a Plan),
}

/// An attention's sizes.
#[derive(Clone, Copy)]
struct Attention<'a> {
    sequences: Sequences<'a>,
    heads: HeadCounts,
    head: usize,
    rows: usize,
    element: Element,
}

pub(super) fn tiles_keeping(backend: &CudaBackend, qkv: &Tensor, tile_rows: usize, heads: usize) -> (Tensor, Saved) {
    let attention = Attention::of_tiles(qkv, tile_rows, heads);
    if !attention.is_fast() {
        let (out, sums) = attention.forward(backend, qkv);
        return (out, Saved { sums: Some(sums), ..Saved::default() });
    }
    let sums = per_head(backend, heads, qkv.rows);
    let out = tiles_with_sums(backend, qkv, tile_rows, heads, Some(&sums));
    (out, Saved { sums: Some(sums), ..Saved::default() })
}

pub(super) fn tiles_backward(
    backend: &CudaBackend,
    args: &AttentionBackward<'_, CudaBackend>,
    tile_rows: usize,
    heads: usize,
) -> Tensor {
    Attention::of_tiles(args.qkv, tile_rows, heads).backward(backend, args.qkv, args)
}

pub(super) fn causal(
    backend: &CudaBackend,
    plan: &Plan,
    qkv: &Tensor,
    heads: HeadCounts,
    rope: Rope<'_, CudaBackend>,
    format: Format,
) -> (Tensor, Saved) {
    // As a cache would store them.
    let stored = convert(backend, qkv, Element::of(format));
    let qkv = stored.as_ref().unwrap_or(qkv);
    let attention = Attention::of_segments(plan, qkv, heads);
    let turned = backend.tensor(qkv.rows, qkv.width, qkv.element);
    attention.turn(backend, qkv, &turned, plan, rope, 1.0);
    let (out, sums) = attention.forward(backend, &turned);
    (out, Saved { turned: Some(turned), sums: Some(sums), ..Saved::default() })
}

pub(super) fn causal_backward(
    backend: &CudaBackend,
    plan: &Plan,
    args: &AttentionBackward<'_, CudaBackend>,
    heads: HeadCounts,
    rope: Rope<'_, CudaBackend>,
) -> Tensor {
    let turned = args.saved.turned.as_ref().expect("what the forward operation kept");
    let attention = Attention::of_segments(plan, turned, heads);
    let gradient = attention.backward(backend, turned, args);
    attention.turn(backend, &gradient, &gradient, plan, rope, -1.0);
    gradient
}

/// One f32 for each head and row.
fn per_head(backend: &CudaBackend, heads: usize, rows: usize) -> Tensor {
    backend.tensor(heads, rows, Element::F32)
}

impl<'a> Attention<'a> {
    fn of_tiles(qkv: &Tensor, tile_rows: usize, heads: usize) -> Self {
        let heads = HeadCounts { queries: heads, keys: heads };
        Self::new(Sequences::Tiles(tile_rows), qkv, heads)
    }

    fn of_segments(plan: &'a Plan, qkv: &Tensor, heads: HeadCounts) -> Self {
        assert_eq!(plan.tokens(), qkv.rows, "rows of a step");
        Self::new(Sequences::Segments(plan), qkv, heads)
    }

    fn new(sequences: Sequences<'a>, qkv: &Tensor, heads: HeadCounts) -> Self {
        let head = qkv.width / (heads.queries + 2 * heads.keys);
        assert!(head <= MOST_HEAD, "heads of {head}");
        Self { sequences, heads, head, rows: qkv.rows, element: qkv.element }
    }

    fn is_fast(&self) -> bool {
        self.element == Element::Bf16 && self.head == FAST_HEAD
    }

    /// Turns queries and keys to their positions, or back.
    fn turn(
        &self,
        backend: &CudaBackend,
        qkv: &Tensor,
        out: &Tensor,
        plan: &Plan,
        rope: Rope<'_, CudaBackend>,
        direction: f32,
    ) {
        let arguments: [Argument; 9] = [
            qkv.pointer().into(),
            out.pointer().into(),
            plan.array(Array::Positions).into(),
            rope.cos.f32.pointer().into(),
            rope.sin.f32.pointer().into(),
            (self.heads.queries as u32).into(),
            (self.heads.keys as u32).into(),
            (self.head as u32).into(),
            direction.into(),
        ];
        let shape = Shape::new((self.rows as u32, 1, 1), THREADS);
        let name = format!("turn_{}", qkv.element.name());
        // Safety: a block for each row of both; angles of every position.
        unsafe { backend.start("turning queries and keys", Module::TrainingAttention, &name, shape, &arguments) };
    }

    /// Attention over queries and keys at their positions, and the logarithms of its sums.
    fn forward(&self, backend: &CudaBackend, turned: &Tensor) -> (Tensor, Tensor) {
        let out = backend.tensor(self.rows, self.heads.queries * self.head, self.element);
        let sums = per_head(backend, self.heads.queries, self.rows);
        let (out_pointer, sums_pointer) = (out.pointer(), sums.pointer());
        if self.is_fast() {
            let structure = FastArguments { out: out_pointer, sums: sums_pointer, ..self.fast_arguments(turned) };
            self.start_fast(backend, "sequence_attention_mma", self.heads.queries, shared(false), &structure);
        } else {
            let structure = AnyArguments { out: out_pointer, sums: sums_pointer, ..self.any_arguments(turned) };
            self.start_any(backend, "sequence_attention", self.heads.queries, &structure);
        }
        (out, sums)
    }

    /// The gradient of `qkv`, whose queries and keys are at their positions.
    fn backward(&self, backend: &CudaBackend, qkv: &Tensor, args: &AttentionBackward<'_, CudaBackend>) -> Tensor {
        let narrow = convert(backend, args.dy, self.element);
        let dy = narrow.as_ref().unwrap_or(args.dy);
        let gradient = backend.tensor(qkv.rows, qkv.width, self.element);
        let deltas = per_head(backend, self.heads.queries, self.rows);
        let sums = args.saved.sums.as_ref().expect("what the forward operation kept");
        if self.is_fast() {
            self.deltas(backend, dy, args.out, &deltas);
            let of_heads = self.of_heads(backend);
            let structure = FastArguments {
                dy: dy.pointer(),
                out: gradient.pointer(),
                of_heads: of_heads.as_ref().map_or(0, Tensor::pointer),
                sums: sums.pointer(),
                deltas: deltas.pointer(),
                ..self.fast_arguments(qkv)
            };
            let has_wgmma = backend.has_wgmma();
            let (products, shared) = (if has_wgmma { "wgmma" } else { "mma" }, shared(has_wgmma));
            let (queries, keys) = (format!("attention_queries_{products}"), format!("attention_keys_{products}"));
            self.start_fast(backend, &queries, self.heads.queries, shared, &structure);
            let heads = if of_heads.is_some() { self.heads.queries } else { self.heads.keys };
            self.start_fast(backend, &keys, heads, shared, &structure);
            if of_heads.is_some() {
                let threads = self.rows * 2 * self.heads.keys * (FAST_HEAD / 8);
                start(backend, "sum_of_heads", Shape::each(threads as u64), &structure);
            }
        } else {
            let structure = AnyArguments {
                out: args.out.pointer(),
                dy: dy.pointer(),
                dqkv: gradient.pointer(),
                sums: sums.pointer(),
                deltas: deltas.pointer(),
                ..self.any_arguments(qkv)
            };
            self.start_any(backend, "attention_deltas", self.heads.queries, &structure);
            self.start_any(backend, "attention_queries", self.heads.queries, &structure);
            self.start_any(backend, "attention_keys", self.heads.keys, &structure);
        }
        gradient
    }

    /// Room for what each head of queries gives keys and values, where blocks for all heads that share some are too few.
    fn of_heads(&self, backend: &CudaBackend) -> Option<Tensor> {
        let HeadCounts { queries, keys } = self.heads;
        let blocks = self.rows.div_ceil(QUERIES_PER_BLOCK) * keys;
        let few = queries > keys && blocks < KEY_BLOCKS * backend.device.info.multiprocessors as usize;
        few.then(|| backend.tensor(self.rows, 2 * queries * FAST_HEAD, Element::Bf16))
    }

    fn deltas(&self, backend: &CudaBackend, dy: &Tensor, out: &Tensor, deltas: &Tensor) {
        let arguments = [
            dy.pointer().into(),
            out.pointer().into(),
            deltas.pointer().into(),
            (self.rows as u32).into(),
            (self.heads.queries as u32).into(),
        ];
        let shape = Shape::each((8 * self.rows * self.heads.queries) as u64);
        let (module, name) = (Module::TrainingAttention, "attention_deltas_64");
        // Safety: eight threads for each row and head.
        unsafe { backend.start("attention backwards", module, name, shape, &arguments) };
    }

    fn any_arguments(&self, qkv: &Tensor) -> AnyArguments {
        let (positions, tile_rows) = match self.sequences {
            Sequences::Tiles(rows) => (0, rows as u32),
            Sequences::Segments(plan) => (plan.array(Array::Positions), 0),
        };
        AnyArguments {
            qkv: qkv.pointer(),
            out: 0,
            dy: 0,
            dqkv: 0,
            sums: 0,
            deltas: 0,
            positions,
            tile_rows,
            rows: self.rows as u32,
            heads: self.heads.queries as u32,
            kv_heads: self.heads.keys as u32,
            d: self.head as u32,
        }
    }

    fn start_any(&self, backend: &CudaBackend, name: &str, heads: usize, structure: &AnyArguments) {
        let name = format!("{name}_{}", self.element.name());
        let kernel = backend.training_kernel(Module::TrainingAttention, &name);
        let shape = Shape::new(((self.rows as u32).div_ceil(WARPS), heads as u32, 1), THREADS);
        // Safety: the structure is the kernel's; a warp for each row and head.
        unsafe { backend.device.launch_struct("attention of a training step", kernel, shape, structure) };
    }

    fn fast_arguments(&self, qkv: &Tensor) -> FastArguments {
        let arrays = [Array::Work, Array::SegmentRow, Array::SegmentRows];
        let (arrays, tile_rows, work_items) = match self.sequences {
            Sequences::Tiles(rows) => ([0; 3], rows, 0),
            Sequences::Segments(plan) => (arrays.map(|array| plan.array(array)), 0, plan.work_items),
        };
        let [work, segment_row, segment_rows] = arrays;
        FastArguments {
            qkv: qkv.pointer(),
            dy: 0,
            out: 0,
            of_heads: 0,
            sums: 0,
            deltas: 0,
            work,
            segment_row,
            segment_rows,
            rows: self.rows as i32,
            tile_rows: tile_rows as i32,
            heads: self.heads.queries as i32,
            kv_heads: self.heads.keys as i32,
            work_items: work_items as i32,
        }
    }

    fn start_fast(&self, backend: &CudaBackend, name: &str, heads: usize, shared: u32, structure: &FastArguments) {
        let grid = match self.sequences {
            Sequences::Tiles(rows) => (rows.div_ceil(QUERIES_PER_BLOCK), self.rows / rows),
            Sequences::Segments(plan) => (plan.work_items, 1),
        };
        let grid = (grid.0 as u32, heads as u32, grid.1 as u32);
        start(backend, name, Shape { shared, ..Shape::new(grid, FAST_THREADS) }, structure);
    }
}

fn start(backend: &CudaBackend, name: &str, shape: Shape, structure: &FastArguments) {
    let kernel = backend.training_kernel(Module::TrainingFastAttention, name);
    // Safety: the structure is the kernel's; blocks for all rows and heads.
    unsafe { backend.device.launch_struct("attention of a training step", kernel, shape, structure) };
}
