//! Adapters, against what PEFT made of one.

use std::path::Path;

use safetensors::SafeTensors;
use smolvlm_kernels::{CpuBackend, Format, ReferenceBackend, TrainBackend};
use smolvlm_train::{
    AdapterFile, Example, Learner, LearnerOptions, LoraOptions, MergeOptions, Optimizer, OptimizerSettings, Rates,
    Recompute, Targets, merge_adapter, save_checkpoint,
};

use crate::goldens::{BATCHES, Batch, checkpoint, f32s, folder, json, norm};
use crate::gradients::retied;

const TOLERANCE: f64 = 1e-4;

fn recorded() -> AdapterFile {
    recorded_as("adapter")
}

/// `adapter`, or `dora`: with magnitudes, on the head too.
fn recorded_as(name: &str) -> AdapterFile {
    AdapterFile::read(&folder().join("training").join(name)).expect("PEFT's adapter")
}

fn with_options(file: &AdapterFile, options: LoraOptions) -> AdapterFile {
    AdapterFile::new(&file.base, options, file.matrices.clone())
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
    with_file(backend, &with_options(&recorded(), lora), format)
}

fn with_file<B: TrainBackend>(backend: B, file: &AdapterFile, format: Format) -> Learner<B> {
    let learner = adapted(backend, file.options.clone(), format, Recompute::Nothing);
    learner.taped().load_adapter(file).expect("the adapter fits");
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
            } else if name.ends_with("lora_magnitude_vector") {
                let module = module(name);
                let rows = checkpoint.tensor(&format!("{module}.weight")).expect("its tensor").shape[0];
                gradient[first_row(&module)..][..rows].to_vec()
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
    let (front, stem) = module.rsplit_once('.').unwrap_or(("", module));
    let before: &[&str] = match stem {
        "v_proj" => &["q_proj", "k_proj"],
        "k_proj" => &["q_proj"],
        "up_proj" => &["gate_proj"],
        _ => &[],
    };
    let checkpoint = checkpoint();
    before.iter().map(|stem| checkpoint.tensor(&format!("{front}.{stem}.weight")).expect("a tensor").shape[0]).sum()
}

