//! `smolvlm trace`: the file it writes, beside what the reference recorded.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::command::Smolvlm;
use crate::common::goldens::on_checkpoint;
use crate::common::safetensors::Safetensors;
use crate::common::{Case, cases};

/// A messages file and the place of its trace.
struct Work {
    folder: TempDir,
}

impl Work {
    fn new(messages: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("messages.json"), messages.to_string()).expect("written");
        Self { folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("trace.safetensors")
    }

    fn command(&self) -> Smolvlm {
        self.reading(&self.folder.path().join("messages.json"))
    }

    fn reading(&self, messages: &Path) -> Smolvlm {
        on_checkpoint("trace").arg("--messages").arg(messages).arg("--out").arg(self.out())
    }

    fn trace(&self, flags: &[String]) -> Safetensors {
        self.command().args(flags).run().succeeded();
        Safetensors::read(&self.out())
    }
}

fn trace_of(case: &Case) -> Safetensors {
    Work::new(&case.messages()).trace(&case.flags())
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().expect("ids").iter().filter_map(Value::as_i64).collect()
}

/// ‖a − b‖ ÷ ‖b‖.
fn relative_distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |value: f32| f64::from(value).powi(2);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().copied().map(square).sum::<f64>()).sqrt()
}

fn check(case: &Case, trace: &Safetensors, prefix: &str) {
    let (name, golden) = (&case.name, case.tensors());
    let at = |tensor: &str| format!("{prefix}{tensor}");
    assert_eq!(trace.integers(&at("input_ids")), ids(&case.json["input_ids"]), "{name}");
    assert_eq!(trace.integers(&at("generated_ids")), ids(case.new_tokens()), "{name}");
    assert_eq!(trace.metadata(&at("expanded_prompt")), case.json["expanded_prompt"], "{name}");
    let vocab = 512;
    assert_eq!(trace.shape(&at("logits")), [ids(&case.json["input_ids"]).len(), vocab], "{name}");
    let logits = trace.floats(&at("logits"));
    let rows = golden.integers("logits_rows");
    let kept: Vec<f32> =
        rows.iter().flat_map(|row| &logits[*row as usize * vocab..(*row as usize + 1) * vocab]).copied().collect();
    let distance = relative_distance(&kept, &golden.floats("logits"));
    assert!(distance < 1e-4, "{name}: logits {distance}");
    if !case.json["pixel_values_shape"].is_null() {
        check_pixels(case, trace, prefix);
    }
}

fn check_pixels(case: &Case, trace: &Safetensors, prefix: &str) {
    let (name, golden) = (&case.name, case.tensors());
    let (pixels, features) = (format!("{prefix}pixel_values"), format!("{prefix}image_features"));
    assert_eq!(json!(trace.shape(&pixels)), case.json["pixel_values_shape"], "{name}");
    let expected: Vec<f32> =
        golden.bytes("pixel_values_u8", "U8").iter().map(|value| (f32::from(*value) - 127.5) / 127.5).collect();
    assert!(trace.floats(&pixels) == expected, "{name}: pixels differ");
    assert_eq!(trace.shape(&features), golden.shape("image_features"), "{name}");
    let distance = relative_distance(&trace.floats(&features), &golden.floats("image_features"));
    assert!(distance < 1e-4, "{name}: image features {distance}");
}

#[test]
fn every_stage_of_every_conversation_is_the_references() {
    for case in cases() {
        check(&case, &trace_of(&case), "");
    }
}

#[test]
fn a_text_has_no_pixels_and_a_picture_has_all_five_tensors() {
    let text = trace_of(&Case::read("text_only"));
    assert_eq!(text.names(), ["generated_ids", "input_ids", "logits"]);
    let picture = trace_of(&Case::read("image_square_48"));
    assert_eq!(picture.names(), ["generated_ids", "image_features", "input_ids", "logits", "pixel_values"]);
    for name in ["pixel_values", "image_features", "logits"] {
        assert_eq!(picture.header[name]["dtype"], "F32");
    }
    for name in ["input_ids", "generated_ids"] {
        assert_eq!(picture.header[name]["dtype"], "I64");
    }
}

