//! Exit code 4: checkpoints that are missing, broken, or contradict themselves.

use serde_json::{Value, json};

use crate::common::{Copy, checkpoint, smolvlm};

const WEIGHTS: &str = "model.safetensors";

/// A tensor of the reference checkpoint.
const NORM: &str = "model.text_model.norm.weight";

#[test]
fn a_missing_folder_a_file_and_a_nonsense_name_are_told_apart() {
    smolvlm(["run", "--model", "/no/such/folder", "Hi"]).fails(4, &["/no/such/folder"]);
    let file = format!("{}/{WEIGHTS}", checkpoint());
    smolvlm(["run", "--model", &file, "Hi"]).fails(4, &[&file, "give the folder it is in"]);
    smolvlm(["info", "a//b c"]).fails(4, &["a//b c"]);
    let empty = tempfile::tempdir().expect("a folder");
    let empty = empty.path().display().to_string();
    smolvlm(["info", &empty]).fails(4, &[&empty, "expected config.json, found none"]);
}

#[test]
fn a_missing_file_is_named_with_its_folder() {
    for (file, part) in [
        ("config.json", "expected config.json, found none"),
        (WEIGHTS, "expected model.safetensors or model.safetensors.index.json, found neither"),
        ("tokenizer.json", "tokenizer.json"),
        ("preprocessor_config.json", "neither preprocessor_config.json nor"),
    ] {
        let copy = Copy::new().remove(file);
        copy.is_refused(&[part, &copy.path().display().to_string()]);
    }
}

#[test]
fn a_chat_template_may_be_in_any_of_its_places_but_must_be_in_one() {
    let copy = Copy::new().remove("chat_template.json").remove("tokenizer_config.json");
    copy.is_refused(&["chat template", &copy.path().display().to_string()]);
}

#[test]
fn files_that_are_not_json_are_named_with_the_place() {
    for file in ["config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"] {
        let copy = Copy::new().write(file, "{\"a\": \n oops}");
        copy.is_refused(&[&copy.file(file).display().to_string(), "not JSON", "line 2"]);
        Copy::new().truncate(file, 40).is_refused(&[file, "not JSON"]);
        Copy::new().write(file, b"\xff\xfe").is_refused(&[file]);
        Copy::new().write(file, "[1, 2]").is_refused(&[file, "object"]);
    }
}

#[test]
fn a_tokenizer_that_is_broken_or_empty_is_named() {
    for copy in [
        Copy::new().truncate("tokenizer.json", 1000),
        Copy::new().write("tokenizer.json", ""),
        Copy::new().write("tokenizer.json", "{}"),
        Copy::new().edit("tokenizer.json", |json| json["decoder"] = Value::Null),
    ] {
        copy.is_refused(&[&copy.file("tokenizer.json").display().to_string()]);
    }
}

#[test]
fn a_truncated_weights_file_is_refused_at_every_length() {
    for (length, part) in [
        (0, "the file is empty"),
        (5, "5 bytes are too few for a header"),
        (100, "announces a header of"),
        (20_000, "bytes of data"),
        (1_000_000, "bytes of data"),
    ] {
        let copy = Copy::new().truncate(WEIGHTS, length);
        copy.is_refused(&[WEIGHTS, part]);
    }
}

#[test]
fn a_header_of_any_announced_length_is_refused() {
    let bytes = std::fs::read(Copy::new().file(WEIGHTS)).expect("read");
    for length in [u64::MAX, u64::MAX / 2, 1 << 40, 100_000_001, 2_000_000, 3] {
        let copy = Copy::new().write(WEIGHTS, [&length.to_le_bytes(), &bytes[8..]].concat());
        copy.is_refused(&[WEIGHTS, "not a usable safetensors file"]);
    }
}

