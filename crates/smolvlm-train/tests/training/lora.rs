//! Adapters, against what PEFT made of one.

use std::path::Path;

use safetensors::SafeTensors;
use smolvlm_kernels::{CpuBackend, Format, ReferenceBackend, TrainBackend};
use smolvlm_train::{
    AdapterFile, Example, Learner, LearnerOptions, LoraOptions, Optimizer, OptimizerSettings, Rates, Recompute,
    Targets, merge_adapter, save_checkpoint,
};

use crate::goldens::{BATCHES, Batch, checkpoint, f32s, folder, json, norm};

const TOLERANCE: f64 = 1e-4;

fn recorded() -> AdapterFile {
    AdapterFile::read(&folder().join("training/adapter")).expect("PEFT's adapter")
}

/// A model of which adapters alone learn.
fn adapted<B: TrainBackend>(backend: B, lora: LoraOptions, format: Format, recompute: Recompute) -> Learner<B> {
    let selection = Box::new(|_: &str| false);
    // Draws depend on which tiles are computed together.
    let options = LearnerOptions { format, lora: Some(lora), selection, recompute, tiles: 2 };
    Learner::load(backend, &checkpoint(), options).expect("a model with adapters")
}

fn cpu(threads: usize) -> CpuBackend {
    CpuBackend::new(threads).expect("threads")
}

fn with_recorded<B: TrainBackend>(backend: B, lora: LoraOptions, format: Format) -> Learner<B> {
    let learner = adapted(backend, lora.clone(), format, Recompute::Nothing);
    AdapterFile { options: lora, ..recorded() }.load_into(learner.taped()).expect("the adapter fits");
    learner
}

fn counted(examples: &[Example]) -> f64 {
    examples.iter().map(Example::counted).sum()
}

/// Gradients of single matrices, as they are in an adapter's file: those of `B` are blocks of one matrix.
fn gradients<B: TrainBackend>(learner: &Learner<B>) -> Vec<(String, Vec<f32>)> {
    let mut found = Vec::new();
    for parameter in learner.taped().parameters() {
        let gradient = parameter.gradient(learner.taped().inner());
        let count = parameter.names().len();
        let checkpoint = checkpoint();
        let module = |name: &str| name.rsplit_once(".lora_").expect("an adapter's name").0.to_owned();
        let mut row = 0;
        for (i, name) in parameter.names().iter().enumerate() {
            let numbers = if name.ends_with("lora_A.weight") {
                gradient.chunks(gradient.len() / count).nth(i).expect("a part").to_vec()
            } else {
                // Which of the stacked matrices' rows are this one's: those of its tensor and of those before it.
                let (module, ranks) = (module(name), 4 * count);
                let first = first_row(&module);
                row = row.max(first);
                let rows = checkpoint.tensor(&format!("{module}.weight")).expect("its tensor").shape[0];
                (first..first + rows).flat_map(|row| gradient[row * ranks + 4 * i..][..4].to_vec()).collect()
            };
            found.push((name.clone(), numbers));
        }
    }
    found
}

/// The first row of a module in the matrix that it is stacked in.
fn first_row(module: &str) -> usize {
    let (front, stem) = module.rsplit_once('.').expect("a module's name");
    let before: &[&str] = match stem {
        "v_proj" => &["q_proj", "k_proj"],
        "k_proj" => &["q_proj"],
        "up_proj" => &["gate_proj"],
        _ => &[],
    };
    let checkpoint = checkpoint();
    before.iter().map(|stem| checkpoint.tensor(&format!("{front}.{stem}.weight")).expect("a tensor").shape[0]).sum()
}

