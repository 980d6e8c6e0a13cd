//! Products backwards: `dX = dY · W` and `dW = dYᵀ · X`, by the library.

use super::rows::{accumulate, add_column_sums, column_blocks};
use super::{CudaBackend, Floats, Saved, norm};
use crate::backend::{Activation, Backend, LinearArgs};
use crate::cuda::launch::Module;
use crate::cuda::linear::{convert, norm as normalised, swiglu};
use crate::cuda::matmul::Product;
use crate::cuda::tensor::{Element, Tensor, Vector};
use crate::training::LinearBackward;

/// The library stores what gelu is applied to in rows of whole 16 bytes of bfloat16.
const KEPT_ALIGNMENT: usize = 8;

pub(super) fn keeping(backend: &CudaBackend, args: LinearArgs<'_, CudaBackend>) -> (Tensor, Saved) {
    if args.activation == Activation::Identity {
        return (backend.linear(args), Saved::default());
    }
    activated(backend, args, None)
}

pub(super) fn adapted(backend: &CudaBackend, args: LinearArgs<'_, CudaBackend>, addend: &Tensor) -> (Tensor, Saved) {
    if args.activation != Activation::Identity {
        return activated(backend, args, Some(addend));
    }
    let out = backend.linear(args);
    accumulate(backend, &out, addend);
    (out, Saved::default())
}

fn activated(backend: &CudaBackend, args: LinearArgs<'_, CudaBackend>, addend: Option<&Tensor>) -> (Tensor, Saved) {
    let weight = args.weight;
    let rounded_anyway = weight.element == Element::Bf16 && weight.outputs.is_multiple_of(KEPT_ALIGNMENT);
    if args.activation == Activation::GeluTanh && addend.is_none() && rounded_anyway {
        return gelu_by_the_library(backend, args);
    }
    let before = product(backend, &args);
    if let Some(addend) = addend {
        add_before(backend, &before, addend, args.activation == Activation::SwiGlu);
    }
    finished(backend, args, before)
}

/// `norm(x) · Wᵀ` alone.
pub(super) fn product(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>) -> Tensor {
    let prepared = prepared(backend, args);
    let x = prepared.as_ref().unwrap_or(args.x);
    let out = backend.tensor(x.rows, args.weight.outputs, args.weight.element);
    let rest = Product { x, weight: args.weight, out: &out, residual: None, bias: None, gelu: false, before: None };
    backend.matmul.product(&rest);
    out
}

/// `x` as its product takes it, if it has to change for that.
fn prepared(backend: &CudaBackend, args: &LinearArgs<'_, CudaBackend>) -> Option<Tensor> {
    match &args.norm {
        Some(norm) => Some(normalised(backend, args.x, norm, args.weight.element)),
        None => convert(backend, args.x, args.weight.element),
    }
}

/// A product, its bias, what gelu is applied to, and gelu, in one.
fn gelu_by_the_library(backend: &CudaBackend, args: LinearArgs<'_, CudaBackend>) -> (Tensor, Saved) {
    let (weight, prepared) = (args.weight, prepared(backend, &args));
    let x = prepared.as_ref().unwrap_or(args.x);
    let tensor = || backend.tensor(x.rows, weight.outputs, weight.element);
    let (out, kept) = (tensor(), tensor());
    let (bias, before) = (args.bias.map(|bias| bias.bf16.pointer()), Some(kept.pointer()));
    backend.matmul.product(&Product { x, weight, out: &out, residual: None, bias, gelu: true, before });
    if let Some(residual) = args.residual {
        accumulate(backend, &out, residual);
    }
    (out, Saved { before: Some(kept), ..Saved::default() })
}

/// What follows a product: bias, activation, residual.
pub(super) fn finished(backend: &CudaBackend, args: LinearArgs<'_, CudaBackend>, before: Tensor) -> (Tensor, Saved) {
    let gated = args.activation == Activation::SwiGlu;
    let out = backend.tensor(before.rows, if gated { before.width / 2 } else { before.width }, before.element);
    if gated {
        if let Some(bias) = args.bias {
            add_bias(backend, bias, &before, gated);
        }
        swiglu(backend, &before, &out);
    } else {
        gelu_keeping(backend, &before, args.bias, &out);
    }
    if let Some(residual) = args.residual {
        accumulate(backend, &out, residual);
    }
    (out, Saved { before: Some(before), ..Saved::default() })
}

/// Adds rows to those of a product as it was written: of a gated layer, gates and ups to their turns.
fn add_before(backend: &CudaBackend, before: &Tensor, addend: &Tensor, gated: bool) {
    assert_eq!((before.rows, before.width), (addend.rows, addend.width), "an addend is as large as its product");
    let converted = convert(backend, addend, before.element);
    let arguments = [
        before.pointer().into(),
        converted.as_ref().unwrap_or(addend).pointer().into(),
        before.numbers().into(),
        (before.width as u32).into(),
        u32::from(gated).into(),
    ];
    let name = format!("add_before_{}", before.element.name());
    // Safety: both have that many numbers.
    unsafe { backend.each("adding an adapter", &name, before.numbers(), &arguments) };
}

/// Adds a bias to every row of a product as it was written.
pub(super) fn add_bias(backend: &CudaBackend, bias: &Vector, before: &Tensor, gated: bool) {
    let arguments = [
        before.pointer().into(),
        bias.f32.pointer().into(),
        before.numbers().into(),
        (before.width as u32).into(),
        u32::from(gated).into(),
    ];
    let name = format!("add_bias_{}", before.element.name());
    // Safety: `before` has that many numbers; a bias has as many as a row.
    unsafe { backend.each("adding a bias", &name, before.numbers(), &arguments) };
}

