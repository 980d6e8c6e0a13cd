//! `epilogue(norm(x) · Wᵀ)`: a handful of rows by a kernel that reads the weights once, more by the library.

use super::CudaBackend;
use super::launch::{Argument, Module, Shape};
use super::matmul::Product;
use super::tensor::{Element, Tensor, Vector, Weight};
use crate::backend::{Activation, LinearArgs, Norm, PatchArgs};

/// Most rows of the kernel for few.
const FEW_ROWS: usize = 4;
/// Outputs of one of its blocks.
const OUTPUTS_PER_BLOCK: usize = 8;
/// Its threads.
const FEW_ROWS_THREADS: u32 = 128;
/// Rows of a block in `rows.cu`, and its threads.
pub(super) const ROWS_PER_BLOCK: u32 = 4;
pub(super) const ROW_THREADS: u32 = 128;

pub(super) fn linear(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>) -> Tensor {
    assert_eq!(args.x.width, args.weight.inputs, "a linear layer's input width");
    let element = result_element(args);
    let width = match args.activation {
        Activation::SwiGlu => args.weight.outputs / 2,
        _ => args.weight.outputs,
    };
    let out = backend.tensor(args.x.rows, width, element);
    let as_stored = args.residual.map(|residual| convert(backend, residual, element));
    let residual = args.residual.zip(as_stored.as_ref()).map(|(given, converted)| converted.as_ref().unwrap_or(given));
    if suits_few_rows(backend, args, element) {
        few_rows(backend, args, residual, &out);
    } else if suits_some_rows(backend, args, element) {
        some_rows(backend, args, residual, &out);
    } else {
        many_rows(backend, args, residual, &out);
    }
    out
}

/// A stream of residuals stays as it is stored; what is reported is kept exact; all else is stored as its weights are.
fn result_element(args: &LinearArgs<'_, CudaBackend>) -> Element {
    match args.residual {
        Some(residual) if residual.element == Element::Bf16 && args.weight.element == Element::F32 => Element::F32,
        Some(residual) => residual.element,
        None if args.reported => Element::F32,
        None => args.weight.element,
    }
}

fn suits_few_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, element: Element) -> bool {
    let known = args.x.element == args.weight.element && (element == args.weight.element || element == Element::F32);
    let shared = args.x.rows.next_power_of_two() * args.weight.inputs * args.weight.element.bytes();
    args.x.rows <= FEW_ROWS
        && known
        && args.weight.inputs.is_multiple_of(8)
        && shared <= backend.device.shared_memory / 2
        && !matches!(args.norm, Some(Norm::Layer { .. }))
        && (args.activation != Activation::SwiGlu || args.residual.is_none())
}

/// As `few_rows.cu` declares it.
#[repr(C)]
struct FewRows {
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

fn few_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, residual: Option<&Tensor>, out: &Tensor) {
    if out.rows == 0 {
        return;
    }
    let (norm, eps) = match args.norm {
        Some(Norm::Rms { weight, eps }) => (weight.f32.pointer(), eps),
        _ => (0, 0.0),
    };
    let structure = FewRows {
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
        activation: match args.activation {
            Activation::Identity => 0,
            Activation::GeluTanh => 1,
            Activation::SwiGlu => 2,
        },
    };
    let rows = args.x.rows.next_power_of_two();
    let weights = args.weight.element;
    let kernel = format!("few_rows_{0}_{0}_{1}_{rows}", weights.name(), out.element.name());
    let blocks = args.weight.outputs.div_ceil(OUTPUTS_PER_BLOCK) as u32;
    let shared = (rows * args.weight.inputs * weights.bytes()) as u32;
    let shape = Shape { shared, ..Shape::new((blocks, 1, 1), FEW_ROWS_THREADS).early() };
    // Safety: the structure is the kernel's, and every tensor is as large as it says.
    unsafe {
        backend.device.launch_struct(
            "a product of few rows",
            backend.kernel(Module::FewRows, &kernel),
            shape,
            &structure,
        )
    };
}

/// Most rows and outputs of the kernel for some rows: the library is faster with more.
const SOME_ROWS: usize = 128;
const SOME_ROWS_OUTPUTS: usize = 8192;
/// Rows of one of its blocks, its threads, and inputs that it takes at a time.
const TILE_ROWS: usize = 64;
const SOME_ROWS_THREADS: u32 = 256;
const CHUNK: usize = 64;

/// Fewest outputs of a block.
const SMALLEST_TILE: usize = 16;

/// Two halves with four stages each, whose rows are padded by 16 bytes; then the norm's weights.
fn some_rows_shared(tile: usize, inputs: usize) -> usize {
    2 * 4 * (TILE_ROWS + tile) * (CHUNK + 8) * 2 + inputs.next_multiple_of(CHUNK) * size_of::<f32>()
}

