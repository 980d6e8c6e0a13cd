//! Rows put back where they came from, sums of columns, copies.

use std::ops::Range;

use super::numbers::{self, zero};
use super::{CudaBackend, Floats};
use crate::cuda::launch::{Module, Shape};
use crate::cuda::plan::{Array, Plan};
use crate::cuda::tensor::{Element, Tensor};
use crate::training::Dropout;

/// Columns and threads of a block that adds up columns, as `training_rows.cu` has them.
const SUM_COLUMNS: usize = 256;
const SUM_THREADS: u32 = 256;

pub(super) fn dropout(backend: &CudaBackend, x: &Tensor, dropout: Dropout) {
    let threshold = (f64::from(dropout.rate) * 4_294_967_296.0).ceil() as u64;
    let multiplier = dropout.factor / (1.0 - dropout.rate);
    let arguments = [x.pointer().into(), x.numbers().into(), dropout.seed.into(), threshold.into(), multiplier.into()];
    // Safety: `x` has that many numbers.
    unsafe { backend.each("dropout", &format!("dropout_{}", x.element.name()), x.numbers(), &arguments) };
}

/// Adds the sum of each column of `x` to `sums`, as if its rows were `width` wide.
pub(super) fn add_column_sums(backend: &CudaBackend, x: &Tensor, sums: &Floats, width: usize) {
    assert!(sums.len() == width && x.numbers().is_multiple_of(width.max(1)), "a sum for each column");
    if x.numbers() == 0 {
        return;
    }
    let rows = x.numbers() / width;
    let (shape, rows_per_block) = column_blocks(backend, rows, width);
    let arguments =
        [x.pointer().into(), sums.pointer().into(), (rows as u32).into(), (width as u32).into(), rows_per_block.into()];
    let name = format!("column_sums_{}", x.element.name());
    // Safety: blocks for all columns and rows.
    unsafe { backend.start("sums of columns", Module::TrainingRows, &name, shape, &arguments) };
}

/// Blocks for all columns and rows, and how many rows each has: enough blocks to fill the machine, few enough that adding up their
/// sums at the end costs little.
pub(super) fn column_blocks(backend: &CudaBackend, rows: usize, width: usize) -> (Shape, u32) {
    let across = width.div_ceil(SUM_COLUMNS);
    let wanted = (4 * backend.device.info.multiprocessors as usize).div_ceil(across.max(1));
    let rows_per_block = rows.div_ceil(wanted).max(32);
    let grid = (across as u32, rows.div_ceil(rows_per_block) as u32, 1);
    (Shape::new(grid, SUM_THREADS), rows_per_block as u32)
}

/// `to += x`.
pub(super) fn accumulate(backend: &CudaBackend, to: &Tensor, x: &Tensor) {
    assert_eq!((to.rows, to.width), (x.rows, x.width), "gradients of one tensor");
    let name = format!("accumulate_{}_{}", to.element.name(), x.element.name());
    let arguments = [to.pointer().into(), x.pointer().into(), to.numbers().into()];
    // Safety: both have that many numbers.
    unsafe { backend.each("adding gradients", &name, to.numbers(), &arguments) };
}

pub(super) fn copy(backend: &CudaBackend, x: &Tensor, rows: Range<usize>) -> Tensor {
    assert!(rows.end <= x.rows, "rows of a copy");
    let out = backend.tensor(rows.len(), x.width, x.element);
    let row_bytes = x.width * x.element.bytes();
    numbers::copy(backend, out.pointer(), x.pointer() + (rows.start * row_bytes) as u64, rows.len() * row_bytes);
    out
}

pub(super) fn stack(backend: &CudaBackend, parts: &[Tensor]) -> Tensor {
    let (width, element) = parts.first().map_or((0, Element::F32), |part| (part.width, part.element));
    let out = backend.tensor(parts.iter().map(|part| part.rows).sum(), width, element);
    let mut at = out.pointer();
    for part in parts {
        assert_eq!((part.width, part.element), (width, element), "parts of one tensor");
        let bytes = part.numbers() * element.bytes();
        numbers::copy(backend, at, part.pointer(), bytes);
        at += bytes as u64;
    }
    out
}

