//! AdamW, and the norm of all gradients.

use super::Floats;
use crate::aligned::Aligned;
use crate::cpu::CpuBackend;
use crate::cpu::lanes::AdamStep;
use crate::cpu::shared::SharedRows;
use crate::training::{AdamW, AdamWPart};

/// Numbers of a task.
const SHARE: usize = 1 << 14;

/// Squares are added in f64, share by share, then the shares in order.
pub(super) fn norm_of_all(backend: &CpuBackend, parts: &[&Floats]) -> f64 {
    let shares: Vec<&[f32]> = parts.iter().flat_map(|part| part.chunks(SHARE)).collect();
    let mut sums = Aligned::zeroed(shares.len() * size_of::<f64>());
    let shared = SharedRows::of(&mut sums, size_of::<f64>());
    backend.threads.run(shares.len(), |share| {
        let sum = backend.isa.rows.training().squares(shares[share]);
        // SAFETY: each share is one task.
        unsafe { shared.segment::<u8>(share, 0, size_of::<f64>()) }.copy_from_slice(&sum.to_le_bytes());
    });
    let sums = sums.as_chunks::<{ size_of::<f64>() }>().0;
    sums.iter().take(shares.len()).map(|bytes| f64::from_le_bytes(*bytes)).sum::<f64>().sqrt()
}

pub(super) fn adamw(backend: &CpuBackend, part: &mut AdamWPart<'_, CpuBackend>) {
    let AdamWPart { step, master, gradient, first, second } = part;
    let AdamW { rate, beta1, beta2, eps, decay, gradient_scale, step } = *step;
    let step = AdamStep {
        gradient_scale: gradient_scale as f32,
        keep: (1.0 - rate * decay) as f32,
        beta1: beta1 as f32,
        one_less_beta1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        one_less_beta2: (1.0 - beta2) as f32,
        rate: (rate / (1.0 - beta1.powf(step as f64))) as f32,
        root: (1.0 - beta2.powf(step as f64)).sqrt() as f32,
        eps: eps as f32,
    };
    let share = |task: usize| (task * SHARE, SHARE.min(gradient.len() - task * SHARE));
    let all = gradient.len() * size_of::<f32>();
    let numbers = [master, first, second].map(|numbers| SharedRows::of(numbers.bytes_mut(), all));
    backend.threads.run(gradient.len().div_ceil(SHARE), |task| {
        let (start, count) = share(task);
        // SAFETY: each share is one task.
        let numbers = numbers.each_ref().map(|numbers| unsafe { numbers.segment::<f32>(0, start, count) });
        backend.isa.rows.training().adam(&step, numbers, &gradient[start..start + count]);
    });
}