fn suits_some_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, element: Element) -> bool {
    let all_bf16 = [args.x.element, args.weight.element, element].iter().all(|element| *element == Element::Bf16);
    all_bf16
        && args.x.rows <= SOME_ROWS
        && args.weight.outputs <= SOME_ROWS_OUTPUTS
        && args.weight.inputs.is_multiple_of(8)
        && args.weight.outputs.is_multiple_of(2)
        && args.bias.is_none()
        && some_rows_shared(SMALLEST_TILE, args.weight.inputs) <= backend.device.shared_memory
        && !matches!(args.norm, Some(Norm::Layer { .. }))
        && match args.activation {
            Activation::Identity => true,
            Activation::SwiGlu => args.residual.is_none(),
            Activation::GeluTanh => false,
        }
}

/// As `some_rows.cu` declares it.
#[repr(C)]
struct SomeRows {
    x: u64,
    norm: u64,
    weight: u64,
    residual: u64,
    out: u64,
    eps: f32,
    rows: i32,
    inputs: i32,
    outputs: i32,
    activation: i32,
}

fn some_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, residual: Option<&Tensor>, out: &Tensor) {
    if out.rows == 0 {
        return;
    }
    let (norm, eps) = match args.norm {
        Some(Norm::Rms { weight, eps }) => (weight.f32.pointer(), eps),
        _ => (0, 0.0),
    };
    let Weight { inputs, outputs, .. } = *args.weight;
    let structure = SomeRows {
        x: args.x.pointer(),
        norm,
        weight: args.weight.data.pointer(),
        residual: residual.map_or(0, Tensor::pointer),
        out: out.pointer(),
        eps,
        rows: args.x.rows as i32,
        inputs: inputs as i32,
        outputs: outputs as i32,
        activation: if args.activation == Activation::SwiGlu { 2 } else { 0 },
    };
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
    let shape = Shape { shared, ..Shape::new(grid, SOME_ROWS_THREADS).early() };
    let kernel = backend.kernel(Module::SomeRows, &format!("some_rows_{tile}"));
    // Safety: the structure is the kernel's, and every tensor is as large as it says.
    unsafe { backend.device.launch_struct("a product of some rows", kernel, shape, &structure) };
}

fn many_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, residual: Option<&Tensor>, out: &Tensor) {
    let element = args.weight.element;
    let prepared = match &args.norm {
        Some(norm) => Some(self::norm(backend, args.x, norm, element)),
        None => convert(backend, args.x, element),
    };
    let x = prepared.as_ref().unwrap_or(args.x);
    let bias = args.bias.map(|bias| bias_as(bias, out.element));
    let product = Product { x, weight: args.weight, out, residual: None, bias, gelu: false };
    match args.activation {
        Activation::Identity => {
            return backend.matmul.product(&Product { residual: residual.map(Tensor::pointer), ..product });
        }
        // The library's own is coarse, which does not matter where the result is rounded anyway.
        Activation::GeluTanh if out.element == Element::Bf16 => {
            backend.matmul.product(&Product { gelu: true, ..product });
        }
        Activation::GeluTanh => {
            backend.matmul.product(&Product { bias: None, ..product });
            bias_gelu(backend, args.bias, out);
        }
        Activation::SwiGlu => {
            let both = backend.tensor(x.rows, args.weight.outputs, out.element);
            backend.matmul.product(&Product { out: &both, ..product });
            swiglu(backend, &both, out);
        }
    }
    if let Some(residual) = residual {
        add(backend, residual, out);
    }
}

fn bias_gelu(backend: &CudaBackend, bias: Option<&Vector>, out: &Tensor) {
    let bias = bias.map_or(0, |bias| bias.f32.pointer());
    let kernel = backend.kernel(Module::Rows, &format!("bias_gelu_{}", out.element.name()));
    let arguments = [out.pointer().into(), bias.into(), out.numbers().into(), (out.width as u32).into()];
    // Safety: one thread for each number of `out`; a bias has as many as `out` is wide.
    unsafe { backend.device.launch("gelu", kernel, Shape::each(out.numbers() as u64), &arguments) };
}

/// `out += residual`, stored alike.
fn add(backend: &CudaBackend, residual: &Tensor, out: &Tensor) {
    let kernel = backend.kernel(Module::Rows, &format!("add_{}", out.element.name()));
    let arguments = [out.pointer().into(), residual.pointer().into(), out.numbers().into()];
    // Safety: one thread for each number of both.
    unsafe { backend.device.launch("adding a residual", kernel, Shape::each(out.numbers() as u64), &arguments) };
}

