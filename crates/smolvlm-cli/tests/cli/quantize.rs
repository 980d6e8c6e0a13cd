//! `smolvlm quantize`: what it writes, and what it leaves alone.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::command::Smolvlm;
use crate::common::safetensors::Safetensors;
use crate::common::{Case, Copy, checkpoint, input, smolvlm};

const DTYPES: [&str; 4] = ["f32", "bf16", "q8", "q4"];

fn quantize(dtype: &str, out: &Path) -> Smolvlm {
    smolvlm(["quantize", "--model", &checkpoint(), "--dtype", dtype, &out.display().to_string()])
}

/// Replies with log-probabilities, without timings.
fn replies(model: &str, flags: &[&str]) -> Value {
    let (picture, video) = (input("land_97x61.png"), input("short_64x48_10fps_5s.mp4"));
    let media = ["--image", &picture, "--video", &video, "--max-frames", "3"];
    let ask = ["--json", "--logprobs", "5", "-n", "12", "What happens?"];
    let mut value = smolvlm(["run", "--model", model]).args(media).args(flags).args(ask).json();
    for reply in value["replies"].as_array_mut().expect("replies") {
        reply.as_object_mut().expect("a reply").remove("timings_seconds");
    }
    serde_json::json!([value["dtype"], value["replies"]])
}

#[test]
fn replies_are_those_of_the_original_in_the_same_format() {
    for dtype in DTYPES {
        let copy = Copy::packed(dtype);
        let folder = copy.path().display().to_string();
        let original = replies(&checkpoint(), &["--dtype", dtype]);
        assert_eq!(replies(&folder, &[]), original, "{dtype}");
        assert_eq!(replies(&folder, &["--dtype", dtype, "--threads", "1"]), original, "{dtype}, named");
    }
}

#[test]
fn traces_are_those_of_the_original_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let messages = folder.path().join("messages.json");
    fs::write(&messages, Case::read("image_square_48").messages().to_string()).expect("written");
    for dtype in DTYPES {
        let trace = |model: &str| {
            let out = folder.path().join("trace.safetensors");
            smolvlm(["trace", "--model", model, "--dtype", dtype, "--messages"])
                .arg(&messages)
                .arg("--out")
                .arg(&out)
                .stdout();
            let trace = Safetensors::read(&out);
            let logits: Vec<u32> = trace.floats("logits").iter().map(|logit| logit.to_bits()).collect();
            (trace.bytes("image_features", "F32").to_vec(), logits, trace.integers("generated_ids"))
        };
        let copy = Copy::packed(dtype);
        assert!(trace(&copy.path().display().to_string()) == trace(&checkpoint()), "{dtype}");
    }
}

#[test]
fn the_new_folder_has_every_other_file_and_json_says_what_was_written() {
    let place = tempfile::tempdir().expect("a folder");
    let out = place.path().join("not/there/yet");
    let value = quantize("q8", &out).arg("--json").json();
    assert_eq!((&value["dtype"], &value["model"]), (&"q8".into(), &checkpoint().into()));
    assert_eq!(value["folder"], out.display().to_string());
    assert_eq!(value["weight_files"], serde_json::json!(["model.safetensors"]));
    let size = fs::metadata(out.join("model.safetensors")).expect("the weights").len();
    assert_eq!(value["weight_bytes"], size);
    assert!(size < value["original_weight_bytes"].as_u64().expect("bytes") / 2);
    for file in value["copied_files"].as_array().expect("files").iter().map(|file| file.as_str().expect("a name")) {
        let read = |folder: &Path| fs::read(folder.join(file)).expect("a file");
        assert_eq!(read(&out), read(Path::new(&checkpoint())), "{file}");
    }
    let count = |folder: &Path| fs::read_dir(folder).expect("a folder").count();
    assert_eq!(count(&out), count(Path::new(&checkpoint())));
    assert_eq!(count(out.parent().expect("a parent")), 1, "nothing is left beside it");
}

#[test]
fn text_is_the_folder_and_progress_goes_to_standard_error() {
    let place = tempfile::tempdir().expect("a folder");
    let out = place.path().join("out");
    let ended = quantize("bf16", &out).run().succeeded();
    assert_eq!(ended.stdout, format!("{}\n", out.display()));
    assert!(ended.stderr.contains("as bf16"), "{}", ended.stderr);
    let ended = quantize("bf16", &place.path().join("other")).arg("--quiet").run().succeeded();
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_folder_that_is_taken_is_left_alone() {
    let other = tempfile::tempdir().expect("a folder");
    let note = other.path().join("note.txt");
    fs::write(&note, "mine").expect("written");
    quantize("q8", other.path()).fails(2, &["is not empty", &other.path().display().to_string()]);
    quantize("q8", other.path()).arg("--force").fails(2, &["something else than a packed checkpoint"]);
    quantize("q8", &note).arg("--force").fails(2, &["is no folder"]);
    quantize("q8", Path::new("..")).fails(2, &["expected the name of a new folder"]);
    let original = Copy::new();
    let folder = original.path().display().to_string();
    smolvlm(["quantize", "--force", "--model", &folder, "--dtype", "q8", &folder]).fails(2, &["left alone"]);
    assert_eq!(fs::read_to_string(&note).expect("a note"), "mine");
}

#[test]
fn force_replaces_a_packed_checkpoint_and_nothing_with_more_in_it() {
    let copy = Copy::packed("q8");
    quantize("f32", copy.path()).fails(2, &["--force", "is not empty"]);
    quantize("f32", copy.path()).arg("--force").run().succeeded();
    let info = |copy: &Copy| smolvlm(["info", "--json", &copy.path().display().to_string()]).json();
    assert_eq!(info(&copy)["packed_dtype"], "f32");
    fs::create_dir(copy.file("more")).expect("a folder");
    quantize("q8", copy.path()).arg("--force").fails(2, &["left alone"]);
    assert_eq!(info(&copy)["packed_dtype"], "f32");
}

#[test]
fn what_an_interrupted_run_left_is_named_and_replaced_when_asked() {
    let place = tempfile::tempdir().expect("a folder");
    let (out, part) = (place.path().join("out"), place.path().join("out.part"));
    fs::create_dir(&part).expect("a folder");
    fs::write(part.join("model.safetensors"), "half").expect("written");
    quantize("q8", &out).fails(2, &["out.part", "interrupted", "--force"]);
    quantize("q8", &out).arg("--force").run().succeeded();
    assert!(!part.exists() && out.join("model.safetensors").exists());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let out = file.path().join("out");
    let ended = quantize("q8", &out).run();
    assert!(ended.code == 2 || ended.code == 3, "{ended:#?}");
    assert!(ended.stderr.contains(&file.path().display().to_string()), "{}", ended.stderr);
}

#[test]
fn the_format_is_asked_for_and_a_packed_model_is_not_packed_again() {
    smolvlm(["quantize", "out"]).fails(2, &["--dtype <TYPE>"]);
    smolvlm(["quantize", "--dtype", "q3", "out"]).fails(2, &["q3", "f32, bf16, q8, q4"]);
    let copy = Copy::packed("q4");
    let (folder, out) = (copy.path().display().to_string(), copy.file("again").display().to_string());
    smolvlm(["quantize", "--model", &folder, "--dtype", "q4", &out]).fails(2, &[&folder, "packed as q4 already"]);
    let damaged = Copy::new().truncate("model.safetensors", 100_000);
    let folder = damaged.path().display().to_string();
    smolvlm(["quantize", "--model", &folder, "--dtype", "q4", &out]).fails(4, &["model.safetensors", "bytes of data"]);
    assert!(!Path::new(&out).exists());
}
