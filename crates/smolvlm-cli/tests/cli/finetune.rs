//! `finetune`: a run from its file to a checkpoint that answers.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Copy, checkpoint, smolvlm};

const INPUTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/tiny/inputs");

/// A folder with six records, one of them without its picture, and a run's file whose lines `more` are added.
fn run_folder(more: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let record = |i: usize| {
        let picture = if i == 5 { "missing.png".to_owned() } else { format!("{INPUTS}/square_48.png") };
        json!({"messages": [{"role": "user", "content": format!("<image>Number {i}?")}, {"role": "assistant", "content": "four"}],
            "images": [picture]})
        .to_string()
    };
    let records: Vec<String> = (0..6).map(record).collect();
    std::fs::write(folder.path().join("records.jsonl"), records.join("\n")).expect("records");
    let mixture = "datasets:\n  - path: records.jsonl\n    trust_paths: true\n";
    std::fs::write(folder.path().join("mixture.yaml"), mixture).expect("a mixture");
    let text = format!("model: {}\ndata: mixture.yaml\noutput: out\n{more}\n", checkpoint());
    std::fs::write(folder.path().join("run.yaml"), text).expect("a file");
    folder
}

fn config(folder: &TempDir) -> String {
    folder.path().join("run.yaml").display().to_string()
}

/// Lines of standard output as JSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const LEARNING: &str =
    "epochs: 12\nbatch: {by: count, samples: 3}\nlearning_rate: 1e-2\nschedule: {warmup: 2}\ndtype: f32";

#[test]
fn a_model_learns_to_answer_and_a_finished_run_is_not_begun_again() {
    let folder = run_folder(LEARNING);
    let ended = smolvlm(["finetune", "--json", "--config", &config(&folder)]).run().succeeded();
    let steps = lines(&ended.stdout);
    let [first, .., last, written] = &steps[..] else { panic!("{}", ended.stdout) };
    assert_eq!((steps.len(), last["step"].as_u64()), (25, Some(24)));
    assert!(last["loss"].as_f64() < Some(0.1) && first["loss"].as_f64() > Some(1.0), "{first} {last}");
    assert!(ended.stderr.contains("missing.png"), "{}", ended.stderr);
    let model = folder.path().join("out/model").display().to_string();
    assert_eq!(Path::new(written["written"].as_str().expect("a path")), Path::new(&model));
    let picture = format!("{INPUTS}/square_48.png");
    let said =
        smolvlm(["run", "--model", &model, "--dtype", "f32", "--image", &picture, "-n", "8", "Number 2?"]).stdout();
    assert!(said.trim().starts_with("four"), "{said:?}");
    let again = smolvlm(["finetune", "--json", "--config", &config(&folder)]).run().succeeded();
    assert_eq!(lines(&again.stdout), [json!({"steps": 24, "written": model})]);
    assert!(again.stderr.contains("going on after step 24 of 24"), "{}", again.stderr);
}

#[test]
fn adapters_are_written_as_peft_writes_them() {
    let folder = run_folder("steps: 2\nlora: {rank: 4, alpha: 8, targets: [q_proj, v_proj]}\ndtype: q8");
    let place = smolvlm(["finetune", "--config", &config(&folder)]).stdout();
    let place = Path::new(place.trim());
    let text = std::fs::read_to_string(place.join("adapter_config.json")).expect("a configuration");
    let facts: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&facts["r"], &facts["peft_type"]), (&json!(4), &json!("LORA")));
    assert!(place.join("adapter_model.safetensors").exists());
}

/// Adapters on frozen weights of few bits, with magnitudes too: what was learned answers on the original in any of its formats.
#[test]
fn adapters_on_quantised_weights_learn_to_answer() {
    for (dtype, lora) in
        [("q8", "{rank: 16, alpha: 32}"), ("q4", "{rank: 16, alpha: 32}"), ("q8", "{rank: 16, alpha: 32, dora: true}")]
    {
        let folder =
            run_folder(&format!("{}\nlora: {lora}", LEARNING.replace("dtype: f32", &format!("dtype: {dtype}"))));
        let ended = smolvlm(["finetune", "--json", "--config", &config(&folder)]).run().succeeded();
        let steps = lines(&ended.stdout);
        let [first, .., last, _] = &steps[..] else { panic!("{}", ended.stdout) };
        assert!(last["loss"].as_f64() < Some(0.1) && first["loss"].as_f64() > Some(1.0), "{dtype}: {first} {last}");
        let (adapter, picture) =
            (folder.path().join("out/adapter").display().to_string(), format!("{INPUTS}/square_48.png"));
        let ask = ["--dtype", dtype, "--image", &picture, "-n", "8", "Number 2?"];
        let said = smolvlm(["run", "--model", &checkpoint(), "--adapter", &adapter]).args(ask).stdout();
        assert!(said.trim().starts_with("four"), "{dtype}: {said:?}");
    }
}

