//! Losses and gradients of single steps.

#![allow(clippy::print_stdout, reason = "a test says how near it came")]

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};
use smolvlm::checkpoint::names::{EMBEDDING, HEAD};
use smolvlm_kernels::{CpuBackend, Format, ReferenceBackend, TrainBackend};
use smolvlm_train::{Group, Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates, Recompute, save_checkpoint};

use crate::goldens::{BATCHES, Batch, checkpoint, gradients, gradients_of, learner, norm};

/// Of the norm of a gradient, or of a thousandth of its layer's largest: some are zero in exact arithmetic.
const TOLERANCE: f64 = 1e-4;
const SMALL: f64 = 1e-3;
/// How far bf16 gradients may be from f32 ones, as a multiple of PyTorch's own distance.
const BF16_SLACK: f64 = 1.25;

/// The layer that a tensor belongs to.
fn layer(name: &str) -> String {
    let mut parts = name.split('.');
    let mut layer: Vec<&str> = parts.by_ref().take_while(|part| *part != "layers").collect();
    match parts.next() {
        Some(number) => layer.extend(["layers", number]),
        None => layer.truncate(2),
    }
    layer.join(".")
}

/// Loss and every gradient of a batch.
pub(crate) fn check<B: TrainBackend>(learner: &mut Learner<B>, batch: &Batch, what: &str) {
    let counted: f64 = batch.examples.iter().map(|example| example.counted()).sum();
    let loss = learner.learn(&batch.examples, 1.0 / counted).expect("a step");
    assert!((loss.mean() - batch.loss()).abs() < TOLERANCE, "{what}: loss {} for {}", loss.mean(), batch.loss());
    assert_eq!(loss.counted, counted);
    let found = gradients(learner);
    let mut largest: HashMap<String, f64> = HashMap::new();
    for (name, _) in &found {
        let most = largest.entry(layer(name)).or_default();
        *most = most.max(batch.norm(name));
    }
    let mut worst = 0.0_f64;
    for (name, gradient) in &found {
        let allowed = TOLERANCE * batch.norm(name).max(SMALL * largest[&layer(name)]);
        let distance = batch.distance(name, gradient);
        worst = worst.max(distance / allowed);
        assert!(distance <= allowed, "{what}: {name} is {distance:e} away, {allowed:e} is allowed");
    }
    let expected = batch.json["norms"].as_object().expect("norms").len();
    assert_eq!(found.len(), expected, "{what}: every parameter has a gradient");
    assert!(worst > 0.0, "{what}: compared");
    println!("{what}: the worst gradient takes {:.1} % of what is allowed", 100.0 * worst);
}

#[test]
fn every_gradient_of_every_batch_equals_pytorchs() {
    for name in BATCHES {
        let batch = Batch::read(name);
        check(&mut learner(2, LearnerOptions::default()), &batch, name);
    }
}

#[test]
fn the_scalar_reference_gives_the_same_gradients() {
    let batch = Batch::read("image");
    let options = LearnerOptions::default();
    check(&mut Learner::load(ReferenceBackend, &checkpoint(), options).expect("a model"), &batch, "reference");
}

/// All bits of a step's gradients, and its loss.
fn bits(learner: &mut Learner<CpuBackend>, batch: &Batch) -> (u64, Vec<(String, Vec<u32>)>) {
    let loss = learner.learn(&batch.examples, 0.125).expect("a step");
    let found =
        gradients(learner).into_iter().map(|(name, values)| (name, values.iter().map(|x| x.to_bits()).collect()));
    (loss.sum.to_bits(), found.collect())
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    for format in [Format::F32, Format::Bf16] {
        let batch = Batch::read("two_images");
        let of = |threads, recompute| {
            bits(&mut learner(threads, LearnerOptions { format, recompute, ..LearnerOptions::default() }), &batch)
        };
        let expected = of(1, Recompute::Nothing);
        assert!(of(3, Recompute::Nothing) == expected, "{format:?}: three threads");
        assert!(of(2, Recompute::Blocks) == expected, "{format:?}: computed again");
    }
}

