//! The same on the first GPU, where `SMOLVLM_TEST_CUDA` asks for it.

use smolvlm_kernels::{Backend, CudaBackend};
use smolvlm_train::{Learner, LearnerOptions, Recompute};

use crate::goldens::{BATCHES, Batch, checkpoint};
use crate::{gradients, lora, steps};

const ASK_FOR_GPU: &str = "SMOLVLM_TEST_CUDA";

/// The first GPU, if it is asked for. Its kernels are compiled once.
fn gpu() -> Option<CudaBackend> {
    std::env::var_os(ASK_FOR_GPU)?;
    let kernels = std::env::temp_dir().join("smolvlm-test-kernels");
    Some(CudaBackend::new(0, Some(kernels)).expect("a GPU was asked for"))
}

fn learner(backend: CudaBackend, options: LearnerOptions) -> Learner<CudaBackend> {
    Learner::load(backend, &checkpoint(), options).expect("a model that learns")
}

#[test]
fn every_gradient_of_every_batch_equals_pytorchs() {
    for name in BATCHES {
        for recompute in [Recompute::Nothing, Recompute::Blocks] {
            let Some(gpu) = gpu() else { return };
            let mut learner = learner(gpu, LearnerOptions { recompute, ..LearnerOptions::default() });
            gradients::check(
                &mut learner,
                &Batch::read(name),
                &format!("{name} on the GPU, {recompute:?} computed again"),
            );
            learner.taped().inner().failure().expect("no failure");
        }
    }
}

#[test]
fn ten_steps_lose_what_pytorchs_lose() {
    if let Some(gpu) = gpu() {
        steps::check_ten_steps(learner(gpu, LearnerOptions::default()));
    }
}

#[test]
fn bf16_is_no_further_from_f32_than_pytorch_is() {
    if gpu().is_some() {
        gradients::check_bf16(|options| learner(gpu().expect("a GPU"), options));
    }
}

#[test]
fn gradients_of_an_adapter_equal_pefts() {
    if let Some(gpu) = gpu() {
        lora::check_gradients(gpu, "adapter");
    }
}

#[test]
fn gradients_of_lengths_equal_pefts() {
    if let Some(gpu) = gpu() {
        lora::check_gradients(gpu, "dora");
    }
}