pub(crate) fn check_gradients<B: TrainBackend>(backend: B) {
    let (info, file) = (json("training/adapter.json"), recorded());
    let batch = Batch::read(info["batch"].as_str().expect("a name"));
    let mut learner = with_recorded(backend, file.options.clone(), Format::F32);
    let loss = learner.learn(&batch.examples, 1.0 / counted(&batch.examples)).expect("a step").mean();
    assert!((loss - info["loss"].as_f64().expect("a loss")).abs() < TOLERANCE, "{loss} for {}", info["loss"]);
    let bytes = std::fs::read(folder().join("training/adapter_gradients.safetensors")).expect("gradients");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let found = gradients(&learner);
    assert_eq!(found.len(), expected.len());
    let largest =
        found.iter().map(|(name, _)| norm(f32s(&expected, name).iter().map(|x| f64::from(*x)))).fold(0.0, f64::max);
    for (name, found) in &found {
        let expected = f32s(&expected, name);
        let size = norm(expected.iter().map(|x| f64::from(*x)));
        let distance = norm(found.iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
        assert!(distance <= TOLERANCE * size.max(1e-3 * largest), "{name}: {distance} of {size}");
    }
}

#[test]
fn gradients_of_an_adapter_equal_pefts() {
    check_gradients(cpu(2));
    check_gradients(ReferenceBackend);
}

#[test]
fn as_many_numbers_learn_as_peft_counts() {
    let learner = adapted(cpu(1), recorded().options, Format::F32, Recompute::Nothing);
    let file = AdapterFile::of(learner.taped()).expect("adapters");
    let count: usize = file.matrices.iter().map(|matrices| matrices.a.len() + matrices.b.len()).sum();
    assert_eq!(Some(count as u64), json("training/adapter.json")["parameters"].as_u64());
}

#[test]
fn rank_stabilised_scaling_gives_pefts_loss() {
    let info = json("training/adapter.json");
    let batch = Batch::read(info["batch"].as_str().expect("a name"));
    let options = LoraOptions { rank_stabilised: true, ..recorded().options };
    let loss = with_recorded(cpu(2), options, Format::F32).evaluate(&batch.examples).expect("a loss").mean();
    assert!((loss - info["rslora_loss"].as_f64().expect("a loss")).abs() < TOLERANCE, "{loss}");
}

#[test]
fn an_adapter_is_read_as_it_was_written() {
    let place = tempfile::tempdir().expect("a folder");
    let file = recorded();
    file.write(place.path(), "somewhere/base").expect("written");
    let again = AdapterFile::read(place.path()).expect("read");
    assert_eq!(again.matrices, file.matrices);
    assert_eq!((again.options.rank, again.options.alpha), (4, 8.0));
    let names = |path: &Path| {
        let bytes = std::fs::read(path.join("adapter_model.safetensors")).expect("weights");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut names: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
        names.sort();
        names
    };
    assert_eq!(names(place.path()), names(&folder().join("training/adapter")), "the same keys and shapes as PEFT's");
    assert_eq!(std::fs::read_dir(place.path()).expect("the folder").count(), 2, "nothing is left beside them");
}

#[test]
fn a_merged_checkpoint_loses_what_the_adapter_does() {
    let info = json("training/adapter.json");
    let batch = Batch::read(info["batch"].as_str().expect("a name"));
    let place = tempfile::tempdir().expect("a folder");
    let learner = with_recorded(cpu(2), recorded().options, Format::F32);
    merge_adapter(&checkpoint(), &recorded(), &place.path().join("by file"), None).expect("merged");
    save_checkpoint(&checkpoint(), learner.taped(), &place.path().join("by learner"), None).expect("saved");
    let weights = ["by file", "by learner"].map(|name| {
        let folder = place.path().join(name);
        let merged = smolvlm::checkpoint::Checkpoint::open(&folder).expect("a checkpoint");
        let mut whole = Learner::load(cpu(2), &merged, LearnerOptions::default()).expect("a model");
        let loss = whole.evaluate(&batch.examples).expect("a loss").mean();
        assert!((loss - info["loss"].as_f64().expect("a loss")).abs() < TOLERANCE, "{name}: {loss}");
        std::fs::read(folder.join("model.safetensors")).expect("weights")
    });
    assert!(weights[0] == weights[1]);
}

/// Loss, and gradients as bits.
fn bits(learner: &mut Learner<CpuBackend>, examples: &[Example], seed: u64) -> (u64, Vec<u32>) {
    learner.seed(seed);
    let loss = learner.learn(examples, 0.05).expect("a step").sum;
    let parameters = learner.taped().parameters();
    let gradients = parameters.iter().flat_map(|parameter| parameter.gradient(learner.taped().inner()));
    (loss.to_bits(), gradients.map(f32::to_bits).collect())
}

#[test]
fn dropout_is_the_seeds_whatever_the_threads_and_recomputation() {
    let examples = Batch::read("two_images").examples;
    let options = LoraOptions { dropout: 0.5, ..recorded().options };
    let of = |threads, recompute, seed| {
        let mut learner = adapted(cpu(threads), options.clone(), Format::F32, recompute);
        AdapterFile { options: options.clone(), ..recorded() }.load_into(learner.taped()).expect("the adapter fits");
        bits(&mut learner, &examples, seed)
    };
    let expected = of(1, Recompute::Nothing, 5);
    assert!(of(3, Recompute::Nothing, 5) == expected);
    assert!(of(2, Recompute::Blocks, 5) == expected);
    assert!(of(1, Recompute::Nothing, 6).0 != expected.0);
    // An evaluation leaves nothing out.
    let loss = with_recorded(cpu(2), options.clone(), Format::F32).evaluate(&examples).expect("a loss").mean();
    assert!((loss - json("training/adapter.json")["loss"].as_f64().expect("a loss")).abs() < TOLERANCE);
    // The scalar reference draws the same numbers.
    let mut reference = with_recorded(ReferenceBackend, options, Format::F32);
    reference.seed(5);
    let sum = reference.learn(&examples, 0.05).expect("a step").sum;
    assert!((sum - f64::from_bits(expected.0)).abs() < 1e-4 * sum, "{sum} for {}", f64::from_bits(expected.0));
}

/// A frozen model in few bits teaches its adapters nearly what the whole one does.
#[test]
fn adapters_learn_on_quantised_weights() {
    let examples = Batch::read("image").examples;
    let of = |format| {
        let mut learner = with_recorded(cpu(2), recorded().options, format);
        learner.learn(&examples, 1.0 / counted(&examples)).expect("a step");
        gradients(&learner).into_iter().flat_map(|(_, numbers)| numbers).collect::<Vec<f32>>()
    };
    let exact = of(Format::F32);
    let size = norm(exact.iter().map(|x| f64::from(*x)));
    for (format, most) in [(Format::Bf16, 0.08), (Format::Q8, 0.25), (Format::Q4, 1.0)] {
        let found = of(format);
        let distance = norm(found.iter().zip(&exact).map(|(a, b)| f64::from(a - b))) / size;
        assert!(distance > 0.0 && distance < most, "{format:?}: {distance}");
    }
}

#[test]
fn an_adapter_overfits_eight_examples() {
    let mut examples: Vec<Example> = BATCHES.iter().flat_map(|name| Batch::read(name).examples).collect();
    for i in 0..2 {
        // The same pictures with the answer of another example.
        let (mut more, other) = (examples[i].clone(), examples[i + 2].ids.clone());
        let end = more.ids.len();
        more.ids[0] = 40 + i as u32;
        more.ids[end - 12..].copy_from_slice(&other[other.len() - 12..]);
        examples.push(more);
    }
    assert_eq!(examples.len(), 8);
    let mut learner =
        adapted(cpu(2), LoraOptions { rank: 16, ..LoraOptions::default() }, Format::F32, Recompute::Nothing);
    let settings = OptimizerSettings { decay: 0.0, ..OptimizerSettings::default() };
    let mut optimizer = Optimizer::new(learner.taped(), settings);
    let before = learner.evaluate(&examples).expect("a loss").mean();
    for _ in 0..40 {
        learner.learn(&examples, 1.0 / counted(&examples)).expect("a step");
        learner.update(&mut optimizer, Rates::same(1e-2)).expect("an update");
    }
    let after = learner.evaluate(&examples).expect("a loss").mean();
    assert!(before > 10.0 && after < 0.1, "{before} before, {after} after");
}

#[test]
fn adapters_where_none_can_be_are_refused() {
    for target in ["lm_head", "patch_embedding"] {
        let lora = LoraOptions { targets: Targets::Names(vec![target.to_owned()]), ..LoraOptions::default() };
        let options = LearnerOptions { lora: Some(lora), ..LearnerOptions::default() };
        let error = Learner::load(cpu(1), &checkpoint(), options).err().expect("a refusal").to_string();
        assert!(error.contains(target), "{error}");
    }
    for lora in [
        LoraOptions { rank: 0, ..LoraOptions::default() },
        LoraOptions { dropout: 1.0, ..LoraOptions::default() },
        LoraOptions { alpha: f64::NAN, ..LoraOptions::default() },
    ] {
        let options = LearnerOptions { lora: Some(lora), ..LearnerOptions::default() };
        assert!(Learner::load(cpu(1), &checkpoint(), options).is_err());
    }
}

#[test]
fn broken_adapters_are_refused_by_file_and_field() {
    let source = folder().join("training/adapter");
    let config = std::fs::read_to_string(source.join("adapter_config.json")).expect("a configuration");
    let weights = std::fs::read(source.join("adapter_model.safetensors")).expect("weights");
    let place = tempfile::tempdir().expect("a folder");
    let read = |config: &str, weights: &[u8]| {
        std::fs::write(place.path().join("adapter_config.json"), config).expect("a file");
        std::fs::write(place.path().join("adapter_model.safetensors"), weights).expect("a file");
        AdapterFile::read(place.path()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(read(&config, &weights), Ok(()));
    for (from, to, message) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"r\": 4", "\"r\": 8", "expected rank 8"),
        ("\"r\": 4", "\"r\": -1", "rank"),
        ("\"lora_alpha\": 8", "\"lora_alpha\": \"x\"", "lora_alpha"),
        ("\"LORA\"", "\"OFT\"", "peft_type"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save"),
    ] {
        let damaged = config.replacen(from, to, 1);
        assert_ne!(damaged, config, "{from}");
        let error = read(&damaged, &weights).expect_err(message);
        assert!(error.contains(message) && error.contains("adapter_"), "{error} for {message}");
    }
    for len in [0, 7, 100, weights.len() - 1] {
        let error = read(&config, &weights[..len]).expect_err("a damaged file");
        assert!(error.contains("adapter_model.safetensors"), "{error}");
    }
    assert!(read("{", &weights).is_err());
}
