//! Products of 5 to some hundreds of rows on Hopper, by a kernel that norms, multiplies and finishes at once.

use super::CudaBackend;
use super::launch::{Function, Module, Shape};
use super::small_products::activation_number;
use super::tensor::{Element, Tensor};
use super::tensor_map::TensorMap;
use crate::backend::{Activation, LinearArgs, Norm};

/// Most rows and outputs: the library is faster with more.
const MOST_ROWS: usize = 512;
const MOST_OUTPUTS: usize = 8192;
/// Inputs of a chunk, the bytes of a row of it, and the fewest and the most chunks that a block holds.
const CHUNK: usize = 64;
const CHUNK_BYTES: usize = CHUNK * 2;
const FEWEST_STAGES: usize = 3;
const MOST_STAGES: usize = 32;
/// Eight warps that multiply and one that brings.
const THREADS: u32 = 9 * 32;
/// Bytes of shared memory that the kernel declares.
const BARRIERS: usize = 1024;

/// What a block of one of the kernels computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    rows: usize,
    outputs: usize,
    /// Warps that take turns with the chunks.
    turns: usize,
}

/// As `hopper_rows.cu` declares it.
#[repr(C)]
struct RowsProduct {
    x: TensorMap,
    weight: TensorMap,
    norm: u64,
    residual: u64,
    out: u64,
    eps: f32,
    rows: u32,
    inputs: u32,
    outputs: u32,
    activation: u32,
    stages: u32,
}

impl Tile {
    const fn new(rows: usize, outputs: usize, turns: usize) -> Self {
        Self { rows, outputs, turns }
    }

    fn slot(&self) -> usize {
        (self.rows + self.outputs) * CHUNK_BYTES
    }

    /// Bytes where the sums of a block meet: a number for each output, padded, and the row's sum of squares.
    fn sums(&self) -> usize {
        let padded = if self.outputs % 16 == 8 { self.outputs } else { self.outputs + 8 };
        self.turns * self.rows * (padded + 1) * size_of::<f32>()
    }

    fn blocks(&self, rows: usize, outputs: usize) -> (usize, usize) {
        (outputs.div_ceil(self.outputs), rows.div_ceil(self.rows))
    }

    /// Chunks that a block holds at a time, and its bytes of shared memory; none if those are too few in `limit`.
    fn memory(&self, inputs: usize, limit: usize) -> Option<(usize, usize)> {
        let chunks = inputs.div_ceil(CHUNK);
        let norm = chunks * CHUNK_BYTES;
        let most = (limit.checked_sub(norm + BARRIERS)? / self.slot()).min(MOST_STAGES);
        // A place that is used again stays with the warps that used it first.
        let stages = if most >= chunks { chunks } else { most / self.turns * self.turns };
        // Sums meet where chunks were.
        let bytes = (stages * self.slot()).max(self.sums()) + norm;
        (stages >= FEWEST_STAGES.min(chunks) && bytes + BARRIERS <= limit).then_some((stages, bytes))
    }
}

/// What the kernel is compiled for, the largest first.
const TILES: [Tile; 8] = [
    Tile::new(64, 96, 2),
    Tile::new(64, 32, 4),
    Tile::new(32, 48, 4),
    Tile::new(32, 32, 4),
    Tile::new(32, 24, 4),
    Tile::new(16, 48, 8),
    Tile::new(16, 32, 8),
    Tile::new(16, 16, 8),
];

/// Starts a product if it suits the kernel; whether it does. `residual` is stored as `out` is.
pub(super) fn start(
    backend: &CudaBackend,
    args: &LinearArgs<'_, CudaBackend>,
    residual: Option<&Tensor>,
    out: &Tensor,
) -> bool {
    let (inputs, outputs) = (args.weight.inputs, args.weight.outputs);
    let suits = backend.has_wgmma()
        && [args.x.element, args.weight.element, out.element].iter().all(|element| *element == Element::Bf16)
        && (1..=MOST_ROWS).contains(&args.x.rows)
        && outputs <= MOST_OUTPUTS
        && outputs.is_multiple_of(8)
        && inputs.is_multiple_of(8)
        && args.bias.is_none()
        && args.activation != Activation::GeluTanh
        && !matches!(args.norm, Some(Norm::Layer { .. }));
    if !suits {
        return false;
    }
    let Some((tile, stages, shared)) = choose(backend, args.x.rows, inputs, outputs) else { return false };
    let (norm, eps) = match args.norm {
        Some(Norm::Rms { weight, eps }) => (weight.bf16.pointer(), eps),
        _ => (0, 0.0),
    };
    let map =
        |pointer, rows, boxes: usize| TensorMap::in_boxes(&backend.device, pointer, &[inputs, rows], boxes as u32);
    let structure = RowsProduct {
        x: map(args.x.pointer(), args.x.rows, tile.rows),
        weight: map(args.weight.data.pointer(), outputs, tile.outputs),
        norm,
        residual: residual.map_or(0, Tensor::pointer),
        out: out.pointer(),
        eps,
        rows: args.x.rows as u32,
        inputs: inputs as u32,
        outputs: outputs as u32,
        activation: activation_number(args.activation),
        stages: stages as u32,
    };
    let (across, down) = tile.blocks(args.x.rows, outputs);
    let kernel: Option<Function> =
        backend.kernel(Module::HopperRows, &format!("hopper_rows_{}x{}", tile.rows, tile.outputs));
    let shape = Shape { shared: shared as u32, ..Shape::new((across as u32, down as u32, 1), THREADS).early() };
    // Safety: the structure is the kernel's, every tensor is as large as it says, and the maps describe them.
    unsafe { backend.device.launch_struct("a product of some rows", kernel, shape, &structure) };
    true
}

/// The largest tile that leaves work for most multiprocessors, with its chunks and bytes of shared memory.
fn choose(backend: &CudaBackend, rows: usize, inputs: usize, outputs: usize) -> Option<(Tile, usize, usize)> {
    let enough = backend.device.info.multiprocessors as usize * 3 / 5;
    let fits = |tile: &Tile| {
        let (stages, shared) = tile.memory(inputs, backend.device.shared_memory)?;
        Some((*tile, stages, shared))
    };
    let is_enough = |tile: &Tile| {
        let (across, down) = tile.blocks(rows, outputs);
        across * down >= enough
    };
    TILES.iter().filter(|tile| is_enough(tile)).find_map(fits).or_else(|| TILES.iter().rev().find_map(fits))
}
