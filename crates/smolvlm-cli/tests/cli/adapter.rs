//! `merge`, and `--adapter` where a model is loaded.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::goldens::{on_checkpoint, training};
use crate::common::safetensors::Safetensors;
use crate::common::{Case, Copy, checkpoint, input, smolvlm};

/// The engine and PyTorch in f32, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;

fn merge(adapter: &Path, out: &Path) -> crate::common::command::Smolvlm {
    smolvlm(["merge", "--model", &checkpoint(), "--adapter"]).arg(adapter).arg(out)
}

/// An adapter to be damaged.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(training(name).join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// Replies with log-probabilities, without timings and names.
fn replies(arguments: &[&str]) -> Value {
    let picture = input("land_97x61.png");
    let ask = ["--image", &picture, "--json", "--logprobs", "5", "-n", "12", "--device", "cpu", "What is this?"];
    let mut value = smolvlm(["run"]).args(arguments).args(ask).json();
    value["replies"][0].as_object_mut().expect("a reply").remove("timings_seconds");
    value["replies"].take()
}

#[test]
fn logits_with_an_adapter_are_pefts() {
    let facts = fs::read_to_string(training("dora.json")).expect("what is recorded");
    let facts: Value = serde_json::from_str(&facts).expect("JSON");
    let recorded = Safetensors::read(&training("dora_logits.safetensors"));
    let (expected, vocab) = (recorded.floats("logits"), recorded.shape("logits")[1]);
    let folder = tempfile::tempdir().expect("a folder");
    for (member, expected) in facts["members"].as_array().expect("members").iter().zip(expected.chunks(vocab)) {
        let (messages, out) = (folder.path().join("messages.json"), folder.path().join("trace.safetensors"));
        let case = Case::read(member.as_str().expect("a name"));
        fs::write(&messages, case.messages().to_string()).expect("written");
        let trace = on_checkpoint("trace").args(case.flags()).args(["--logits", "last", "--messages"]);
        trace.arg(&messages).arg("--out").arg(&out).arg("--adapter").arg(training("dora")).stdout();
        let found = Safetensors::read(&out).floats("logits");
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= TOLERANCE * largest, "{member}: {found} for {expected}");
        }
    }
}

#[test]
fn a_merged_model_answers_what_the_adapter_makes_the_original_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["adapter", "dora"] {
        let (out, adapter) = (folder.path().join(name), training(name).display().to_string());
        let said = merge(&training(name), &out).run().succeeded();
        assert_eq!(said.stdout, format!("{}\n", out.display()));
        let merged = out.display().to_string();
        let plain = replies(&["--model", &checkpoint(), "--dtype", "f32"]);
        for dtype in ["f32", "bf16", "q8"] {
            let with = replies(&["--model", &checkpoint(), "--adapter", &adapter, "--dtype", dtype]);
            assert_eq!(replies(&["--model", &merged, "--dtype", dtype]), with, "{name} in {dtype}");
            assert_ne!(with, plain, "{name} changes replies");
        }
        let packed = folder.path().join(format!("{name}-q8")).display().to_string();
        let quantize = ["quantize", "--model", &checkpoint(), "--adapter", &adapter, "--dtype", "q8", &packed];
        smolvlm(quantize).stdout();
        let expected = replies(&["--model", &merged, "--dtype", "q8"]);
        assert_eq!(replies(&["--model", &packed]), expected, "{name}, packed");
    }
}

#[test]
fn a_tied_head_with_an_adapter_becomes_one_of_its_own() {
    let tied = Copy::new().edit("config.json", |config| config["tie_word_embeddings"] = true.into());
    let path = tied.file("model.safetensors");
    Safetensors::read(&path).without("lm_head.weight").write(&path);
    let (folder, model) = (tempfile::tempdir().expect("a folder"), tied.path().display().to_string());
    let (out, adapter) = (folder.path().join("out"), training("dora").display().to_string());
    smolvlm(["merge", "--model", &model, "--adapter", &adapter]).arg(&out).stdout();
    let config = fs::read_to_string(out.join("config.json")).expect("a configuration");
    assert_eq!(serde_json::from_str::<Value>(&config).expect("JSON")["tie_word_embeddings"], false);
    let merged = Safetensors::read(&out.join("model.safetensors"));
    assert!(merged.names().contains(&"lm_head.weight"));
    let with = replies(&["--model", &model, "--adapter", &adapter, "--dtype", "f32"]);
    assert_eq!(replies(&["--model", &out.display().to_string(), "--dtype", "f32"]), with);
}

#[test]
fn formats_progress_and_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let value = merge(&training("dora"), &out).args(["--dtype", "bf16", "--json"]).json();
    assert_eq!((&value["adapter"]["rank"], &value["adapter"]["dora"]), (&json!(4), &json!(true)));
    let weights = Safetensors::read(&out.join("model.safetensors"));
    assert!(weights.names().iter().all(|name| weights.header[name]["dtype"] == "BF16"));
    let data: u64 = weights.names().iter().map(|name| 2 * weights.shape(name).iter().product::<usize>() as u64).sum();
    assert_eq!(value["weight_bytes"], data);
    assert!(out.join("tokenizer.json").is_file());
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left beside it");
}

