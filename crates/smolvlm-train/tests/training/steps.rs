//! The optimizer over many steps.

use smolvlm_kernels::{CpuBackend, Format, TrainBackend};
use smolvlm_train::{Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates};

use crate::goldens::{Batch, json, learner};

/// As the losses were recorded.
fn settings(recorded: &serde_json::Value) -> (OptimizerSettings, f64) {
    let number = |pointer: &str| recorded.pointer(pointer).and_then(serde_json::Value::as_f64).expect("a number");
    let settings = OptimizerSettings {
        beta1: number("/adamw/betas/0"),
        beta2: number("/adamw/betas/1"),
        eps: number("/adamw/eps"),
        decay: number("/decay"),
        clip: Some(number("/clip")),
    };
    (settings, number("/adamw/lr"))
}

/// Loss and norm of the gradients of one step.
fn step<B: TrainBackend>(
    learner: &mut Learner<B>,
    optimizer: &mut Optimizer<B>,
    batch: &Batch,
    rate: f64,
) -> (f64, f64) {
    let counted: f64 = batch.examples.iter().map(|example| example.counted()).sum();
    let loss = learner.learn(&batch.examples, 1.0 / counted).expect("a step");
    (loss.mean(), learner.update(optimizer, Rates::same(rate)).expect("an update"))
}

/// Ten steps beside PyTorch's.
pub(crate) fn check_ten_steps<B: TrainBackend>(mut learner: Learner<B>) {
    let recorded = json("training/steps.json");
    let (settings, rate) = settings(&recorded);
    let mut optimizer = Optimizer::new(learner.taped(), settings);
    for (i, expected) in recorded["steps"].as_array().expect("steps").iter().enumerate() {
        let batch = Batch::read(expected["batch"].as_str().expect("a name"));
        let (loss, norm) = step(&mut learner, &mut optimizer, &batch, rate);
        let (expected_loss, expected_norm) = (expected["loss"].as_f64(), expected["gradient_norm"].as_f64());
        let (expected_loss, expected_norm) = (expected_loss.expect("a loss"), expected_norm.expect("a norm"));
        assert!((loss - expected_loss).abs() < 1e-4, "step {i}: {loss} for {expected_loss}");
        assert!((norm - expected_norm).abs() < 1e-3 * expected_norm, "step {i}: norm {norm} for {expected_norm}");
    }
}

#[test]
fn ten_steps_lose_what_pytorchs_lose() {
    check_ten_steps(learner(2, LearnerOptions::default()));
}

/// All master weights as bits.
fn masters(learner: &Learner<CpuBackend>) -> Vec<u32> {
    let backend = learner.taped().inner();
    let parameters = learner.taped().parameters();
    parameters.iter().flat_map(|parameter| parameter.master(backend)).map(f32::to_bits).collect()
}

#[test]
fn a_run_that_is_resumed_ends_bit_equal() {
    let batches = ["image", "two_images", "video"].map(Batch::read);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.safetensors");
    let options = || LearnerOptions { format: Format::Bf16, ..LearnerOptions::default() };
    let settings = OptimizerSettings::default();
    let mut whole = learner(2, options());
    let mut optimizer = Optimizer::new(whole.taped(), settings);
    for i in 0..6 {
        step(&mut whole, &mut optimizer, &batches[i % 3], 1e-3);
        if i == 2 {
            optimizer.store(&file, whole.taped()).expect("a state");
        }
    }
    let mut resumed = learner(1, options());
    let mut optimizer = Optimizer::new(resumed.taped(), settings);
    optimizer.resume(&file, resumed.taped()).expect("the state");
    for batch in &batches {
        step(&mut resumed, &mut optimizer, batch, 1e-3);
    }
    assert!(masters(&whole) == masters(&resumed));
    let entries = std::fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(entries, 1, "nothing is left beside the state");
}

#[test]
fn a_state_of_another_run_or_a_broken_one_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.safetensors");
    let full = learner(1, LearnerOptions::default());
    Optimizer::new(full.taped(), OptimizerSettings::default()).store(&file, full.taped()).expect("a state");
    let selection = Box::new(|name: &str| name.starts_with("model.connector."));
    let part = learner(1, LearnerOptions { selection, ..LearnerOptions::default() });
    let mut optimizer = Optimizer::new(part.taped(), OptimizerSettings::default());
    let before = masters(&part);
    let error = optimizer.resume(&file, part.taped()).expect_err("another run's").to_string();
    assert!(error.contains("state.safetensors") && error.contains("expected 3 tensors"), "{error}");
    for bytes in [&b""[..], b"not a file", &std::fs::read(&file).expect("the state")[..10_000]] {
        std::fs::write(&file, bytes).expect("a broken file");
        let error = optimizer.resume(&file, part.taped()).expect_err("a broken file").to_string();
        assert!(error.contains("state.safetensors"), "{error}");
    }
    assert!(masters(&part) == before);
}

#[test]
fn a_rate_of_zero_leaves_a_group_alone() {
    let batch = Batch::read("image");
    let mut learner = learner(2, LearnerOptions::default());
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    let of = |learner: &Learner<CpuBackend>| {
        let parameters = learner.taped().parameters();
        parameters.iter().map(|parameter| parameter.master(learner.taped().inner())).collect::<Vec<_>>()
    };
    let before = of(&learner);
    learner.learn(&batch.examples, 0.1).expect("a step");
    learner.update(&mut optimizer, Rates { vision: 0.0, ..Rates::same(1e-3) }).expect("an update");
    for ((before, after), parameter) in before.iter().zip(&of(&learner)).zip(learner.taped().parameters()) {
        let frozen = parameter.group() == smolvlm_train::Group::Vision;
        assert_eq!(before == after, frozen, "{:?}", parameter.names());
    }
}

#[test]
fn gradients_that_are_not_finite_move_nothing() {
    let batch = Batch::read("image");
    let mut learner = learner(1, LearnerOptions::default());
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    let before = masters(&learner);
    learner.learn(&batch.examples, f64::from(f32::MAX)).expect("a step");
    let error = learner.update(&mut optimizer, Rates::same(1e-3)).expect_err("an infinite norm");
    assert!(error.to_string().contains("norm of the gradients"), "{error}");
    assert!(masters(&learner) == before);
    step(&mut learner, &mut optimizer, &batch, 1e-3);
    assert!(masters(&learner) != before);
}
