//! Packed checkpoints: what `info` says of them, and damaged ones (exit code 4).

use serde_json::{Value, json};

use crate::common::{Copy, Ended, checkpoint, smolvlm};

const WEIGHTS: &str = "model.safetensors";
const QKV: &str = "model.text_model.layers.0.self_attn.q_proj+k_proj+v_proj.weight";
const NORM: &str = "model.text_model.norm.weight";

fn run(copy: &Copy) -> Ended {
    smolvlm(["run", "-n", "1", "Hi", "--model", &copy.path().display().to_string()]).run()
}

#[track_caller]
fn is_refused(copy: &Copy, parts: &[&str]) {
    let ended = run(copy).failed(4, parts);
    assert!(ended.stderr.len() < 6000, "{}", ended.stderr);
    smolvlm(["info", &copy.path().display().to_string()]).fails(4, parts);
}

/// A packed checkpoint whose metadata is changed.
fn metadata(change: impl FnOnce(&mut Value)) -> Copy {
    Copy::packed("q8").edit_header(|header| {
        let text = &mut header["__metadata__"]["smolvlm_packed"];
        let mut json = serde_json::from_str(text.as_str().expect("a text")).expect("JSON");
        change(&mut json);
        *text = json.to_string().into();
    })
}

#[test]
fn info_says_how_it_is_packed_and_what_it_needs() {
    for dtype in ["f32", "bf16", "q8", "q4"] {
        let copy = Copy::packed(dtype);
        let folder = copy.path().display().to_string();
        let text = smolvlm(["info", &folder]).stdout();
        assert!(text.contains(&format!("parameters    0.3 M, packed as {dtype}: ")), "{text}");
        assert_eq!(text.matches("\nmemory ").count(), 1, "{text}");
        let value = smolvlm(["info", "--json", &folder]).json();
        assert_eq!(value["packed_dtype"], dtype);
        assert_eq!(value["memory"].as_object().expect("an object").len(), 1);
        assert_eq!(value["memory"][dtype]["weights_bytes"], value["weight_file_bytes"]);
        let original = smolvlm(["info", "--json", &checkpoint()]).json();
        assert_eq!(value["memory"][dtype], original["memory"][dtype], "what loading the original takes");
        assert_eq!((&value["parameters"], &value["text"]), (&original["parameters"], &original["text"]));
    }
}

#[test]
fn another_number_format_than_its_own_is_a_usage_error() {
    let copy = Copy::packed("q8");
    let folder = copy.path().display().to_string();
    for dtype in ["f32", "bf16", "q4"] {
        smolvlm(["run", "--model", &folder, "--dtype", dtype, "Hi"])
            .fails(2, &[&folder, "packed as q8", &format!("for {dtype}"), "original"]);
    }
    assert!(smolvlm(["run", "-n", "1", "--model", &folder, "Hi"]).run().succeeded().stderr.contains(": q8 on CPU"));
}

#[test]
fn files_that_are_cut_off_are_refused_at_every_length() {
    let whole = std::fs::read(Copy::packed("q4").file(WEIGHTS)).expect("the weights");
    for length in [0, 7, 8, 1000, 9000, whole.len() / 2, whole.len() - 64, whole.len() - 1] {
        is_refused(&Copy::packed("q4").truncate(WEIGHTS, length), &[WEIGHTS]);
    }
    is_refused(&Copy::packed("q4").write(WEIGHTS, [whole.as_slice(), &[0; 64]].concat()), &[WEIGHTS, "bytes of data"]);
}

#[test]
fn metadata_of_another_version_or_layout_is_named_with_what_to_do() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 11] = [
        (|json| json["version"] = 2.into(), "smolvlm_packed.version: expected 1, found 2"),
        (|json| json["version"] = "1".into(), "smolvlm_packed.version: expected 1, found \"1\""),
        (|json| drop(json.as_object_mut().expect("an object").remove("version")), "version: expected 1, found nothing"),
        (|json| json["layout"]["outputs_per_panel"] = 64.into(), "layout.outputs_per_panel: expected 32, found 64"),
        (|json| json["layout"]["bytes_per_chunk"] = Value::Null, "layout.bytes_per_chunk: expected 64, found nothing"),
        (|json| json["layout"] = json!([]), "smolvlm_packed.layout: expected a JSON object, found a list of 0"),
        (|json| json["dtype"] = "int8".into(), "smolvlm_packed.dtype: expected \"f32\", \"bf16\", \"q8\" or \"q4\""),
        (|json| json["dtype"] = 8.into(), "smolvlm_packed.dtype: expected"),
        (|json| json["matrices"] = 0.into(), "smolvlm_packed.matrices: expected an object, found 0"),
        (|json| json["tied_head"] = "no".into(), "smolvlm_packed.tied_head: expected true or false, found \"no\""),
        (|json| *json = json!([[[1]]]), "smolvlm_packed: expected a JSON object, found a list of 1"),
    ];
    for (change, part) in changes {
        is_refused(&metadata(change), &[WEIGHTS, part, "pack the original with `smolvlm quantize`"]);
    }
    let garbled = Copy::packed("q8").edit_header(|header| header["__metadata__"]["smolvlm_packed"] = "{".into());
    is_refused(&garbled, &[WEIGHTS, "smolvlm_packed is not JSON"]);
}

