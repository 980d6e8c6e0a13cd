use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::checkpoint::testing::with_header;

/// The message for a weight file of these bytes.
fn fault(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SINGLE), bytes).unwrap();
    let error = Weights::open(dir.path()).expect_err("a fault");
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
    let message = error.to_string();
    assert!(message.contains(SINGLE), "{message}");
    message
}

fn entry(dtype: &str, shape: &[u64], offsets: [u64; 2]) -> serde_json::Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}

#[test]
fn lengths_that_lie_are_refused() {
    assert!(fault(&[]).contains("empty (0 bytes)"));
    assert!(fault(&[1, 2, 3]).contains("3 bytes are too few for a header"));
    for length in [1_u64 << 63, u64::MAX, 1 << 40, 3] {
        let message = fault(&[&length.to_le_bytes()[..], b"{}"].concat());
        assert!(message.contains(&format!("announces a header of {length} bytes, 2 are left")), "{message}");
    }
}

#[test]
fn headers_that_are_no_header_are_refused() {
    for header in [&b"\xff\xfe{}"[..], b"", b"nonsense", b"[1]", b"{\"a\": 1}", b"{\"a\": {\"dtype\": \"F77\"}}"] {
        assert!(fault(&with_header(header, &[])).contains("not a usable safetensors file"));
    }
    let deep = "[".repeat(100_000);
    assert!(fault(&with_header(format!("{{\"a\": {deep}"), &[])).contains("not a usable safetensors file"));
}

#[test]
fn offsets_that_overlap_leave_gaps_or_leave_the_file_are_refused() {
    let of = |first: [u64; 2], second: [u64; 2]| {
        let shape = |range: [u64; 2]| [(range[1].wrapping_sub(range[0])) / 4];
        json!({"a": entry("F32", &shape(first), first), "b": entry("F32", &shape(second), second)}).to_string()
    };
    for (what, header) in [
        ("overlap", of([0, 8], [4, 12])),
        ("same bytes", of([0, 8], [0, 8])),
        ("gap", of([0, 4], [8, 12])),
        ("not from the start", of([4, 8], [8, 12])),
        ("beyond the file", of([0, 8], [8, 16])),
        ("short of the file's end", of([0, 4], [4, 8])),
        ("end before begin", json!({"a": entry("F32", &[1], [12, 0])}).to_string()),
        ("shape too small for the bytes", json!({"a": entry("F32", &[2], [0, 12])}).to_string()),
        ("format too small for the bytes", json!({"a": entry("BF16", &[3], [0, 12])}).to_string()),
        ("shape overflows", json!({"a": entry("F32", &[1 << 40, 1 << 40], [0, 12])}).to_string()),
    ] {
        assert!(fault(&with_header(header, &[0; 12])).contains("not a usable safetensors file"), "{what}");
    }
}

#[test]
fn a_data_length_that_overflows_when_the_header_is_added_is_refused() {
    let most = (1_u64 << 61) - 1;
    let tensors = (0..8).map(|i| (i.to_string(), entry("U8", &[most], [i * most, (i + 1) * most])));
    let header: serde_json::Map<_, _> = tensors.collect();
    let message = fault(&with_header(serde_json::Value::Object(header).to_string(), &[]));
    assert!(message.contains("describes 18446744073709551608 bytes of data, 0 are in the file"), "{message}");
}

#[test]
fn an_index_may_name_files_of_its_own_folder_only() {
    for file in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "..\\x.safetensors",
        "c:x.safetensors",
        "./x.safetensors",
        "model.bin",
    ] {
        let error = parse_index(&json!({"weight_map": {"a": file}})).expect_err(file);
        assert!(error.to_string().contains("in the same folder"), "{error}");
    }
    assert!(parse_index(&json!({"weight_map": {"a": 1}})).is_err());
    for broken in [json!({}), json!([]), json!({"weight_map": {}}), json!({"weight_map": []})] {
        assert!(parse_index(&broken).unwrap_err().to_string().contains("weight_map"));
    }
}

#[test]
fn a_missing_weight_file_is_named_and_a_pickled_one_pointed_out() {
    let dir = tempfile::tempdir().unwrap();
    let message = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("expected model.safetensors or model.safetensors.index.json, found neither"), "{message}");
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("pytorch_model.bin is there"));
    std::fs::write(dir.path().join(INDEX), json!({"weight_map": {"a": "one.safetensors"}}).to_string()).unwrap();
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("one.safetensors: cannot open it"));
}
