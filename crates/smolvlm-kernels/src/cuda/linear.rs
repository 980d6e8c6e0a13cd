//! `epilogue(norm(x) · Wᵀ)`: of a few rows or some by kernels of our own, of more by the library.

use super::CudaBackend;
use super::launch::{Argument, Module, Shape};
use super::matmul::Product;
use super::small_products;
use super::tensor::{Element, Tensor, Vector, Weight};
use crate::backend::{Activation, LinearArgs, Norm, PatchArgs};

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
    if !small_products::start(backend, args, residual, &out) {
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

fn many_rows(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>, residual: Option<&Tensor>, out: &Tensor) {
    let element = args.weight.element;
    let prepared = match &args.norm {
        Some(norm) => Some(self::norm(backend, args.x, norm, element)),
        None => convert(backend, args.x, element),
    };
    let x = prepared.as_ref().unwrap_or(args.x);
    let bias = args.bias.map(|bias| bias_as(bias, out.element));
    let product = Product { x, weight: args.weight, out, residual: None, bias, gelu: false, before: None };
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

pub(super) fn swiglu(backend: &CudaBackend, both: &Tensor, out: &Tensor) {
    let count = out.numbers() as u64;
    let wide = out.element == Element::Bf16 && out.width.is_multiple_of(4);
    let name = if wide { "wide_swiglu_bf16".to_owned() } else { format!("swiglu_{}", out.element.name()) };
    let threads = if wide { count / 4 } else { count };
    let arguments = [both.pointer().into(), out.pointer().into(), count.into()];
    let shape = Shape::each(threads).early_if(wide);
    // Safety: `both` is twice as wide as `out`.
    unsafe { backend.device.launch("swiglu", backend.kernel(Module::Rows, &name), shape, &arguments) };
}

/// Rows from which a warp normalises two.
const MANY_NORMS: usize = 8192;

/// `norm(x)`, stored as `element`.
pub(super) fn norm(backend: &CudaBackend, x: &Tensor, norm: &Norm<'_, CudaBackend>, element: Element) -> Tensor {
    let out = backend.tensor(x.rows, x.width, element);
    let (rows, width) = (x.rows as u32, x.width as u32);
    let chunks = x.width.div_ceil(256);
    let wide = x.element == Element::Bf16 && element == Element::Bf16 && x.width.is_multiple_of(8) && chunks <= 8;
    let suffix = if wide { chunks.to_string() } else { format!("{}_{}", x.element.name(), element.name()) };
    let prefix = if wide { "wide_" } else { "" };
    match norm {
        Norm::Rms { weight, eps } => {
            let shape = Shape::rows(x.rows).early_if(wide);
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
            // Where there are enough rows to fill the machine, two of them a warp.
            let each = if wide && x.rows >= MANY_NORMS { 2 } else { 1 };
            let suffix = if wide { format!("{suffix}_{each}") } else { suffix };
            let shape = Shape::rows(x.rows.div_ceil(each)).early_if(wide);
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
pub(super) fn convert(backend: &CudaBackend, x: &Tensor, element: Element) -> Option<Tensor> {
    (x.element != element).then(|| {
        let out = backend.tensor(x.rows, x.width, element);
        repeat(backend, x, &out);
        out
    })
}

/// Fills `out` with the rows of `x`, over and over.
fn repeat(backend: &CudaBackend, x: &Tensor, out: &Tensor) {
    let kernel = backend.kernel(Module::Rows, &format!("convert_{}_{}", x.element.name(), out.element.name()));
    let arguments = [
        x.pointer().into(),
        out.pointer().into(),
        (out.rows as u32).into(),
        (x.rows.max(1) as u32).into(),
        (x.width as u32).into(),
    ];
    // Safety: rows of `out` are as wide as those of `x`.
    unsafe { backend.device.launch("converting rows", kernel, Shape::rows(out.rows), &arguments) };
}

fn bias_as(bias: &Vector, element: Element) -> u64 {
    match element {
        Element::F32 => bias.f32.pointer(),
        Element::Bf16 => bias.bf16.pointer(),
    }
}

pub(super) fn patch_embed(backend: &CudaBackend, plan: &super::Plan, args: &PatchArgs<'_, CudaBackend>) -> Tensor {
    let element = args.weight.element;
    let patches = unfold(backend, plan, args.patch, args.weight);
    let out = backend.tensor(patches.rows, args.weight.outputs, element);
    repeat(backend, args.positions, &out);
    let (residual, bias) = (Some(out.pointer()), Some(bias_as(args.bias, element)));
    backend.matmul.product(&Product {
        x: &patches,
        weight: args.weight,
        out: &out,
        residual,
        bias,
        gelu: false,
        before: None,
    });
    out
}

/// The plan's tiles cut into patches, `[patches, inputs]`.
pub(super) fn unfold(backend: &CudaBackend, plan: &super::Plan, patch: usize, weight: &Weight) -> Tensor {
    let (size, tiles, element) = (plan.tiles.size, plan.tiles.count, weight.element);
    let rows = tiles * (size / patch) * (size / patch);
    let patches = backend.tensor(rows, weight.inputs, element);
    let by_lines = element == Element::Bf16 && [8, 16].contains(&patch) && size.is_multiple_of(patch);
    let (name, count) = if by_lines {
        (format!("unfold_{patch}_bf16"), (rows * patch) as u64)
    } else {
        (format!("unfold_{}", element.name()), patches.numbers() as u64)
    };
    let kernel = backend.kernel(Module::Rows, &name);
    plan.tiles.read(|pixels, values| {
        let (size, patch) = (size as u32, patch as u32);
        let arguments =
            [pixels.into(), values.into(), patches.pointer().into(), count.into(), size.into(), patch.into()];
        // Safety: one thread for each number of `patches`, or for each line of one, whose pixels the plan has. The kernel for lines
        // does not ask for the last argument.
        unsafe { backend.device.launch("cutting tiles into patches", kernel, Shape::each(count), &arguments) };
    });
    patches
}
