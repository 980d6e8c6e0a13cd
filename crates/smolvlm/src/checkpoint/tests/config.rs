use serde_json::{Value, json};

use super::*;
use crate::checkpoint::testing;

/// The faults in `tiny_config` after `change`.
fn fault(change: impl FnOnce(&mut Value)) -> String {
    let mut json = testing::tiny_config();
    change(&mut json);
    let error = ModelConfig::from_json(&json).expect_err("a fault");
    assert_eq!(error.kind(), crate::ErrorKind::Checkpoint);
    error.to_string()
}

#[test]
fn published_sizes_have_the_published_numbers_of_parameters() {
    for (size, parameters, tokens) in
        [("256m", 256_484_928, 64), ("500m", 507_482_304, 64), ("2.2b", 2_246_784_880, 81)]
    {
        let config = testing::published(size);
        assert_eq!(config.parameter_count(), parameters, "{size}");
        assert_eq!(config.tokens_per_tile(), tokens, "{size}");
    }
}

#[test]
fn what_the_published_files_omit_takes_the_librarys_defaults() {
    let small = testing::published("256m");
    assert_eq!((small.vision.layers, small.vision.mlp, small.vision.layer_norm_eps), (12, 3072, 1e-6));
    let large = testing::published("2.2b");
    assert_eq!((large.text.heads, large.text.kv_heads, large.vision.heads), (32, 32, 16));
    assert_eq!(large.vision.head_dim(), 72);
    let bare = ModelConfig::from_json(&json!({"text_config": {}, "image_token_id": 1, "scale_factor": 7})).unwrap();
    assert_eq!((bare.text.rms_eps, bare.text.rope_theta, bare.text.head_dim), (1e-6, 10_000.0, 128));
    assert_eq!((bare.stored_dtype, bare.tie_embeddings), (None, false));
    let no_text = ModelConfig::from_json(&json!({"image_token_id": 1, "scale_factor": 7})).unwrap();
    assert_eq!(no_text.text.rms_eps, 1e-5);
}

#[test]
fn both_spellings_of_the_rotary_base_and_of_the_dtype_mean_the_same() {
    let old = testing::published_json("256m");
    let mut new = old.clone();
    let text = new["text_config"].as_object_mut().unwrap();
    text.remove("rope_theta");
    text.remove("rope_scaling");
    text.insert("rope_parameters".into(), json!({"rope_theta": 100_000, "rope_type": "default"}));
    new.as_object_mut().unwrap().remove("torch_dtype");
    new["dtype"] = json!("float32");
    assert_eq!(ModelConfig::from_json(&new).unwrap(), ModelConfig::from_json(&old).unwrap());
    assert_eq!(testing::published("256m").text.rope_theta, 100_000.0);
}

#[test]
fn the_top_levels_dtype_counts_and_not_the_text_models() {
    assert_eq!(testing::published("256m").stored_dtype, Some(StoredDtype::F32));
    assert!(
        fault(|json| json["torch_dtype"] = json!("int8")).contains("config.json: torch_dtype: expected \"float32\"")
    );
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (field, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("qk_layer_norms", json!(true)),
        ("rope_interleaved", json!(true)),
        ("model_type", json!("mistral")),
    ] {
        let message = fault(|json| json["text_config"][field] = value);
        assert!(message.contains(&format!("config.json: text_config.{field}: expected ")), "{message}");
    }
    assert!(fault(|json| json["vision_config"]["hidden_act"] = json!("gelu")).contains("vision_config.hidden_act"));
    assert!(fault(|json| json["vision_config"]["num_channels"] = json!(4)).contains("vision_config.num_channels"));
    assert!(fault(|json| json["model_type"] = json!("idefics3")).contains("found \"idefics3\""));
    assert!(fault(|json| json["quantization_config"] = json!({"bits": 4})).contains("quantization_config"));
}

#[test]
fn scaled_rotations_are_refused_in_either_spelling() {
    for (key, value) in [
        ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 32.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 100_000})),
        ("rope_parameters", json!({"rope_theta": 100_000, "partial_rotary_factor": 0.5})),
    ] {
        let message = fault(|json| json["text_config"][key] = value);
        assert!(message.contains(&format!("config.json: text_config.{key}.")), "{message}");
    }
    let message = fault(|json| json["text_config"]["rope_parameters"] = json!({"rope_theta": 130_000}));
    assert!(
        message.contains("text_config.rope_theta: expected 130000 as in rope_parameters, found 100000"),
        "{message}"
    );
}

#[test]
fn contradictions_are_all_named_with_what_was_expected_and_found() {
    let message = fault(|json| {
        json["text_config"]["num_key_value_heads"] = json!(3);
        json["text_config"]["head_dim"] = json!(5);
        json["vision_config"]["hidden_size"] = json!(11);
        json["vision_config"]["image_size"] = json!(10);
        json["image_token_id"] = json!(32);
    });
    for part in [
        "5 problems",
        "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        "head_dim is 5, expected an even number",
        "vision_config.hidden_size 11 is not a multiple of num_attention_heads 2",
        "image_size 10 / patch_size 2 gives 5 patches a side, expected a multiple of scale_factor 2",
        "image_token_id 32 is outside text_config.vocab_size 32",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn absurd_sizes_and_wrong_types_are_refused_before_they_are_used() {
    for value in [json!(0), json!(-1), json!(1_u64 << 40), json!(8.5), json!("8"), json!([8]), json!(u64::MAX)] {
        for field in ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim"] {
            let message = fault(|json| json["text_config"][field] = value.clone());
            assert!(message.contains(&format!("text_config.{field}: expected an integer from 1 to")), "{message}");
        }
        let message = fault(|json| json["vision_config"]["patch_size"] = value.clone());
        assert!(message.contains("vision_config.patch_size"), "{message}");
        let message = fault(|json| json["scale_factor"] = value.clone());
        assert!(message.contains("config.json: scale_factor"), "{message}");
    }
    assert!(fault(|json| json["text_config"] = json!(7)).contains("config.json: text_config: expected a JSON object"));
    assert!(fault(|json| *json = json!([])).contains("config.json: expected a JSON object, found a list of 0"));
}

#[test]
fn the_largest_accepted_sizes_do_not_overflow() {
    let mut json = testing::tiny_config();
    json["text_config"] = json!({"hidden_size": MAX_WIDTH, "num_hidden_layers": MAX_LAYERS, "intermediate_size": MAX_MLP,
        "num_attention_heads": MAX_HEADS, "head_dim": MAX_HEAD_DIM, "vocab_size": MAX_VOCAB,
        "max_position_embeddings": MAX_ROTARY / MAX_HEAD_DIM});
    json["vision_config"] = json!({"hidden_size": MAX_WIDTH, "num_hidden_layers": MAX_LAYERS, "image_size": MAX_IMAGE,
        "patch_size": 1, "intermediate_size": MAX_MLP});
    json["scale_factor"] = json!(MAX_SCALE);
    let config = ModelConfig::from_json(&json).unwrap();
    assert!(config.parameter_count() > 1 << 49);
    let memory = crate::checkpoint::memory_estimate(&config, smolvlm_kernels::Format::F32);
    assert_eq!(memory.cache_at_full_context, 1 << 51);
    json["text_config"]["max_position_embeddings"] = json!(MAX_POSITIONS);
    let error = ModelConfig::from_json(&json).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings 1073741824 × head_dim 256"), "{error}");
}