#[test]
fn tensors_that_overlap_or_lie_outside_the_file_are_refused() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 7] = [
        ("overlapping", |tensor| tensor["data_offsets"][0] = 0.into()),
        ("beyond the end", |tensor| tensor["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 256])),
        ("backwards", |tensor| tensor["data_offsets"] = json!([256, 0])),
        ("near the largest number", |tensor| tensor["data_offsets"] = json!([u64::MAX - 256, u64::MAX])),
        ("too few bytes", |tensor| tensor["shape"] = json!([1u64 << 62, 16])),
        ("an unknown format", |tensor| tensor["dtype"] = "F33".into()),
        ("a negative size", |tensor| tensor["shape"] = json!([-64])),
    ];
    for (what, change) in changes {
        let copy = Copy::new().edit_header(|header| change(&mut header[NORM]));
        let ended = copy.run().failed(4, &[WEIGHTS, "not a usable safetensors file"]);
        assert!(ended.stderr.len() < 2000, "{what}: {}", ended.stderr);
    }
}

#[test]
fn every_wrong_tensor_is_listed_in_one_error() {
    let copy = Copy::new().edit_header(|header| {
        let header = header.as_object_mut().expect("an object");
        let lost = header.remove(NORM).expect("the norm");
        header.insert("model.text_model.stranger".to_owned(), lost);
        let head = header.get_mut("lm_head.weight").expect("the head");
        head["shape"] = json!([64, 512]);
        let query = header.get_mut("model.text_model.layers.0.self_attn.q_proj.weight").expect("a query");
        (query["dtype"], query["shape"]) = ("I32".into(), json!([64, 64]));
    });
    copy.is_refused(&[
        &copy.path().display().to_string(),
        "4 problems",
        &format!("{NORM}: missing"),
        "model.text_model.stranger: unexpected, in model.safetensors",
        "lm_head.weight: expected shape",
        "found [64, 512] in model.safetensors",
        "q_proj.weight: expected f32, bf16 or f16, found I32",
    ]);
}

#[test]
fn a_long_list_of_wrong_tensors_is_cut_and_counted() {
    let copy = Copy::new().edit("config.json", |config| config["text_config"]["num_hidden_layers"] = 9.into());
    // Six more layers of nine tensors each.
    copy.is_refused(&["54 problems", "… and 34 more", "missing"]);
}

#[test]
fn contradictions_in_the_configuration_are_listed_in_one_error() {
    let copy = Copy::new().edit("config.json", |config| {
        config["text_config"]["num_key_value_heads"] = 3.into();
        config["text_config"]["head_dim"] = 15.into();
        config["vision_config"]["num_attention_heads"] = 5.into();
        config["scale_factor"] = 4.into();
        config["image_token_id"] = 512.into();
    });
    copy.is_refused(&[
        "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        "head_dim is 15",
        "vision_config.hidden_size 48",
        "scale_factor 4",
        "image_token_id 512 is outside text_config.vocab_size 512",
    ]);
}

#[test]
fn fields_of_the_wrong_type_or_size_are_named() {
    for (section, field, value) in [
        ("text_config", "hidden_size", json!("64")),
        ("text_config", "hidden_size", json!(0)),
        ("text_config", "num_hidden_layers", json!(-1)),
        ("text_config", "num_hidden_layers", json!(1e18)),
        ("text_config", "vocab_size", json!(u64::MAX)),
        ("text_config", "rms_norm_eps", json!("small")),
        ("text_config", "rope_theta", json!(0)),
        ("text_config", "hidden_act", json!("relu")),
        ("text_config", "rope_scaling", json!({"rope_type": "yarn"})),
        ("vision_config", "patch_size", json!(0)),
        ("vision_config", "num_channels", json!(4)),
        ("vision_config", "image_size", json!(null)),
    ] {
        let copy = Copy::new().edit("config.json", |config| config[section][field] = value.clone());
        copy.is_refused(&["config.json", section]);
    }
}

#[test]
fn a_context_that_no_file_vouches_for_is_refused_without_being_allocated() {
    let copy = Copy::new().edit("config.json", |config| {
        config["text_config"]["max_position_embeddings"] = 1_000_000_000.into();
    });
    copy.is_refused(&["max_position_embeddings 1000000000", "at most 67108864"]);
}

#[test]
fn files_that_contradict_each_other_are_named() {
    let edit = |file: &str, field: &str, value: Value| Copy::new().edit(file, |json| json[field] = value);
    let tile = json!({"longest_edge": 48});
    edit("preprocessor_config.json", "max_image_size", tile).is_refused(&["tile", "config.json"]);
    edit("processor_config.json", "image_seq_len", 64.into()).is_refused(&["image_seq_len", "64"]);
    edit("config.json", "image_token_id", 7.into()).is_refused(&["<image>", "422", "7"]);
    edit("generation_config.json", "eos_token_id", 512.into()).is_refused(&["eos_token_id", "512"]);
    edit("generation_config.json", "top_p", 7.into()).is_refused(&["top_p"]);
    edit("preprocessor_config.json", "image_std", json!([0, 0.5, 0.5])).is_refused(&["image_std"]);
    edit("preprocessor_config.json", "resample", 2.into()).is_refused(&["resample"]);
}

#[test]
fn a_template_that_cannot_be_read_or_never_ends_is_refused() {
    let template = |text: &str| Copy::new().edit("chat_template.json", |json| json["chat_template"] = text.into());
    template("{% for %}").is_refused(&["chat template"]);
    template("{{ 1 // 0 }}").is_refused(&["chat template"]);
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}";
    template(&format!("{endless}{{% endfor %}}{{% endfor %}}")).is_refused(&["chat template"]);
}

#[test]
fn an_index_cannot_point_outside_the_folder() {
    for file in ["../model.safetensors", "/etc/passwd", "missing.safetensors"] {
        let index = json!({"weight_map": {NORM: file}}).to_string();
        let copy = Copy::new().remove(WEIGHTS).write("model.safetensors.index.json", index);
        copy.is_refused(&["safetensors", file]);
    }
}

#[test]
fn info_refuses_what_run_refuses() {
    let copy = Copy::new().truncate(WEIGHTS, 1_000_000);
    smolvlm(["info", &copy.path().display().to_string()]).fails(4, &[WEIGHTS, "bytes of data"]);
}