/// A packed checkpoint serves as the frozen model, mapped; the run is that on the original in the same format, bit for bit.
#[test]
fn adapters_on_a_packed_checkpoint_are_those_on_the_original() {
    let packed = Copy::packed("q8");
    let adapter = |model: &str| {
        let folder = run_folder("steps: 3\ndtype: q8\nlora: {rank: 4, dora: true}");
        let path = folder.path().join("run.yaml");
        let text = std::fs::read_to_string(&path).expect("a file").replace(&checkpoint(), model);
        std::fs::write(&path, text).expect("a file");
        smolvlm(["finetune", "--config", &config(&folder)]).stdout();
        std::fs::read(folder.path().join("out/adapter/adapter_model.safetensors")).expect("an adapter")
    };
    assert!(adapter(&packed.path().display().to_string()) == adapter(&checkpoint()));
}

#[test]
fn a_check_names_what_cannot_be_used_and_learns_nothing() {
    let folder = run_folder(LEARNING);
    smolvlm(["finetune", "--check", "--config", &config(&folder)])
        .fails(3, &["missing.png", "1 samples cannot be used"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_wrong_file_is_refused_by_line_or_name() {
    for (more, code, parts) in [
        ("learnig_rate: 1", 3, ["learnig_rate", "run.yaml"]),
        ("epochs: many", 3, ["line 4", "run.yaml"]),
        ("learning_rate: -1", 2, ["learning_rate", "at least 0, found -1"]),
        ("learning_rate: {vision: 0}", 2, ["learning_rate", "nothing would be learned"]),
        ("dtype: q4", 2, ["dtype", "lora"]),
        ("adamw: {clip: 0}", 2, ["adamw.clip", "above 0, found 0"]),
        ("adamw: {beta1: 1.0}", 2, ["adamw.beta1", "found 1"]),
        ("lora: {rank: 0}", 2, ["rank", "0"]),
        ("lora: {targets: [embed_tokens]}", 2, ["embed_tokens", "not for embeddings"]),
        ("epochs: 0", 2, ["epochs", "at least 1"]),
        ("evaluation: {every: 2}", 2, ["evaluation", "expected `data` or `share`"]),
        ("evaluation: {share: 0%}", 3, ["line 4", "2%"]),
        ("evaluation: {share: 20%, batch: 0}", 2, ["evaluation: batch", "at least 1"]),
    ] {
        let folder = run_folder(more);
        smolvlm(["finetune", "--config", &config(&folder)]).fails(code, &parts);
    }
    smolvlm(["finetune", "--config", "none.yaml"]).fails(3, &["none.yaml", "cannot be read"]);
}

#[test]
fn flags_stand_in_for_the_files_values() {
    let folder = run_folder(LEARNING);
    let output = folder.path().join("elsewhere").display().to_string();
    let flags =
        ["--steps", "3", "--rate", "0.001", "--output", &output, "--set", "schedule.warmup=0", "--dtype", "f32"];
    let ended = smolvlm(["finetune", "--json", "--config", &config(&folder)]).args(flags).run().succeeded();
    let steps = lines(&ended.stdout);
    assert_eq!((steps.len(), &steps[0]["rate"]), (4, &json!(1.0)));
    assert!(Path::new(&output).join("model/model.safetensors").exists() && !folder.path().join("out").exists());
    for (flags, parts) in [
        (["--set", "stepz=1"], ["stepz", "unknown field"]),
        (["--set", "steps"], ["--set", "KEY=VALUE"]),
        (["--set", "learning_rate.text=1"], ["learning_rate", "expected a mapping"]),
        (["--rate", "-1"], ["learning_rate", "at least 0, found -1"]),
        (["--device", "cuda:97"], ["--device cuda:97", "no "]),
    ] {
        let flags = flags.join("=");
        smolvlm(["finetune", "--config", &config(&folder), &flags]).fails(2, &parts);
    }
}

#[test]
fn a_share_is_held_out_measured_and_drawn() {
    let folder =
        run_folder(&format!("{LEARNING}\nevaluation: {{share: 34%, every: 10, generate: 2, max_new_tokens: 8}}"));
    let ended = smolvlm(["finetune", "--json", "--config", &config(&folder)]).run().succeeded();
    let lines = lines(&ended.stdout);
    let figures: Vec<&Value> = lines.iter().filter(|line| line.get("evaluation").is_some()).collect();
    // Six records: three are held out, three are learned from, in one batch of each epoch.
    assert_eq!(figures.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(10), Some(12)]);
    let used = |figures: &Value| figures["samples"].as_u64().zip(figures["skipped"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(used(&figures[2]["evaluation"]), Some(3), "{}", figures[2]);
    assert!(ended.stderr.contains("step 10: loss"), "{}", ended.stderr);
    let out = folder.path().join("out");
    let picture = std::fs::read_to_string(out.join("loss.svg")).expect("a picture");
    assert!(picture.starts_with("<svg") && picture.contains("evaluation"));
    let answers = std::fs::read_to_string(out.join("evaluation/step-12.jsonl")).expect("answers");
    assert!(answers.lines().all(|line| line.contains("\"expected\":\"four\"")), "{answers}");
    let events = std::fs::read_dir(out).expect("a folder").flatten();
    assert_eq!(events.filter(|file| file.file_name().to_string_lossy().starts_with("events.out.tfevents.")).count(), 1);
}

/// The tiny checkpoint without its weights.
fn weightless(folder: &TempDir) -> String {
    let place = folder.path().join("nothing");
    std::fs::create_dir(&place).expect("a folder");
    for entry in std::fs::read_dir(checkpoint()).expect("a checkpoint").flatten() {
        if !entry.file_name().to_string_lossy().ends_with(".safetensors") {
            std::fs::copy(entry.path(), place.join(entry.file_name())).expect("a copy");
        }
    }
    place.display().to_string()
}

#[test]
fn a_model_is_trained_from_nothing_with_drawn_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "model: {}\ndata: [{{scenes: {{seed: 3, mixture: {{small-text: 0, clip-caption: 0}}}}}}]\noutput: out\nsteps: 12\n\
         batch: {{by: count, samples: 8}}\nlearning_rate: 3e-3\nschedule: {{warmup: 2}}\ndtype: f32\nsave_every: 4\n\
         evaluation: {{data: [{{scenes: {{split: held, mixture: {{small-text: 0}}}}}}], samples: 6}}",
        weightless(&folder)
    );
    std::fs::write(folder.path().join("run.yaml"), text).expect("a file");
    let ended = smolvlm(["train", "--json", "--config", &config(&folder)]).run().succeeded();
    let steps = lines(&ended.stdout);
    let loss = |at: usize| steps[at]["loss"].as_f64().expect("a loss");
    // Nothing is known at first: the logarithm of the vocabulary's size, or near.
    assert!(loss(11) < 0.9 * loss(0), "{} {}", loss(0), loss(11));
    assert_eq!(steps[12]["evaluation"]["samples"], 6);
    let model = steps[13]["written"].as_str().expect("a path").to_owned();
    smolvlm(["run", "--model", &model, "-n", "3", "What is there?"]).run().succeeded();

    // Again, elsewhere: the same weights.
    let second = folder.path().join("two").display().to_string();
    smolvlm(["train", "--config", &config(&folder), "--output", &second]).run().succeeded();
    let bytes = |model: &str| std::fs::read(Path::new(model).join("model.safetensors")).expect("weights");
    assert!(bytes(&model) == bytes(&format!("{second}/model")));
    smolvlm(["train", "--config", &config(&folder), "--model", &checkpoint()])
        .fails(2, &["model.safetensors", "without weights"]);
    smolvlm(["train", "--config", &config(&folder), "--set", "data=[{scenes: {sed: 1}}]"]).fails(3, &["scenes", "sed"]);
}