fn swiglu(backend: &CudaBackend, both: &Tensor, out: &Tensor) {
    let count = out.numbers() as u64;
    let wide = out.element == Element::Bf16 && out.width.is_multiple_of(4);
    let name = if wide { "wide_swiglu_bf16".to_owned() } else { format!("swiglu_{}", out.element.name()) };
    let threads = if wide { count / 4 } else { count };
    let arguments = [both.pointer().into(), out.pointer().into(), count.into()];
    // Safety: `both` is twice as wide as `out`.
    let shape = Shape::each(threads);
    let shape = if wide { shape.early() } else { shape };
    unsafe { backend.device.launch("swiglu", backend.kernel(Module::Rows, &name), shape, &arguments) };
}

/// `norm(x)`, stored as `element`.
pub(super) fn norm(backend: &CudaBackend, x: &Tensor, norm: &Norm<'_, CudaBackend>, element: Element) -> Tensor {
    let out = backend.tensor(x.rows, x.width, element);
    let (rows, width) = (x.rows as u32, x.width as u32);
    let chunks = x.width.div_ceil(256);
    let wide = x.element == Element::Bf16 && element == Element::Bf16 && x.width.is_multiple_of(8) && chunks <= 8;
    let suffix = if wide { chunks.to_string() } else { format!("{}_{}", x.element.name(), element.name()) };
    let prefix = if wide { "wide_" } else { "" };
    let shape = Shape::new((rows.div_ceil(ROWS_PER_BLOCK), 1, 1), ROW_THREADS);
    match norm {
        Norm::Rms { weight, eps } => {
            let shape = if wide { shape.early() } else { shape };
            let kernel = backend.kernel(Module::Rows, &format!("{prefix}rms_norm_{suffix}"));
            let arguments: [Argument; 6] = [
                x.pointer().into(),
                weight.f32.pointer().into(),
                (*eps).into(),
                out.pointer().into(),
                rows.into(),
                width.into(),
            ];
            // Safety: `out` is as large as `x`; norm weights are as long as a row.
            unsafe { backend.device.launch("an RMS norm", kernel, shape, &arguments) };
        }
        Norm::Layer { weight, bias, eps } => {
            let kernel = backend.kernel(Module::Rows, &format!("{prefix}layer_norm_{suffix}"));
            let arguments: [Argument; 7] = [
                x.pointer().into(),
                weight.f32.pointer().into(),
                bias.f32.pointer().into(),
                (*eps).into(),
                out.pointer().into(),
                rows.into(),
                width.into(),
            ];
            // Safety: as above.
            unsafe { backend.device.launch("a layer norm", kernel, shape, &arguments) };
        }
    }
    out
}

/// `x` stored as `element`; none when it is already.
fn convert(backend: &CudaBackend, x: &Tensor, element: Element) -> Option<Tensor> {
    (x.element != element).then(|| repeat(backend, x, x.rows, element))
}

/// `rows` rows of `x`, over and over.
fn repeat(backend: &CudaBackend, x: &Tensor, rows: usize, element: Element) -> Tensor {
    let out = backend.tensor(rows, x.width, element);
    let kernel = backend.kernel(Module::Rows, &format!("convert_{}_{}", x.element.name(), element.name()));
    let arguments = [
        x.pointer().into(),
        out.pointer().into(),
        (rows as u32).into(),
        (x.rows.max(1) as u32).into(),
        (x.width as u32).into(),
    ];
    let shape = Shape::new(((rows as u32).div_ceil(ROWS_PER_BLOCK), 1, 1), ROW_THREADS);
    // Safety: `out` has `rows` rows as wide as `x`.
    unsafe { backend.device.launch("converting rows", kernel, shape, &arguments) };
    out
}

fn bias_as(bias: &Vector, element: Element) -> u64 {
    match element {
        Element::F32 => bias.f32.pointer(),
        Element::Bf16 => bias.bf16.pointer(),
    }
}

pub(super) fn patch_embed(backend: &CudaBackend, plan: &super::Plan, args: &PatchArgs<'_, CudaBackend>) -> Tensor {
    let Weight { element, inputs, .. } = *args.weight;
    let (size, patch, tiles) = (plan.tiles.size, args.patch, plan.tiles.count);
    let rows = tiles * (size / patch) * (size / patch);
    let patches = backend.tensor(rows, inputs, element);
    let kernel = backend.kernel(Module::Rows, &format!("unfold_{}", element.name()));
    let count = patches.numbers() as u64;
    plan.tiles.read(|pixels, values| {
        let arguments = [
            pixels.into(),
            values.into(),
            patches.pointer().into(),
            count.into(),
            (size as u32).into(),
            (patch as u32).into(),
        ];
        // Safety: one thread for each number of `patches`, whose pixels the plan has.
        unsafe { backend.device.launch("cutting tiles into patches", kernel, Shape::each(count), &arguments) };
    });
    let out = repeat(backend, args.positions, rows, element);
    let (residual, bias) = (Some(out.pointer()), Some(bias_as(args.bias, element)));
    backend.matmul.product(&Product { x: &patches, weight: args.weight, out: &out, residual, bias, gelu: false });
    out
}