pub(crate) fn check_gradients<B: TrainBackend>(backend: B, name: &str) {
    let (info, file) = (json(&format!("training/{name}.json")), recorded_as(name));
    let batch = Batch::read(info["batch"].as_str().expect("a name"));
    let mut learner = with_file(backend, &file, Format::F32);
    let loss = learner.learn(&batch.examples, 1.0 / counted(&batch.examples)).expect("a step").mean();
    assert!((loss - info["loss"].as_f64().expect("a loss")).abs() < TOLERANCE, "{loss} for {}", info["loss"]);
    let bytes = std::fs::read(folder().join(format!("training/{name}_gradients.safetensors"))).expect("gradients");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let found = gradients(&learner);
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .names()
        .iter()
        .map(|name| norm(f32s(&expected, name).iter().map(|x| f64::from(*x))))
        .fold(0.0, f64::max);
    for (name, found) in &found {
        let expected =
            f32s(&expected, &if name.ends_with("magnitude_vector") { format!("{name}.weight") } else { name.clone() });
        let size = norm(expected.iter().map(|x| f64::from(*x)));
        let distance = norm(found.iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
        assert!(distance <= TOLERANCE * size.max(1e-3 * largest), "{name}: {distance} of {size}");
    }
}

#[test]
fn gradients_of_an_adapter_equal_pefts() {
    check_gradients(cpu(2), "adapter");
    check_gradients(ReferenceBackend, "adapter");
}

#[test]
fn gradients_of_a_dora_adapter_equal_pefts() {
    check_gradients(cpu(2), "dora");
    check_gradients(ReferenceBackend, "dora");
}

#[test]
fn as_many_numbers_learn_as_peft_counts() {
    for name in ["adapter", "dora"] {
        let learner = adapted(cpu(1), recorded_as(name).options, Format::F32, Recompute::Nothing);
        let file = learner.taped().adapter_file("base").expect("adapters");
        assert_eq!(Some(file.parameter_count() as u64), json(&format!("training/{name}.json"))["parameters"].as_u64());
    }
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
    for name in ["adapter", "dora"] {
        let place = tempfile::tempdir().expect("a folder");
        let mut file = recorded_as(name);
        file.base = "somewhere/base".to_owned();
        file.write(place.path()).expect("written");
        let again = AdapterFile::read(place.path()).expect("read");
        assert_eq!((again.matrices, again.base), (file.matrices, file.base));
        assert_eq!((again.options.rank, again.options.alpha, again.options.dora), (4, 8.0, name == "dora"));
        let names = |path: &Path| {
            let bytes = std::fs::read(path.join("adapter_model.safetensors")).expect("weights");
            let file = SafeTensors::deserialize(&bytes).expect("safetensors");
            let named = |(name, view): (String, safetensors::tensor::TensorView<'_>)| (name, view.shape().to_vec());
            let mut names: Vec<_> = file.tensors().into_iter().map(named).collect();
            names.sort();
            names
        };
        let pefts = folder().join("training").join(name);
        assert_eq!(names(place.path()), names(&pefts), "the same keys and shapes as PEFT's");
        assert_eq!(std::fs::read_dir(place.path()).expect("the folder").count(), 2, "nothing is left beside them");
    }
}

#[test]
fn a_merged_checkpoint_loses_what_the_adapter_does() {
    for name in ["adapter", "dora"] {
        let (info, adapter) = (json(&format!("training/{name}.json")), recorded_as(name));
        let batch = Batch::read(info["batch"].as_str().expect("a name"));
        let place = tempfile::tempdir().expect("a folder");
        let learner = with_file(cpu(2), &adapter, Format::F32);
        let (file, options) = (place.path().join("by file"), MergeOptions::default());
        merge_adapter(&checkpoint(), &adapter, &file, &options, &mut |_| {}).expect("merged");
        save_checkpoint(&checkpoint(), learner.taped(), &place.path().join("by learner"), None).expect("saved");
        let weights = ["by file", "by learner"].map(|way| {
            let folder = place.path().join(way);
            let merged = smolvlm::checkpoint::Checkpoint::open(&folder).expect("a checkpoint");
            let mut whole = Learner::load(cpu(2), &merged, LearnerOptions::default()).expect("a model");
            let loss = whole.evaluate(&batch.examples).expect("a loss").mean();
            assert!((loss - info["loss"].as_f64().expect("a loss")).abs() < TOLERANCE, "{name} {way}: {loss}");
            std::fs::read(folder.join("model.safetensors")).expect("weights")
        });
        assert!(weights[0] == weights[1], "{name}");
    }
}

/// A model that is loaded with an adapter is the merged one, in any format.
#[test]
fn a_checkpoint_with_an_adapter_is_the_merged_one() {
    let place = tempfile::tempdir().expect("a folder");
    let examples = Batch::read("two_images").examples;
    for name in ["adapter", "dora"] {
        let folder = place.path().join(name);
        merge_adapter(&checkpoint(), &recorded_as(name), &folder, &MergeOptions::default(), &mut |_| {})
            .expect("merged");
        let merged = smolvlm::checkpoint::Checkpoint::open(&folder).expect("a checkpoint");
        let adapted = checkpoint().with_adapter(recorded_as(name)).expect("it fits");
        for format in [Format::F32, Format::Bf16, Format::Q8] {
            let of = |checkpoint| {
                let options = LearnerOptions { format, selection: Box::new(|_| false), ..LearnerOptions::default() };
                let mut learner = Learner::load(cpu(2), checkpoint, options).expect("a model");
                learner.evaluate(&examples).expect("a loss").sum
            };
            assert_eq!(of(&merged).to_bits(), of(&adapted).to_bits(), "{name} {format:?}");
        }
        // Saved again, it is the merged one too.
        let options = LearnerOptions { selection: Box::new(|_| false), ..LearnerOptions::default() };
        let learner = Learner::load(cpu(1), &adapted, options).expect("a model");
        let again = place.path().join(format!("{name} again"));
        save_checkpoint(&adapted, learner.taped(), &again, None).expect("saved");
        let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).expect("weights");
        assert!(weights(&folder) == weights(&again), "{name}");
    }
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
        learner.taped().load_adapter(&with_options(&recorded(), options.clone())).expect("the adapter fits");
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

#[test]
fn magnitudes_change_no_bit_with_threads_and_recomputation() {
    let (examples, file) = (Batch::read("two_images").examples, recorded_as("dora"));
    let options = LoraOptions { dropout: 0.5, ..file.options.clone() };
    let file = with_options(&file, options);
    let of = |threads, recompute| {
        let mut learner = adapted(cpu(threads), file.options.clone(), Format::Bf16, recompute);
        learner.taped().load_adapter(&file).expect("the adapter fits");
        bits(&mut learner, &examples, 5)
    };
    let expected = of(1, Recompute::Nothing);
    assert!(of(3, Recompute::Nothing) == expected);
    assert!(of(2, Recompute::Blocks) == expected);
}

/// Before anything is learned, lengths are those of the weights' rows, and nothing changes.
#[test]
fn a_fresh_dora_adapter_changes_nothing() {
    let batch = Batch::read("image");
    let options = LoraOptions { dora: true, ..LoraOptions::default() };
    let mut learner = adapted(cpu(2), options, Format::F32, Recompute::Nothing);
    let loss = learner.evaluate(&batch.examples).expect("a loss").mean();
    assert!((loss - batch.loss()).abs() < TOLERANCE, "{loss} for {}", batch.loss());
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

/// Eight examples: the recorded ones, and the pictures of two of them with the answers of others.
fn eight_examples() -> Vec<Example> {
    let mut examples: Vec<Example> = BATCHES.iter().flat_map(|name| Batch::read(name).examples).collect();
    for i in 0..2 {
        let (mut more, other) = (examples[i].clone(), examples[i + 2].ids.clone());
        let end = more.ids.len();
        more.ids[0] = 40 + i as u32;
        more.ids[end - 12..].copy_from_slice(&other[other.len() - 12..]);
        examples.push(more);
    }
    assert_eq!(examples.len(), 8);
    examples
}

/// Loss before and after 40 steps on eight examples.
fn overfits(lora: LoraOptions, format: Format) -> (f64, f64) {
    let examples = eight_examples();
    let mut learner = adapted(cpu(2), lora, format, Recompute::Nothing);
    let settings = OptimizerSettings { decay: 0.0, ..OptimizerSettings::default() };
    let mut optimizer = Optimizer::new(learner.taped(), settings);
    let before = learner.evaluate(&examples).expect("a loss").mean();
    for _ in 0..40 {
        learner.learn(&examples, 1.0 / counted(&examples)).expect("a step");
        learner.update(&mut optimizer, Rates::same(1e-2)).expect("an update");
    }
    (before, learner.evaluate(&examples).expect("a loss").mean())
}

#[test]
fn an_adapter_overfits_eight_examples() {
    let lora = LoraOptions { rank: 16, ..LoraOptions::default() };
    for (lora, format) in [(lora.clone(), Format::F32), (LoraOptions { dora: true, ..lora }, Format::Q8)] {
        let (before, after) = overfits(lora, format);
        assert!(before > 10.0 && after < 0.1, "{before} before, {after} after in {format:?}");
    }
}

/// QLoRA: what is frozen has few bits, what learns is exact.
#[test]
fn an_adapter_on_quantised_weights_overfits_eight_examples() {
    for format in [Format::Q8, Format::Q4] {
        let (before, after) = overfits(LoraOptions { rank: 16, ..LoraOptions::default() }, format);
        assert!(before > 10.0 && after < 0.1, "{before} before, {after} after in {format:?}");
    }
}

/// The table stays as it is, and the head is one of its own.
#[test]
fn an_adapter_of_a_tied_head_is_the_heads_alone() {
    let place = tempfile::tempdir().expect("a folder");
    let tied = retied(&place.path().join("tied"), true);
    let examples = Batch::read("image").examples;
    let targets = Targets::Names(vec!["lm_head".to_owned()]);
    let lora = LoraOptions { rank: 4, dora: true, targets, ..LoraOptions::default() };
    let options = LearnerOptions { lora: Some(lora), selection: Box::new(|_| false), ..LearnerOptions::default() };
    let mut learner = Learner::load(cpu(2), &tied, options).expect("a model");
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    let before = learner.evaluate(&examples).expect("a loss").mean();
    for _ in 0..5 {
        learner.learn(&examples, 1.0 / counted(&examples)).expect("a step");
        learner.update(&mut optimizer, Rates::same(1e-2)).expect("an update");
    }
    let after = learner.evaluate(&examples).expect("a loss").mean();
    assert!(after < before - 0.5, "{before} before, {after} after");
    let names: Vec<String> = learner.taped().parameters().iter().flat_map(|known| known.names().to_vec()).collect();
    assert_eq!(names, ["lm_head.lora_A.weight", "lm_head.lora_B.weight", "lm_head.lora_magnitude_vector"]);
    let saved = place.path().join("saved");
    save_checkpoint(&tied, learner.taped(), &saved, None).expect("saved");
    let saved = smolvlm::checkpoint::Checkpoint::open(&saved).expect("a checkpoint");
    saved.validate().expect("a valid checkpoint");
    assert!(!saved.head_is_tied() && saved.tensor("lm_head.weight").is_ok());
    let with = tied.with_adapter(learner.taped().adapter_file("tied").expect("an adapter")).expect("it fits");
    for checkpoint in [&saved, &with] {
        let options = LearnerOptions { selection: Box::new(|_| false), ..LearnerOptions::default() };
        let loss = Learner::load(cpu(2), checkpoint, options).expect("a model").evaluate(&examples).expect("a loss");
        assert!((loss.mean() - after).abs() < TOLERANCE, "{} for {after}", loss.mean());
    }
}

#[test]
fn adapters_where_none_can_be_are_refused() {
    for target in ["embed_tokens", "patch_embedding", "position_embedding"] {
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
        ("\"use_dora\": false", "\"use_dora\": true", "lora_magnitude_vector"),
        ("\"use_qalora\": false", "\"use_qalora\": true", "use_qalora"),
        ("\"r\": 4", "\"r\": 8", "a matrix of rank 8"),
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
