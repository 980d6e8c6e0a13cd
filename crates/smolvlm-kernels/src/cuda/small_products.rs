//! Products of 1 to 128 rows by kernels that norm, multiply and finish at once.

use super::CudaBackend;
use super::hopper_products;
use super::launch::{Module, Shape};
use super::tensor::{Element, Tensor};
use crate::backend::{Activation, LinearArgs, Norm};

/// Most rows of the kernel for few, outputs of one of its blocks, and its threads.
const FEW_ROWS: usize = 4;
const FEW_OUTPUTS_PER_BLOCK: usize = 8;
const FEW_THREADS: u32 = 128;

/// Most rows and outputs of the kernel for some rows: the library is faster with more.
const SOME_ROWS: usize = 128;
const SOME_OUTPUTS: usize = 8192;
/// Rows of one of its blocks, fewest outputs, threads, and inputs that it takes at a time.
const TILE_ROWS: usize = 64;
const SMALLEST_TILE: usize = 16;
const SOME_THREADS: u32 = 256;
const CHUNK: usize = 64;

/// As `product.cuh` declares it.
#[repr(C)]
struct Product {
    x: u64,
    norm: u64,
    weight: u64,
    bias: u64,
    residual: u64,
    out: u64,
    eps: f32,
    rows: u32,
    inputs: u32,
    outputs: u32,
    activation: u32,
}

/// Starts a product if it suits one of the kernels; whether it does. `residual` is stored as `out` is.
pub(super) fn start(
    backend: &CudaBackend,
    args: &LinearArgs<'_, CudaBackend>,
    residual: Option<&Tensor>,
    out: &Tensor,
) -> bool {
    let suits_both = args.weight.inputs.is_multiple_of(8)
        && !matches!(args.norm, Some(Norm::Layer { .. }))
        && (args.activation != Activation::SwiGlu || residual.is_none());
    if !suits_both {
        return false;
    }
    let started = if suits_few_rows(backend, args, out.element) {
        few_rows(backend, args, out)
    } else if hopper_products::start(backend, args, residual, out) {
        return true;
    } else if suits_some_rows(backend, args, out.element) {
        some_rows(backend, args)
    } else {
        return false;
    };
    let (kernel, shape) = started;
    // Safety: the structure is the kernels', and every tensor is as large as it says.
    unsafe { backend.device.launch_struct("a product of some rows", kernel, shape, &product(args, residual, out)) };
    true
}

fn product(args: &LinearArgs<'_, CudaBackend>, residual: Option<&Tensor>, out: &Tensor) -> Product {
    let (norm, eps) = match args.norm {
        Some(Norm::Rms { weight, eps }) => (weight.f32.pointer(), eps),
        _ => (0, 0.0),
    };
    Product {
        x: args.x.pointer(),
        norm,
        weight: args.weight.data.pointer(),
        bias: args.bias.map_or(0, |bias| bias.f32.pointer()),
        residual: residual.map_or(0, Tensor::pointer),
        out: out.pointer(),
        eps,
        rows: args.x.rows as u32,
        inputs: args.weight.inputs as u32,
        outputs: args.weight.outputs as u32,
        activation: activation_number(args.activation),
    }
}

/// As `product.cuh` counts them.
pub(super) fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::GeluTanh => 1,
        Activation::SwiGlu => 2,
    }
}

/// The kernel keeps all rows in shared memory.
fn few_rows_shared(args: &LinearArgs<'_, CudaBackend>) -> usize {
    args.x.rows.next_power_of_two() * args.weight.inputs * args.weight.element.bytes()
}

fn suits_few_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, out: Element) -> bool {
    args.x.rows <= FEW_ROWS
        && args.x.element == args.weight.element
        && (out == args.weight.element || out == Element::F32)
        && few_rows_shared(args) <= backend.device.shared_memory / 2
}

type Start = (Option<super::launch::Function>, Shape);

fn few_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, out: &Tensor) -> Start {
    // A grid of no blocks is not started.
    let blocks = if out.rows == 0 { 0 } else { args.weight.outputs.div_ceil(FEW_OUTPUTS_PER_BLOCK) as u32 };
    let (rows, weights) = (args.x.rows.next_power_of_two(), args.weight.element.name());
    let kernel =
        backend.kernel(Module::FewRows, &format!("few_rows_{weights}_{weights}_{}_{rows}", out.element.name()));
    let shared = few_rows_shared(args) as u32;
    (kernel, Shape { shared, ..Shape::new((blocks, 1, 1), FEW_THREADS).early() })
}

/// Two halves with four stages each, whose rows are padded by 16 bytes; then the norm's weights.
fn some_rows_shared(tile: usize, inputs: usize) -> usize {
    2 * 4 * (TILE_ROWS + tile) * (CHUNK + 8) * 2 + inputs.next_multiple_of(CHUNK) * size_of::<f32>()
}

fn suits_some_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, out: Element) -> bool {
    [args.x.element, args.weight.element, out].iter().all(|element| *element == Element::Bf16)
        && args.x.rows <= SOME_ROWS
        && args.weight.outputs <= SOME_OUTPUTS
        && args.weight.outputs.is_multiple_of(2)
        && args.bias.is_none()
        && args.activation != Activation::GeluTanh
        && some_rows_shared(SMALLEST_TILE, args.weight.inputs) <= backend.device.shared_memory
}

fn some_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>) -> Start {
    let (inputs, outputs) = (args.weight.inputs, args.weight.outputs);
    // As many outputs a block as still leave work for most multiprocessors.
    let row_blocks = args.x.rows.div_ceil(TILE_ROWS);
    let enough = backend.device.info.multiprocessors as usize * 3 / 4;
    let suits = |tile: &usize| {
        outputs.div_ceil(*tile) * row_blocks >= enough
            && some_rows_shared(*tile, inputs) <= backend.device.shared_memory
    };
    let tile = [64, 32].into_iter().find(suits).unwrap_or(SMALLEST_TILE);
    let shared = some_rows_shared(tile, inputs) as u32;
    let grid = (outputs.div_ceil(tile) as u32, row_blocks as u32, 1);
    let kernel = backend.kernel(Module::SomeRows, &format!("some_rows_{tile}"));
    (kernel, Shape { shared, ..Shape::new(grid, SOME_THREADS).early() })
}
