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
    ] {
        let folder = run_folder(more);
        smolvlm(["finetune", "--config", &config(&folder)]).fails(code, &parts);
    }
    smolvlm(["finetune", "--config", "none.yaml"]).fails(3, &["none.yaml", "cannot be read"]);
}
