//! Softmax cross-entropy.

use super::CudaBackend;
use crate::cuda::launch::{Module, Shape};
use crate::cuda::tensor::{Element, Tensor};

/// Threads of a block, a row, as `training_rows.cu` has them.
const THREADS: u32 = 512;

/// The sum; with `differentiates` the gradient takes the place of the logits.
pub(super) fn cross_entropy(
    backend: &CudaBackend,
    logits: &Tensor,
    targets: &[u32],
    weights: &[f32],
    differentiates: bool,
) -> f64 {
    let rows = logits.rows;
    assert!(targets.len() == rows && weights.len() == rows, "a target and a weight for each row");
    assert_eq!(logits.element, Element::F32, "logits");
    if rows == 0 {
        return 0.0;
    }
    let known: Vec<u32> = targets.iter().copied().chain(weights.iter().map(|weight| weight.to_bits())).collect();
    let known = backend.uploaded(&known);
    let losses = backend.tensor(rows, 2, Element::F32);
    let arguments = [
        logits.pointer().into(),
        known.pointer().into(),
        (known.pointer() + 4 * rows as u64).into(),
        losses.pointer().into(),
        (logits.width as u32).into(),
        u32::from(differentiates).into(),
    ];
    let shape = Shape::new((rows as u32, 1, 1), THREADS);
    // Safety: a block for each row; there are as many targets, weights and f64 losses.
    unsafe { backend.start("the loss", Module::TrainingRows, "cross_entropy", shape, &arguments) };
    let mut sum = 0.0;
    backend.read_bytes(losses.pointer(), rows * size_of::<f64>(), |bytes| {
        sum += bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).sum::<f64>();
    });
    sum
}
