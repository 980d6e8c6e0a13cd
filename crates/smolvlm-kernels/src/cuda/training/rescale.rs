//! Rows of a weight brought to other lengths, as DoRA does.

use super::linear::{add_bias, finished, product};
use super::rows::{accumulate, add_column_sums};
use super::{CudaBackend, Floats, Saved};
use crate::backend::{Activation, LinearArgs};
use crate::cuda::launch::{Module, Shape};
use crate::cuda::linear::convert;
use crate::cuda::tensor::{Element, Tensor, Weight};
use crate::packed::Arrangement;
use crate::training::{LowRank, Rescale};

/// Threads of a block that takes a row's norm.
const THREADS: u32 = 256;

pub(super) fn row_norms(
    backend: &CudaBackend,
    weight: &Weight,
    arrangement: Arrangement,
    low: LowRank<'_, CudaBackend>,
) -> Floats {
    let ranks = low.b.len() / weight.outputs.max(1);
    assert_eq!(low.a.len(), ranks * weight.inputs, "two matrices of one rank");
    let norms = Floats::zeros(backend, weight.outputs);
    let arguments = [
        weight.data.pointer().into(),
        low.a.pointer().into(),
        low.b.pointer().into(),
        low.scale.into(),
        norms.pointer().into(),
        (weight.outputs as u32).into(),
        (weight.inputs as u32).into(),
        (ranks as u32).into(),
        u32::from(arrangement == Arrangement::GateUp).into(),
    ];
    let (shape, name) =
        (Shape::new((weight.outputs as u32, 1, 1), THREADS), format!("row_norms_{}", weight.element.name()));
    // Safety: a block for each row of the weight, and of `b`.
    unsafe { backend.start("norms of rows", Module::TrainingRows, &name, shape, &arguments) };
    norms
}

pub(super) fn linear(
    backend: &CudaBackend,
    args: LinearArgs<'_, CudaBackend>,
    addend: &Tensor,
    rescale: Rescale<'_, CudaBackend>,
) -> (Tensor, Saved, Tensor) {
    let before = product(backend, &args);
    let converted = convert(backend, addend, before.element);
    let kept = backend.tensor(before.rows, before.width, Element::F32);
    let arguments = [
        before.pointer().into(),
        converted.as_ref().unwrap_or(addend).pointer().into(),
        kept.pointer().into(),
        rescale.lengths.pointer().into(),
        rescale.norms.pointer().into(),
        before.numbers().into(),
        (before.width as u32).into(),
        u32::from(args.activation == Activation::SwiGlu).into(),
    ];
    let name = format!("rescale_{}", before.element.name());
    // Safety: all three have that many numbers; lengths and norms as many as a row.
    unsafe { backend.each("rescaling", &name, before.numbers(), &arguments) };
    if args.activation != Activation::Identity {
        let (out, saved) = finished(backend, args, before);
        return (out, saved, kept);
    }
    if let Some(bias) = args.bias {
        add_bias(backend, bias, &before, false);
    }
    if let Some(residual) = args.residual {
        accumulate(backend, &before, residual);
    }
    (before, Saved::default(), kept)
}

pub(super) fn backward(
    backend: &CudaBackend,
    product: &Tensor,
    dy: &Tensor,
    rescale: Rescale<'_, CudaBackend>,
    lengths: &Floats,
) -> Tensor {
    let out = backend.tensor(dy.rows, dy.width, dy.element);
    let slopes = backend.tensor(dy.rows, dy.width, Element::F32);
    let arguments = [
        product.pointer().into(),
        dy.pointer().into(),
        out.pointer().into(),
        slopes.pointer().into(),
        rescale.lengths.pointer().into(),
        rescale.norms.pointer().into(),
        dy.numbers().into(),
        (dy.width as u32).into(),
    ];
    let name = format!("rescale_backward_{}", dy.element.name());
    // Safety: all four have that many numbers; lengths and norms as many as a row.
    unsafe { backend.each("rescaling backwards", &name, dy.numbers(), &arguments) };
    add_column_sums(backend, &slopes, lengths, slopes.width);
    out
}
