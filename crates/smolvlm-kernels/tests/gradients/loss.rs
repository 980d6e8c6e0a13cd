//! Cross-entropy and the optimizer.

use rand::RngExt;
use smolvlm_kernels::training::{AdamW, AdamWPart};
use smolvlm_kernels::{CpuBackend, ReferenceBackend, TrainBackend};

use crate::case::{Case, Named, assert_close, check_by_differences, check_on_the_processor, gpu, numbers, of, rng};

struct CrossEntropy {
    rows: usize,
    vocab: usize,
}

impl CrossEntropy {
    fn targets(&self) -> (Vec<u32>, Vec<f32>) {
        let mut rng = rng(21);
        let targets = (0..self.rows).map(|_| rng.random_range(0..self.vocab as u32)).collect();
        let weights = (0..self.rows).map(|row| if row % 3 == 1 { 0.0 } else { 0.5 + row as f32 / 8.0 }).collect();
        (targets, weights)
    }
}

/// Its result is one number, so that the gradient of that number is a factor.
impl Case for CrossEntropy {
    fn inputs(&self) -> Named {
        vec![("logits", numbers(&mut rng(20), self.rows * self.vocab).iter().map(|x| 4.0 * x).collect())]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let logits = backend.upload(self.rows, self.vocab, of(inputs, "logits"));
        let (targets, weights) = self.targets();
        let loss = backend.cross_entropy_loss(&logits, &targets, &weights);
        let (same, _) = backend.cross_entropy(logits, &targets, &weights);
        assert!(loss == same, "{loss} alone, {same} with the gradient");
        vec![loss as f32]
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let logits = backend.upload(self.rows, self.vocab, of(inputs, "logits"));
        let (targets, weights) = self.targets();
        let (_, gradient) = backend.cross_entropy(logits, &targets, &weights);
        vec![backend.download(&gradient).iter().map(|gradient| gradient * dy[0]).collect()]
    }
}

#[test]
fn cross_entropy_agrees_with_differences_and_on_the_processor_with_the_reference() {
    check_by_differences("cross-entropy", &CrossEntropy { rows: 4, vocab: 5 });
    for (rows, vocab) in [(1, 7), (40, 512), (5, 1000)] {
        let case = CrossEntropy { rows, vocab };
        check_on_the_processor("cross-entropy", &case);
        let inputs = case.inputs();
        let expected = case.forward(&ReferenceBackend, &inputs);
        assert_close("loss", &case.forward(&CpuBackend::new(2).expect("threads"), &inputs), &expected, 1e-6);
    }
}

/// A row that does not count may name any target.
#[test]
fn rows_of_weight_zero_cost_nothing() {
    fn check<B: TrainBackend>(backend: &B) {
        let logits = || backend.upload(2, 3, &[f32::NAN, 1.0, 2.0, 0.5, 1.5, -1.0]);
        let (loss, gradient) = backend.cross_entropy(logits(), &[u32::MAX, 2], &[0.0, 1.0]);
        let gradient = backend.download(&gradient);
        assert!(loss.is_finite() && gradient[3..].iter().all(|x| x.is_finite()), "{loss}, {gradient:?}");
        assert_eq!(gradient[..3], [0.0; 3]);
    }
    check(&CpuBackend::new(1).expect("threads"));
    check(&ReferenceBackend);
    if let Some(gpu) = gpu() {
        check(&*gpu);
    }
}

/// Several steps of parameters of these lengths together, so that moments and their corrections matter.
fn train<B: TrainBackend>(backend: &B, lengths: &[usize]) -> Vec<f32> {
    let mut rng = rng(31);
    let mut masters: Vec<_> = lengths.iter().map(|len| backend.floats(&numbers(&mut rng, *len))).collect();
    let mut moments: Vec<_> = lengths.iter().map(|len| (backend.zeros(*len), backend.zeros(*len))).collect();
    for step in 1..=5 {
        let gradients: Vec<_> = lengths.iter().map(|len| backend.floats(&numbers(&mut rng, *len))).collect();
        let gradient_scale = (1.0 / backend.norm_of_all(&gradients.iter().collect::<Vec<_>>())).min(1.0);
        let step = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1, gradient_scale, step };
        let mut parts = Vec::new();
        for ((master, gradient), (first, second)) in masters.iter_mut().zip(&gradients).zip(&mut moments) {
            parts.push(AdamWPart { step, master, gradient, first, second });
        }
        backend.adamw(&mut parts);
    }
    masters.iter().flat_map(|master| backend.read(master)).collect()
}

#[test]
fn all_parts_are_cleared() {
    fn check<B: TrainBackend>(backend: &B) {
        let mut parts: Vec<_> = [0, 3, 10_000, 0, 8192].map(|len| backend.floats(&vec![1.0; len])).into();
        backend.clear(&mut parts.iter_mut().collect::<Vec<_>>());
        assert!(parts.iter().flat_map(|part| backend.read(part)).all(|x| x == 0.0));
    }
    check(&ReferenceBackend);
    check(&CpuBackend::new(2).expect("threads"));
    if let Some(gpu) = gpu() {
        check(&*gpu);
    }
}

#[test]
fn the_optimizer_on_the_processor_agrees_with_the_reference() {
    for lengths in [&[1][..], &[100, 0, 7], &[70_000, 3, 8192, 9000]] {
        let expected = train(&ReferenceBackend, lengths);
        let found = [1, 3].map(|threads| train(&CpuBackend::new(threads).expect("threads"), lengths));
        assert!(found[0] == found[1], "threads change bits");
        assert_close("master weights", &found[0], &expected, 1e-6);
        if let Some(gpu) = gpu() {
            assert_close("master weights on the GPU", &train(&*gpu, lengths), &expected, 1e-6);
        }
    }
}
