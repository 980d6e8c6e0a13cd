use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::testing::{self, Tiny};
use super::*;
use crate::ErrorKind;

fn written(tiny: &Tiny) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    tiny.write(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// The message of `validate` for the tiny checkpoint after `change`.
fn faults(change: impl FnOnce(&mut Tiny)) -> String {
    let mut tiny = Tiny::new(StoredDtype::F32);
    change(&mut tiny);
    let error = written(&tiny).1.validate().expect_err("a fault");
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
    error.to_string()
}

#[test]
fn every_tensor_of_a_valid_checkpoint_is_read_back_in_each_format() {
    for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
        let tiny = Tiny::new(dtype);
        let (_dir, checkpoint) = written(&tiny);
        checkpoint.validate().unwrap();
        assert_eq!(checkpoint.tensor_names().count(), tiny.tensors.len());
        let mut parameters = 0;
        for raw in &tiny.tensors {
            let tensor = checkpoint.tensor(&raw.name).unwrap();
            assert_eq!((tensor.name, tensor.dtype, tensor.shape), (&*raw.name, dtype, &*raw.shape));
            assert_eq!(tensor.bytes, raw.bytes, "{}", raw.name);
            checkpoint.release(&raw.name);
            assert_eq!(checkpoint.tensor(&raw.name).unwrap().bytes, raw.bytes, "{} after release", raw.name);
            parameters += tensor.elements().len() as u64;
        }
        assert_eq!(checkpoint.config().parameter_count(), parameters);
        assert_eq!(checkpoint.weight_bytes(), parameters * dtype.size() as u64);
    }
}

#[test]
fn shards_give_what_one_file_gives() {
    let tiny = Tiny::new(StoredDtype::Bf16);
    let (_one, whole) = written(&tiny);
    let dir = tempfile::tempdir().unwrap();
    tiny.write_sharded(dir.path(), 3);
    let parts = Checkpoint::open(dir.path()).unwrap();
    parts.validate().unwrap();
    assert_eq!(parts.weights.shards.len(), 3);
    for name in whole.tensor_names() {
        assert_eq!(parts.tensor(name).unwrap().bytes, whole.tensor(name).unwrap().bytes, "{name}");
    }
}

#[test]
fn an_index_that_disagrees_with_its_files_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    Tiny::new(StoredDtype::F32).write_sharded(dir.path(), 2);
    let path = dir.path().join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    index["weight_map"]["lm_head.weight"] = json!("model-00001-of-00002.safetensors");
    std::fs::write(&path, index.to_string()).unwrap();
    let message = Checkpoint::open(dir.path()).unwrap().validate().unwrap_err().to_string();
    assert!(message.contains("lm_head.weight: model.safetensors.index.json says it is in model-00001"), "{message}");
}

#[test]
fn old_and_new_weight_names_are_read_alike() {
    let tiny = Tiny::new(StoredDtype::F32);
    let training = |name: &str| {
        let name = name.replace("model.text_model.", "model.");
        name.replace("model.connector.modality_projection", "model.modality_projection")
    };
    let nested = |name: &str| {
        let name = name.strip_prefix("model.").unwrap_or(name);
        name.replace("text_model.", "language_model.model.").replace("lm_head", "language_model.lm_head")
    };
    let renames: [&dyn Fn(&str) -> String; 3] =
        [&training, &nested, &|name| name.replace("model.text_model.", "model.language_model.")];
    for rename in renames {
        let mut other = tiny.clone();
        other.tensors.iter_mut().for_each(|tensor| tensor.name = rename(&tensor.name));
        let (_dir, checkpoint) = written(&other);
        checkpoint.validate().unwrap();
        for raw in &tiny.tensors {
            assert_eq!(checkpoint.tensor(&raw.name).unwrap().bytes, raw.bytes, "{}", raw.name);
        }
    }
}

#[test]
fn a_tied_head_is_the_embedding_table_unless_one_is_stored() {
    let mut tiny = Tiny::new(StoredDtype::F32);
    tiny.config["tie_word_embeddings"] = json!(true);
    let (_dir, own) = written(&tiny);
    own.validate().unwrap();
    assert!(!own.head_is_tied());
    assert_ne!(own.tensor(names::HEAD).unwrap().bytes, own.tensor(names::EMBEDDING).unwrap().bytes);

    tiny.tensors.retain(|tensor| tensor.name != names::HEAD);
    let (_dir, tied) = written(&tiny);
    tied.validate().unwrap();
    assert!(tied.head_is_tied());
    assert_eq!(tied.tensor(names::HEAD).unwrap().bytes, tied.tensor(names::EMBEDDING).unwrap().bytes);
    assert_eq!(tied.config().parameter_count(), own.config().parameter_count());

    tiny.config["tie_word_embeddings"] = json!(false);
    let message = written(&tiny).1.validate().unwrap_err().to_string();
    assert!(message.contains("lm_head.weight: missing (and tie_word_embeddings is false)"), "{message}");
}

