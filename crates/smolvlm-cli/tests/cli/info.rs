//! `smolvlm info`.

use crate::common::safetensors::Safetensors;
use crate::common::{checkpoint, smolvlm};

#[test]
fn text_names_architecture_parameters_memory_licence_use_and_citation() {
    let stdout = smolvlm(["info", &checkpoint()]).stdout();
    for part in [
        "parameters    0.3 M, stored as f32",
        "2 layers × 48 wide",
        "3 layers × 64 wide, 4 heads on 2 key-value heads of 16",
        "4 tokens a tile",
        "vocabulary 512, context 8192",
        "memory f32    weights ",
        "memory bf16   weights ",
        "memory q8     weights ",
        "memory q4     weights ",
        "licence       Apache-2.0",
        "meant for     ",
        "not for       Not for high-stakes",
        "arXiv:2504.05299",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn json_counts_what_the_weights_file_holds() {
    let value = smolvlm(["info", &checkpoint(), "--json"]).json();
    let weights = Safetensors::read(&std::path::Path::new(&checkpoint()).join("model.safetensors"));
    let stored: usize = weights.names().iter().map(|name| weights.shape(name).iter().product::<usize>()).sum();
    assert_eq!(value["parameters"], stored);
    assert_eq!(value["stored_dtype"], "f32");
    assert_eq!((&value["packed_dtype"], &value["weight_file_bytes"]), (&serde_json::Value::Null, &(stored * 4).into()));
    let weights = |dtype: &str| value["memory"][dtype]["weights_bytes"].as_f64().expect("bytes") / stored as f64;
    // Panels round sizes up, and vectors stay f32.
    for (dtype, bytes) in [("f32", 4.0..4.5), ("bf16", 2.0..2.5), ("q8", 1.0..1.5), ("q4", 0.6..1.3)] {
        assert!(bytes.contains(&weights(dtype)), "{dtype}: {} bytes a parameter", weights(dtype));
    }
    // Keys and values of 3 layers × 2 heads × 16.
    assert_eq!(value["memory"]["f32"]["cache_bytes_per_token"], 2 * 3 * 2 * 16 * 4);
    assert_eq!(value["memory"]["f32"]["cache_bytes_at_full_context"], 2 * 3 * 2 * 16 * 4 * 8192);
}

#[test]
fn json_has_every_size_and_the_cards_words() {
    let value = smolvlm(["info", &checkpoint(), "--json"]).json();
    let config = std::fs::read_to_string(std::path::Path::new(&checkpoint()).join("config.json")).expect("config.json");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    for (ours, theirs) in [("hidden", "hidden_size"), ("layers", "num_hidden_layers"), ("mlp", "intermediate_size")] {
        assert_eq!(value["text"][ours], config["text_config"][theirs]);
        assert_eq!(value["vision"][ours], config["vision_config"][theirs]);
    }
    assert_eq!((&value["scale_factor"], &value["tokens_per_tile"]), (&3.into(), &4.into()));
    for key in ["licence", "intended_use", "misuse", "citation", "folder", "model"] {
        assert!(value[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
}

#[test]
fn a_hub_model_without_network_or_copy_is_said_which_files_to_put_where() {
    let home = tempfile::tempdir().expect("a folder");
    let cache = home.path().join("hub");
    smolvlm(["info", "owner/model"]).env("HF_HOME", home.path()).fails(
        6,
        &[
            "owner/model@main",
            "HF_HUB_OFFLINE is set",
            "config.json, tokenizer.json, model.safetensors",
            "preprocessor_config.json",
            "--model model",
            "models--owner--model",
            &cache.display().to_string(),
        ],
    );
}

#[test]
fn the_default_model_is_the_smallest_published_one() {
    smolvlm(["info"]).fails(6, &["HuggingFaceTB/SmolVLM2-256M-Video-Instruct"]);
}