/// A second step on the same learner adds to the first one's gradients.
#[test]
fn gradients_of_several_steps_add_up() {
    let batch = Batch::read("image");
    let counted: f64 = batch.examples.iter().map(|example| example.counted()).sum();
    let mut whole = learner(2, LearnerOptions::default());
    whole.learn(&batch.examples, 1.0 / counted).expect("a step");
    let mut parts = learner(2, LearnerOptions::default());
    for example in &batch.examples {
        parts.learn(std::slice::from_ref(example), 1.0 / counted).expect("a step");
    }
    for ((name, whole), (_, parts)) in gradients(&whole).iter().zip(&gradients(&parts)) {
        let size = norm(whole.iter().map(|x| f64::from(*x)));
        let distance = norm(whole.iter().zip(parts).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        assert!(distance <= 1e-4 * size.max(1e-3), "{name}: {distance} of {size}");
    }
}

#[test]
fn what_is_frozen_has_no_gradient_and_changes_no_other() {
    let batch = Batch::read("video");
    let (_, all) = bits(&mut learner(2, LearnerOptions::default()), &batch);
    for group in Group::ALL {
        let selection = Box::new(move |name: &str| Group::of(name) == group);
        let (_, found) = bits(&mut learner(2, LearnerOptions { selection, ..LearnerOptions::default() }), &batch);
        let expected: Vec<_> = all.iter().filter(|(name, _)| Group::of(name) == group).cloned().collect();
        assert!(!expected.is_empty() && found == expected, "{group:?}");
    }
}

/// One tensor of a layer that is stacked with others: queries without keys are refused.
#[test]
fn half_of_a_stacked_matrix_cannot_learn() {
    let selection = Box::new(|name: &str| name.ends_with("q_proj.weight"));
    let backend = CpuBackend::new(1).expect("threads");
    let options = LearnerOptions { selection, ..LearnerOptions::default() };
    let error = Learner::load(backend, &checkpoint(), options).err().expect("a refusal");
    assert!(error.to_string().contains("q_proj"), "{error}");
}

/// How far bf16 gradients of every batch are from f32 ones, beside PyTorch's own distance.
pub(crate) fn check_bf16<B: TrainBackend>(learner: impl Fn(LearnerOptions) -> Learner<B>) {
    for name in BATCHES {
        let batch = Batch::read(name);
        let counted: f64 = batch.examples.iter().map(|example| example.counted()).sum();
        let of = |format| {
            let mut learner = learner(LearnerOptions { format, ..LearnerOptions::default() });
            learner.learn(&batch.examples, 1.0 / counted).expect("a step");
            gradients(&learner)
        };
        let (exact, rounded) = (of(Format::F32), of(Format::Bf16));
        for group in ["vision_model", "connector", "text_model", ""] {
            let pairs = || {
                let both = exact.iter().zip(&rounded).filter(|((name, _), _)| name.contains(group));
                both.flat_map(|((_, a), (_, b))| a.iter().zip(b))
            };
            let distance = norm(pairs().map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let relative = distance / norm(pairs().map(|(a, _)| f64::from(*a)));
            let of_pytorch = batch.json["bf16_relative_l2"][group].as_f64().expect("a distance");
            println!("{name}, {group:?}: {relative:.5} from f32, PyTorch {of_pytorch:.5}");
            assert!(relative > 0.0 && relative <= BF16_SLACK * of_pytorch, "{name}, {group:?}: too far from f32");
        }
    }
}

#[test]
fn bf16_is_no_further_from_f32_than_pytorch_is() {
    check_bf16(|options| learner(2, options));
}

#[test]
fn an_evaluation_gives_the_loss_and_no_gradient() {
    let batch = Batch::read("two_images");
    let mut learner = learner(2, LearnerOptions::default());
    let loss = learner.evaluate(&batch.examples).expect("a loss");
    assert!((loss.mean() - batch.loss()).abs() < TOLERANCE, "{} for {}", loss.mean(), batch.loss());
    assert!(gradients(&learner).iter().all(|(_, gradient)| gradient.iter().all(|x| *x == 0.0)));
}

#[test]
fn examples_that_do_not_fit_the_model_are_refused_by_name() {
    type Damage = fn(&mut smolvlm_train::Example);
    let mut learner = learner(1, LearnerOptions::default());
    let good = Batch::read("image").examples.swap_remove(0);
    let broken: [(&str, Damage); 6] = [
        ("token ids below 512, found 512", |example| example.ids[3] = 512),
        ("a weight for each of", |example| example.weights.truncate(3)),
        ("weights of at least 0, found NaN", |example| example.weights[3] = f32::NAN),
        ("image tokens for", |example| drop(example.tiles[0].tiles.pop())),
        ("bytes of a tile", |example| example.tiles[0].tiles[0].rgb.truncate(5)),
        ("1 to 8192 tokens, found 0", |example| example.ids.clear()),
    ];
    for (message, damage) in broken {
        let mut example = good.clone();
        damage(&mut example);
        let error = learner.learn(&[good.clone(), example], 1.0).expect_err(message).to_string();
        assert!(error.contains("example 1: ") && error.contains(message), "{error} for {message}");
    }
}

/// A tied table and head are one parameter, whose gradient is the sum of both uses.
#[test]
fn a_tied_table_has_the_gradients_of_both_its_uses() {
    let batch = Batch::read("image");
    let folder = tempfile::tempdir().expect("a folder");
    let of = |tied: bool| {
        let checkpoint = retied(&folder.path().join(tied.to_string()), tied);
        let backend = CpuBackend::new(2).expect("threads");
        let mut learner = Learner::load(backend, &checkpoint, LearnerOptions::default()).expect("a model");
        let loss = learner.learn(&batch.examples, 0.05).expect("a step").sum;
        let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
        let found: HashMap<String, Vec<f32>> = gradients_of(&learner, &checkpoint).into_iter().collect();
        learner.update(&mut optimizer, Rates::same(1e-3)).expect("an update");
        let place = folder.path().join(format!("{tied} saved"));
        save_checkpoint(&checkpoint, learner.taped(), &place, None).expect("saved");
        let saved = smolvlm::checkpoint::Checkpoint::open(&place).expect("the saved checkpoint");
        assert_eq!(saved.head_is_tied(), tied);
        let mut again =
            Learner::load(CpuBackend::new(2).expect("threads"), &saved, LearnerOptions::default()).expect("a model");
        let (after, expected) = (again.evaluate(&batch.examples), learner.evaluate(&batch.examples));
        assert_eq!(after.expect("a loss").sum, expected.expect("a loss").sum, "the saved table is both again");
        (loss, found)
    };
    let ((tied_loss, tied), (loss, apart)) = (of(true), of(false));
    assert_eq!(tied_loss, loss);
    assert!(!tied.contains_key(HEAD));
    let sum: Vec<f32> = apart[EMBEDDING].iter().zip(&apart[HEAD]).map(|(a, b)| a + b).collect();
    let size = norm(sum.iter().map(|x| f64::from(*x)));
    let distance = norm(sum.iter().zip(&tied[EMBEDDING]).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    assert!(distance <= 1e-6 * size, "{distance} of {size}");
}

/// The reference checkpoint whose head is its embedding table: left out, or stored once more.
pub(crate) fn retied(place: &std::path::Path, tied: bool) -> smolvlm::checkpoint::Checkpoint {
    let source = checkpoint();
    std::fs::create_dir(place).expect("a folder");
    let mut config = source.json("config.json").expect("readable").expect("a configuration");
    config["tie_word_embeddings"] = tied.into();
    std::fs::write(place.join("config.json"), config.to_string()).expect("a configuration");
    let names = source.tensor_names().filter(|name| !tied || *name != HEAD);
    let tensors = names.map(|name| {
        let tensor = source.tensor(if name == HEAD { EMBEDDING } else { name }).expect("a tensor");
        (name, TensorView::new(Dtype::F32, tensor.shape.to_vec(), tensor.bytes).expect("a view"))
    });
    safetensors::serialize_to_file(tensors, None, &place.join("model.safetensors")).expect("weights");
    smolvlm::checkpoint::Checkpoint::open(place).expect("a checkpoint")
}