#[test]
fn matrices_that_are_described_otherwise_than_config_json_asks_are_listed() {
    type Change = fn(&mut Value);
    let changes: [(Change, &[&str]); 7] = [
        (|json| json["dtype"] = "bf16".into(), &["patch_embedding.weight", "\"format\":\"bf16\"", "packed bytes (U8)"]),
        (|json| json["dtype"] = "q4".into(), &[QKV, "\"format\":\"q4\"", "\"format\":\"q8\""]),
        (|json| json["matrices"][QKV]["rows"] = json!([32, 64, 32]), &[QKV, "\"rows\":[64,32,32]", "[32,64,32]"]),
        (|json| json["matrices"][QKV]["inputs"] = json!(u64::MAX), &[QKV, "18446744073709551615"]),
        (|json| json["matrices"][QKV]["arrangement"] = "gate_up".into(), &[QKV, "\"stacked\"", "\"gate_up\""]),
        (|json| json["matrices"][QKV] = Value::Null, &[QKV, "says null"]),
        (|json| json["matrices"] = json!({}), &["problems", "more"]),
    ];
    for (change, parts) in changes {
        is_refused(&metadata(change), parts);
    }
    // One less fills the same panels and chunks: only the description tells.
    let config = Copy::packed("q8").edit("config.json", |json| {
        let size = &mut json["text_config"]["intermediate_size"];
        *size = (size.as_u64().expect("a size") - 1).into();
    });
    is_refused(&config, &["6 problems", "gate_proj+up_proj.weight: expected", "down_proj.weight: expected"]);
}

#[test]
fn tensors_that_moved_or_changed_their_size_or_type_are_refused() {
    type Change = fn(&mut Value);
    let shifted = |header: &mut Value, name: &str, by: i64| {
        for end in 0..2 {
            let offset = header[name]["data_offsets"][end].as_i64().expect("an offset");
            header[name]["data_offsets"][end] = (offset + by).into();
        }
    };
    let swapped: Change = |header| {
        let down = "model.text_model.layers.0.mlp.down_proj.weight";
        let (one, other) = (header[QKV].clone(), header[down].clone());
        (header[QKV], header[down]) = (other, one);
    };
    let changes: [(Change, &[&str]); 8] = [
        (swapped, &[QKV, "packed bytes (U8), found"]),
        (|header| header[QKV]["dtype"] = "I8".into(), &[QKV, "found", "I8"]),
        (|header| header[QKV]["shape"] = json!([1]), &["not a usable safetensors file"]),
        (|header| header[QKV]["shape"] = json!([1u64 << 62, 4]), &["not a usable safetensors file"]),
        (|header| header[QKV]["data_offsets"] = json!([u64::MAX - 1, u64::MAX]), &["not a usable safetensors file"]),
        (|header| header[NORM]["dtype"] = "I32".into(), &[NORM, "expected F32", "found I32"]),
        (|header| header[NORM]["shape"] = json!([8, 8]), &[NORM, "[8, 8]"]),
        (
            |header| {
                let lost = header.as_object_mut().expect("an object").remove(QKV).expect("a matrix");
                header["stranger"] = lost;
            },
            &["missing", "stranger: unexpected"],
        ),
    ];
    for (change, parts) in changes {
        is_refused(&Copy::packed("q8").edit_header(change), parts);
    }
    let moved = Copy::packed("q8").edit_header(|header| shifted(header, QKV, 64));
    is_refused(&moved, &["not a usable safetensors file"]);
}

#[test]
fn data_that_is_not_aligned_is_refused() {
    let copy = Copy::packed("bf16");
    let bytes = std::fs::read(copy.file(WEIGHTS)).expect("the weights");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let length = u64::from_le_bytes(*length);
    let (header, data) = rest.split_at(length as usize);
    let copy = copy.write(WEIGHTS, [&(length + 4).to_le_bytes(), header, b"    ", data].concat());
    is_refused(&copy, &[QKV, "expected to begin at a multiple of 64 bytes"]);
}

#[test]
fn weights_without_their_metadata_are_no_published_checkpoint() {
    let copy = Copy::packed("q8")
        .edit_header(|header| drop(header.as_object_mut().expect("an object").remove("__metadata__")));
    is_refused(
        &copy,
        &["patch_embedding.weight: expected f32, bf16 or f16, found U8", "q_proj.weight: missing", "more"],
    );
}

#[test]
fn damaged_numbers_change_replies_and_nothing_else() {
    for dtype in ["f32", "bf16", "q8", "q4"] {
        let copy = Copy::packed(dtype);
        let mut bytes = std::fs::read(copy.file(WEIGHTS)).expect("the weights");
        let begin = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
        // Every pattern of bits: infinities and NaN, and sums that integers never have.
        for (i, byte) in bytes[begin..].iter_mut().enumerate() {
            *byte = (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3];
        }
        let ended = run(&copy.write(WEIGHTS, bytes));
        assert!(ended.code == 0 || ended.code > 1, "{dtype}: {ended:#?}");
    }
}