#[test]
fn only_checkpoints_are_replaced_and_only_when_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    merge(&training("adapter"), &out).stdout();
    let before = fs::read(out.join("model.safetensors")).expect("weights");
    merge(&training("dora"), &out).fails(2, &["out", "is not empty", "--force"]);
    assert!(fs::read(out.join("model.safetensors")).expect("weights") == before);
    merge(&training("dora"), &out).arg("--force").stdout();
    assert!(fs::read(out.join("model.safetensors")).expect("weights") != before);
    let notes = folder.path().join("notes");
    fs::create_dir(&notes).expect("a folder");
    fs::write(notes.join("note.txt"), "mine").expect("a file");
    merge(&training("dora"), &notes).arg("--force").fails(2, &["notes", "something else than a checkpoint"]);
    let own = Copy::new();
    let model = own.path().display().to_string();
    let adapter = training("dora").display().to_string();
    smolvlm(["merge", "--force", "--model", &model, "--adapter", &adapter, &model])
        .fails(2, &["the checkpoint itself"]);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 2);
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_tensor_and_shape() {
    let adapter = copy("adapter");
    let path = adapter.path().join("adapter_model.safetensors");
    let original = Safetensors::read(&path);
    let prefix = "base_model.model.model.text_model.layers.0.self_attn.q_proj";
    let refused = |parts: &[&str]| {
        let folder = adapter.path().display().to_string();
        on_checkpoint("run").args(["--adapter", &folder, "-n", "1", "Hi"]).fails(3, parts);
        let out = adapter.path().join("out");
        merge(adapter.path(), &out).fails(3, parts);
        assert!(!out.exists());
    };
    let rename = |from: &str, to: &str| {
        let mut changed = original.clone();
        let header = changed.header.as_object_mut().expect("a header");
        let entry = header.remove(&format!("{prefix}.{from}")).expect("a tensor");
        header.insert(to.to_owned(), entry);
        changed.write(&path);
    };
    rename("lora_A.weight", "base_model.model.model.text_model.layers.9.self_attn.q_proj.lora_A.weight");
    refused(&["adapter_model.safetensors", "one of its two matrices is missing"]);
    rename("lora_A.weight", "base_model.model.model.text_model.embed_tokens.lora_embedding_A");
    refused(&["lora_embedding_A", "embeddings"]);
    rename("lora_A.weight", "base_model.model.lm_head.base_layer.weight");
    refused(&["adapter_model.safetensors"]);
    let mut changed = original.clone();
    let layers = changed.header.to_string().replace("text_model.layers.0.", "text_model.layers.77.");
    changed.header = serde_json::from_str(&layers).expect("JSON");
    changed.write(&path);
    refused(&["model.text_model.layers.77.", "has no such tensor"]);
    // Queries of one width as values of another.
    let mut changed = original.clone();
    let header = changed.header.as_object_mut().expect("a header");
    for end in ["lora_A.weight", "lora_B.weight"] {
        let (q, v) = (format!("{prefix}.{end}"), format!("{}.{end}", prefix.replace("q_proj", "v_proj")));
        let (first, second) = (header.remove(&q).expect("q"), header.remove(&v).expect("v"));
        header.extend([(q, second), (v, first)]);
    }
    changed.write(&path);
    refused(&["self_attn.", "expected an adapter for [", "found one for ["]);
}

#[test]
fn packed_weights_take_no_adapter_and_say_what_to_do() {
    let packed = Copy::packed("q8");
    let (model, adapter) = (packed.path().display().to_string(), training("adapter").display().to_string());
    let run = smolvlm(["run", "--model", &model, "--adapter", &adapter, "Hi"]);
    run.fails(2, &["packed as q8", "original checkpoint", "quantize --adapter"]);
    let out = packed.file("out");
    smolvlm(["merge", "--model", &model, "--adapter", &adapter]).arg(&out).fails(2, &["packed as q8"]);
}

#[test]
fn bench_chat_and_info_take_an_adapter() {
    let adapter = training("dora").display().to_string();
    let said = on_checkpoint("chat").args(["--adapter", &adapter, "-n", "2"]).stdin("Hi\n").run().succeeded();
    assert!(said.stderr.contains(&format!("with {adapter}")), "{}", said.stderr);
    let small = ["--tiles", "1", "--prompt-tokens", "8", "--decode-tokens", "2", "--repeat", "1", "--json"];
    let value = on_checkpoint("bench").args(["--adapter", &adapter]).args(small).json();
    assert_eq!(value["adapter"], json!(adapter));
    let said = smolvlm(["info", &checkpoint(), "--adapter", &adapter]).stdout();
    assert!(said.contains("DoRA of rank 4, alpha 8 on "), "{said}");
    let value = smolvlm(["info", &checkpoint(), "--adapter", &adapter, "--json"]).json();
    assert_eq!((&value["adapter"]["alpha"], &value["adapter"]["parameters"]), (&json!(8.0), &json!(17120)));
    let missing = PathBuf::from("no-such-folder");
    smolvlm(["info", &checkpoint(), "--adapter"]).arg(missing).fails(3, &["no-such-folder", "adapter_config.json"]);
}