/// Adds the bias to what is kept, and activates it.
fn gelu_keeping(backend: &CudaBackend, before: &Tensor, bias: Option<&Vector>, out: &Tensor) {
    let arguments = [
        before.pointer().into(),
        bias.map_or(0, |bias| bias.f32.pointer()).into(),
        out.pointer().into(),
        out.numbers().into(),
        (out.width as u32).into(),
    ];
    // Safety: both have that many numbers; a bias has as many as a row.
    unsafe { backend.each("gelu", &format!("gelu_keeping_{}", out.element.name()), out.numbers(), &arguments) };
}

/// The gradient of what an activation was applied to; gates before ups.
pub(super) fn slopes(backend: &CudaBackend, before: &Tensor, activation: Activation, dy: &Tensor) -> Tensor {
    slopes_with_sums(backend, before, activation, dy, None)
}

/// The same, with the sums of its columns added to `sums`.
fn slopes_with_sums(
    backend: &CudaBackend,
    before: &Tensor,
    activation: Activation,
    dy: &Tensor,
    sums: Option<&Floats>,
) -> Tensor {
    let out = backend.tensor(before.rows, before.width, before.element);
    let narrow = before.element == Element::Bf16 && dy.element == Element::Bf16 && dy.width.is_multiple_of(8);
    match (activation, narrow) {
        (Activation::GeluTanh, true) => {
            wide_gelu_slopes(backend, before, dy, &out, sums);
            return out;
        }
        (Activation::SwiGlu, true) => swiglu_slopes(backend, "wide_swiglu_slopes_bf16", 8, before, dy, &out),
        (Activation::SwiGlu, false) => {
            let name = format!("swiglu_slopes_{}_{}", before.element.name(), dy.element.name());
            swiglu_slopes(backend, &name, 1, before, dy, &out);
        }
        (_, _) => gelu_slopes(backend, before, dy, &out),
    }
    if let Some(sums) = sums {
        add_column_sums(backend, &out, sums, out.width);
    }
    out
}

fn wide_gelu_slopes(backend: &CudaBackend, before: &Tensor, dy: &Tensor, out: &Tensor, sums: Option<&Floats>) {
    let (shape, rows_per_block) = column_blocks(backend, dy.rows, dy.width);
    let arguments = [
        before.pointer().into(),
        dy.pointer().into(),
        out.pointer().into(),
        sums.map_or(0, Floats::pointer).into(),
        (dy.rows as u32).into(),
        (dy.width as u32).into(),
        rows_per_block.into(),
    ];
    // Safety: all three are of one size, sums as long as a row; blocks for all columns and rows.
    unsafe { backend.start("gelu backwards", Module::TrainingRows, "wide_gelu_slopes_bf16", shape, &arguments) };
}

fn gelu_slopes(backend: &CudaBackend, before: &Tensor, dy: &Tensor, out: &Tensor) {
    let arguments = [before.pointer(), dy.pointer(), out.pointer(), dy.numbers() as u64].map(Into::into);
    let name = format!("gelu_slopes_{}_{}", before.element.name(), dy.element.name());
    // Safety: all three have that many numbers.
    unsafe { backend.each("gelu backwards", &name, dy.numbers(), &arguments) };
}

/// `at_a_time`: outputs that a thread takes.
fn swiglu_slopes(backend: &CudaBackend, kernel: &str, at_a_time: usize, before: &Tensor, dy: &Tensor, out: &Tensor) {
    let [before, gradient, out, count] =
        [before.pointer(), dy.pointer(), out.pointer(), dy.numbers() as u64].map(Into::into);
    let arguments = [before, gradient, out, count, (dy.width as u32).into()];
    // Safety: `dy` has that many numbers, the others twice as many.
    unsafe { backend.each("swiglu backwards", kernel, dy.numbers().div_ceil(at_a_time), &arguments) };
}

pub(super) fn backward(backend: &CudaBackend, args: LinearBackward<'_, CudaBackend>) -> Option<Tensor> {
    let element = args.weight.element;
    let before = args.saved.before.as_ref().filter(|_| args.activation != Activation::Identity);
    let bias = args.gradients.bias.as_deref();
    let through = match before {
        Some(before) => Some(slopes_with_sums(backend, before, args.activation, args.dy, bias)),
        None => convert(backend, args.dy, element),
    };
    let dy = through.as_ref().unwrap_or(args.dy);
    if let Some(gradient) = args.gradients.weight {
        let prepared = match &args.norm {
            Some(norm) => Some(normalised(backend, args.x, norm, element)),
            None => convert(backend, args.x, element),
        };
        assert_eq!(gradient.len(), dy.width * args.x.width, "a gradient is as large as its weight");
        backend.matmul.add_weight_gradient(dy, prepared.as_ref().unwrap_or(args.x), gradient.pointer());
    }
    if let (Some(gradient), None) = (bias, before) {
        add_column_sums(backend, dy, gradient, dy.width);
    }
    let numbers = args.transposed?.numbers(args.weight);
    let product = |out: &Tensor, added| backend.matmul.input_gradient(dy, numbers, out, added);
    Some(match (args.norm, args.onto) {
        (Some(norm), onto) => {
            let dx = backend.tensor(args.x.rows, args.x.width, element);
            product(&dx, false);
            norm::backward(backend, args.x, &norm, &dx, onto, args.gradients.norm)
        }
        (None, Some(onto)) => {
            product(&onto, true);
            onto
        }
        (None, None) => {
            let dx = backend.tensor(args.x.rows, args.x.width, element);
            product(&dx, false);
            dx
        }
    })
}
