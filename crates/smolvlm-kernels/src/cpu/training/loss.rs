//! Softmax cross-entropy.

use crate::aligned::{Aligned, numbers_mut};
use crate::cpu::CpuBackend;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::Tensor;

/// A row's loss before its weight, and what its softmax needs.
struct RowLoss {
    max: f32,
    /// Logarithm of the sum of exponentials less the largest.
    sum: f64,
    loss: f64,
}

fn row_loss(backend: &CpuBackend, logits: &[f32], target: u32) -> RowLoss {
    let (max, sum) = backend.isa.rows.training().log_sum_exp(logits);
    RowLoss { max, sum, loss: sum + f64::from(max) - f64::from(logits[target as usize]) }
}

pub(super) fn loss(backend: &CpuBackend, logits: &Tensor, targets: &[u32], weights: &[f32]) -> f64 {
    let row = |row: usize| row_loss(backend, logits.row(row), targets[row]).loss;
    weighted_sum(backend, logits.rows(), targets, weights, row)
}

/// The logits' memory becomes the gradient's.
pub(super) fn cross_entropy(
    backend: &CpuBackend,
    mut logits: Tensor,
    targets: &[u32],
    weights: &[f32],
) -> (f64, Tensor) {
    let (rows, width) = (logits.rows(), logits.width());
    let shared = SharedRows::new(&mut logits);
    for (row, _) in weights.iter().enumerate().filter(|(_, weight)| **weight == 0.0) {
        // SAFETY: nobody else uses the rows yet.
        unsafe { shared.segment::<f32>(row, 0, width) }.fill(0.0);
    }
    let loss = weighted_sum(backend, rows, targets, weights, |row| {
        // SAFETY: each row is one task.
        let logits = unsafe { shared.segment::<f32>(row, 0, width) };
        let RowLoss { max, sum, loss } = row_loss(backend, logits, targets[row]);
        // The largest is at most the sum, so this factor is between the weight over the vocabulary and the weight.
        backend.isa.rows.training().softmax(logits, max, weights[row] * (-sum).exp() as f32);
        logits[targets[row] as usize] -= weights[row];
        loss
    });
    (loss, logits)
}

/// The rows that count, times their weights, added in order.
fn weighted_sum(
    backend: &CpuBackend,
    rows: usize,
    targets: &[u32],
    weights: &[f32],
    loss: impl Fn(usize) -> f64 + Sync,
) -> f64 {
    assert!(targets.len() == rows && weights.len() == rows, "a target and a weight for each row");
    let mut losses = Aligned::zeroed(rows * size_of::<[f32; 2]>());
    let shared = SharedRows::of(&mut losses, size_of::<[f32; 2]>());
    backend.threads.run(rows, |row| {
        if weights[row] != 0.0 {
            let loss = loss(row);
            let high = loss as f32;
            // SAFETY: each row is one task.
            unsafe { shared.segment(row, 0, 2) }.copy_from_slice(&[high, (loss - f64::from(high)) as f32]);
        }
    });
    let pairs = numbers_mut::<f32>(&mut losses).as_chunks::<2>().0;
    let wide = pairs.iter().map(|[high, low]| f64::from(*high) + f64::from(*low));
    wide.zip(weights).map(|(loss, weight)| loss * f64::from(*weight)).sum()
}