#[test]
fn frames_of_each_video_are_metadata() {
    for name in ["two_videos", "video_long_3_frames"] {
        let case = Case::read(name);
        let trace = trace_of(&case);
        let parse = |name: &str| serde_json::from_str::<Value>(trace.metadata(name)).expect("JSON");
        let videos = case.json["videos"].as_array().expect("videos");
        let recorded = |name: &str| videos.iter().map(|video| video[name].clone()).collect::<Value>();
        assert_eq!(parse("frame_indices"), recorded("frame_indices"), "{name}");
        assert_eq!(parse("timestamps"), recorded("timestamps"), "{name}");
    }
}

#[test]
fn conversations_of_a_batch_are_prefixed_by_their_numbers() {
    let members = ["two_images_interleaved", "text_only", "video_short"].map(Case::read);
    let trace = Work::new(&members.iter().map(Case::messages).collect()).trace(&[]);
    for (i, case) in members.iter().enumerate() {
        check(case, &trace, &format!("{i}."));
    }
    assert!(trace.names().iter().all(|name| name.starts_with(['0', '1', '2'])), "{:?}", trace.names());
    assert_eq!(trace.metadata("1.frame_indices"), "[]");
}

#[test]
fn a_list_of_one_conversation_is_prefixed_too() {
    let case = Case::read("text_only");
    let trace = Work::new(&json!([case.messages()])).trace(&[]);
    assert_eq!(trace.names(), ["0.generated_ids", "0.input_ids", "0.logits"]);
}

#[test]
#[cfg(unix)]
fn messages_may_come_through_a_pipe() {
    let messages = json!([Case::read("text_only").messages()]);
    let work = Work::new(&messages);
    work.reading(Path::new("/dev/stdin")).stdin(messages.to_string()).run().succeeded();
    assert_eq!(Safetensors::read(&work.out()).names(), ["0.generated_ids", "0.input_ids", "0.logits"]);
}

#[test]
fn only_the_last_positions_logits_are_written_when_asked() {
    let case = Case::read("text_only");
    let (all, last) = (trace_of(&case), Work::new(&case.messages()).trace(&["--logits".into(), "last".into()]));
    assert_eq!((all.shape("logits"), last.shape("logits")), (vec![32, 512], vec![1, 512]));
    assert!(all.floats("logits").ends_with(&last.floats("logits")));
}

#[test]
fn as_many_tokens_are_generated_as_asked() {
    let trace = Work::new(&Case::read("text_only").messages()).trace(&["--max-new-tokens".into(), "3".into()]);
    assert_eq!(trace.shape("generated_ids"), [3]);
}

#[test]
fn json_tells_what_was_written() {
    let (case, work) = (Case::read("image_square_48"), Work::new(&Case::read("image_square_48").messages()));
    let value = work.command().args(["--json", "--quiet"]).json();
    assert_eq!(value["out"], work.out().display().to_string());
    assert_eq!(value["conversations"][0]["prompt_tokens"], 125);
    assert_eq!(value["conversations"][0]["tiles"], 17);
    assert_eq!(value["conversations"][0]["generated_ids"], *case.new_tokens());
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    files
}

#[test]
fn an_older_file_is_replaced_and_nothing_else_left_behind() {
    let work = Work::new(&Case::read("text_only").messages());
    std::fs::write(work.out(), "old").expect("written");
    assert_eq!(work.trace(&[]).shape("input_ids"), [32]);
    assert_eq!(files(work.folder.path()), ["messages.json", "trace.safetensors"]);
}

#[test]
fn a_place_that_cannot_be_written_is_named_and_nothing_left_behind() {
    let work = Work::new(&Case::read("text_only").messages());
    std::fs::create_dir(work.out()).expect("a folder");
    work.command().fails(3, &["trace.safetensors", "cannot be written"]);
    assert_eq!(files(work.folder.path()), ["messages.json", "trace.safetensors"]);
    let nowhere = work.folder.path().join("no/such/folder.safetensors");
    on_checkpoint("trace")
        .arg("--messages")
        .arg(work.folder.path().join("messages.json"))
        .arg("--out")
        .arg(&nowhere)
        .fails(3, &["no/such/folder.safetensors", "cannot be written"]);
}