fn zeros(backend: &CudaBackend, rows: usize, width: usize, element: Element) -> Tensor {
    let out = backend.tensor(rows, width, element);
    zero(backend, out.pointer(), out.numbers() * element.bytes());
    out
}

/// Starts a kernel over the rows of `x`, each of which goes to the row of `to` that the array names.
fn to_rows(backend: &CudaBackend, kernel: &str, plan: &Plan, x: &Tensor, array: Array, to: u64) {
    let arguments =
        [x.pointer().into(), plan.array(array).into(), to.into(), (x.rows as u32).into(), (x.width as u32).into()];
    let name = format!("{kernel}_{}", x.element.name());
    // Safety: the plan names a row of `to` for each row of `x`.
    unsafe { backend.start("adding rows", Module::TrainingRows, &name, Shape::rows(x.rows), &arguments) };
}

pub(super) fn embed_backward(backend: &CudaBackend, plan: &Plan, dy: &Tensor, gradient: &Floats) {
    assert_eq!(dy.rows, plan.tokens(), "a row for each token");
    to_rows(backend, "add_to_rows", plan, dy, Array::Ids, gradient.pointer());
}

pub(super) fn gather_backward(backend: &CudaBackend, plan: &Plan, dy: &Tensor, rows: usize) -> Tensor {
    assert_eq!(dy.rows, plan.batch.outputs.len(), "a row for each output");
    // A row that is put out once, as every one of a step is, has nothing to be added to.
    let once = plan.batch.outputs.is_sorted_by(|before, after| before < after);
    let (kernel, element) = if once { ("put_rows", dy.element) } else { ("add_to_rows", Element::F32) };
    let out = zeros(backend, rows, dy.width, element);
    to_rows(backend, kernel, plan, dy, Array::Outputs, out.pointer());
    out
}

pub(super) fn scatter_backward(
    backend: &CudaBackend,
    plan: &Plan,
    dy: Tensor,
    source_rows: &[usize],
) -> (Tensor, Vec<Tensor>) {
    let sources: Vec<Tensor> = source_rows.iter().map(|rows| zeros(backend, *rows, dy.width, Element::F32)).collect();
    let name = format!("take_rows_{}", dy.element.name());
    let mut first = 0;
    for run in plan.batch.features.chunk_by(|a, b| a.source == b.source) {
        let offset = 4 * first as u64;
        let arguments = [
            dy.pointer().into(),
            (plan.array(Array::FeatureRows) + offset).into(),
            (plan.array(Array::FeatureIndices) + offset).into(),
            sources[run[0].source as usize].pointer().into(),
            (run.len() as u32).into(),
            (dy.width as u32).into(),
        ];
        let shape = Shape::rows(run.len());
        // Safety: the batch names rows of `dy` and of the sources.
        unsafe { backend.start("gradients of features", Module::TrainingRows, &name, shape, &arguments) };
        first += run.len();
    }
    (dy, sources)
}

pub(super) fn pixel_shuffle_backward(backend: &CudaBackend, dy: &Tensor, side: usize, scale: usize) -> Tensor {
    let out = backend.tensor(dy.rows * scale * scale, dy.width / (scale * scale), dy.element);
    let arguments = [
        dy.pointer().into(),
        out.pointer().into(),
        ((out.rows / (side * side)) as u32).into(),
        (side as u32).into(),
        (scale as u32).into(),
        (out.width as u32).into(),
    ];
    let (shape, name) = (Shape::rows(out.rows), format!("pixel_shuffle_backward_{}", dy.element.name()));
    // Safety: `out` has as many numbers as `dy`.
    unsafe { backend.start("pixel shuffle backwards", Module::TrainingRows, &name, shape, &arguments) };
    out
}