#[test]
fn all_that_is_wrong_with_the_weights_is_in_one_error() {
    let message = faults(|tiny| {
        tiny.tensors.retain(|tensor| tensor.name != "model.text_model.norm.weight");
        tiny.tensor("model.text_model.layers.1.mlp.up_proj.weight").shape = vec![8, 20];
        let wide = tiny.tensor("model.vision_model.post_layernorm.bias");
        (wide.dtype, wide.bytes) = ("F64", vec![0; 80]);
        tiny.tensors.push(testing::raw("model.text_model.layers.2.input_layernorm.weight", &[8], StoredDtype::F32));
        tiny.tensors.push(testing::raw("extra\u{7}", &[1], StoredDtype::F32));
        tiny.tensors.push(testing::raw("text_model.embed_tokens.weight", &[32, 8], StoredDtype::F32));
    });
    for part in [
        "6 problems",
        "model.text_model.norm.weight: missing, expected [hidden_size 8]",
        "up_proj.weight: expected shape [intermediate_size 20, hidden_size 8] by config.json, found [8, 20] in model.safetensors",
        "post_layernorm.bias: expected f32, bf16 or f16, found F64",
        "model.text_model.layers.2.input_layernorm.weight: unexpected, in model.safetensors",
        "extra\\u{7}: unexpected",
        "model.text_model.embed_tokens.weight: stored twice, as ",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_vocabulary_other_than_the_embeddings_is_reported_with_its_field() {
    let message = faults(|tiny| tiny.config["text_config"]["vocab_size"] = json!(40));
    assert!(
        message.contains("expected shape [vocab_size 40, hidden_size 8] by config.json, found [32, 8]"),
        "{message}"
    );
}

#[test]
fn hundreds_of_missing_tensors_make_a_short_message() {
    let message = faults(|tiny| tiny.config["text_config"]["num_hidden_layers"] = json!(1024));
    assert!(message.contains("9198 problems") && message.ends_with("… and 9178 more"), "{message}");
    assert!(message.len() < 4000);
}

#[test]
fn the_processors_count_of_image_tokens_must_be_the_models() {
    let dir = tempfile::tempdir().unwrap();
    Tiny::new(StoredDtype::F32).write(dir.path());
    let processor = dir.path().join("processor_config.json");
    std::fs::write(&processor, r#"{"image_seq_len": 4}"#).unwrap();
    Checkpoint::open(dir.path()).unwrap();
    std::fs::write(&processor, r#"{"image_seq_len": 64}"#).unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("processor_config.json: image_seq_len: expected 4 ("), "{message}");
    assert!(message.contains("found 64"), "{message}");
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Checkpoint::open(dir).unwrap_err().to_string();
    assert!(open(&dir.path().join("nowhere")).contains("expected a folder with config.json"));
    assert!(open(dir.path()).contains("expected config.json, found none"));
    for broken in [&b""[..], b"{", b"\xff\xff", "[".repeat(1 << 20).as_bytes()] {
        std::fs::write(dir.path().join("config.json"), broken).unwrap();
        assert!(open(dir.path()).contains("config.json: "), "{}", open(dir.path()));
    }
    Tiny::new(StoredDtype::F32).write(dir.path());
    std::fs::write(dir.path().join("generation_config.json"), "7").unwrap();
    assert!(open(dir.path()).contains("generation_config.json: expected a JSON object, found 7"));
    std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.json("chat_template.json").unwrap(), None);
    assert_eq!(checkpoint.text("tokenizer.json").unwrap().as_deref(), Some("{}"));
    assert_eq!(checkpoint.tokenizer_path().unwrap(), dir.path().join("tokenizer.json"));
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(checkpoint.tokenizer_path().unwrap_err().to_string().contains("tokenizer.json: cannot be read"));
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    assert!(checkpoint.text("tokenizer.json").unwrap_err().to_string().contains("expected a file"));
    assert!(checkpoint.tensor("no.such").unwrap_err().to_string().contains("no tensor no.such"));
}

/// Damages `file` in `rounds` ways and opens, validates and reads the checkpoint after each. Only panics, and reads
/// outside the file, would fail.
fn survive_damage(file: &str, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    Tiny::new(StoredDtype::F32).write(dir.path());
    let path = dir.path().join(file);
    let good = std::fs::read(&path).unwrap();
    let interesting = good.len().min(6000);
    let mut accepted = 0;
    for seed in 0..rounds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = good.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..interesting.min(bytes.len()));
            match random.random_range(0..4) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes[at] = *b"0123456789[]{},:\"-".get(random.random_range(0..18)).unwrap(),
                2 => drop(bytes.drain(at..(at + random.random_range(1..40)).min(bytes.len()))),
                _ => bytes.truncate(at.max(1)),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            accepted += u64::from(checkpoint.validate().is_ok());
            checkpoint.tensor_names().for_each(|name| drop(checkpoint.tensor(name).map(|tensor| tensor.to_f32())));
        }
    }
    assert!(accepted < rounds, "no damage to {file} was noticed");
}

#[test]
fn damaged_weights_never_panic() {
    survive_damage("model.safetensors", 1500);
}

#[test]
fn a_damaged_configuration_never_panics() {
    survive_damage("config.json", 1500);
}
