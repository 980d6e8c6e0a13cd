//! Operations that only move rows.

use super::CudaBackend;
use super::launch::{Module, Shape};
use super::plan::{Array, Plan};
use super::tensor::{Element, Table, Tensor};

pub(super) fn embed(backend: &CudaBackend, plan: &Plan, table: &Table) -> Tensor {
    let out = backend.tensor(plan.rows(), table.inputs, table.element);
    let kernel = backend.kernel(Module::Rows, &format!("embed_{}", table.element.name()));
    let arguments = [
        table.data.pointer().into(),
        plan.array(Array::Ids).into(),
        out.pointer().into(),
        (out.rows as u32).into(),
        (out.width as u32).into(),
    ];
    // Safety: ids are inside the vocabulary: `submit` checks them.
    unsafe { backend.device.launch("embedding", kernel, Shape::rows(out.rows).early(), &arguments) };
    out
}

pub(super) fn scatter(backend: &CudaBackend, plan: &Plan, x: &Tensor, sources: &[&Tensor]) {
    let features = &plan.batch.features;
    let mut first = 0;
    for run in features.chunk_by(|a, b| a.source == b.source) {
        let source = sources[run[0].source as usize];
        let kernel = backend.kernel(Module::Rows, &format!("scatter_{}_{}", source.element.name(), x.element.name()));
        let offset = 4 * first as u64;
        let arguments = [
            source.pointer().into(),
            (plan.array(Array::FeatureRows) + offset).into(),
            (plan.array(Array::FeatureIndices) + offset).into(),
            x.pointer().into(),
            (run.len() as u32).into(),
            (x.width as u32).into(),
        ];
        // Safety: the batch names rows of `x` and of its sources.
        unsafe { backend.device.launch("placing image features", kernel, Shape::rows(run.len()), &arguments) };
        first += run.len();
    }
}

pub(super) fn gather(backend: &CudaBackend, plan: &Plan, x: &Tensor) -> Tensor {
    let out = backend.tensor(plan.output_rows(), x.width, x.element);
    let kernel = backend.kernel(Module::Rows, &format!("gather_{}", x.element.name()));
    let arguments = [
        x.pointer().into(),
        plan.array(Array::Outputs).into(),
        out.pointer().into(),
        (out.rows as u32).into(),
        (out.width as u32).into(),
    ];
    // Safety: the plan names rows of `x`.
    unsafe { backend.device.launch("gathering outputs", kernel, Shape::rows(out.rows).early(), &arguments) };
    out
}

pub(super) fn pixel_shuffle(backend: &CudaBackend, x: &Tensor, side: usize, scale: usize) -> Tensor {
    let out = backend.tensor(x.rows / (scale * scale), x.width * scale * scale, x.element);
    let kernel = backend.kernel(Module::Rows, &format!("pixel_shuffle_{}", x.element.name()));
    let arguments = [
        x.pointer().into(),
        out.pointer().into(),
        ((x.rows / (side * side)) as u32).into(),
        (side as u32).into(),
        (scale as u32).into(),
        (x.width as u32).into(),
    ];
    // Safety: `out` has as many numbers as `x`.
    unsafe { backend.device.launch("pixel shuffle", kernel, Shape::rows(x.rows), &arguments) };
    out
}

/// The place of the largest number of each row.
pub(super) fn largest(backend: &CudaBackend, x: &Tensor) -> Tensor {
    assert_eq!(x.element, Element::F32, "logits");
    let out = backend.tensor(x.rows, 1, Element::F32);
    let arguments = [x.pointer().into(), out.pointer().into(), (x.width as u32).into()];
    let shape = Shape::new((x.rows as u32, 1, 1), 1024);
    // Safety: a block for each row; `out` has 32 bits for each.
    unsafe { backend.device.launch("choosing", backend.kernel(Module::Rows, "largest_f32"), shape, &arguments) };
    out
}
