//! `evaluate`, `scenes` and `demo`: drawn pictures asked about, written, and shown.

use std::path::Path;

use serde_json::Value;

use crate::common::{checkpoint, smolvlm};

/// Few questions of a picture that is split, one that is not, and a clip; random weights answer anything.
const FEW: [&str; 13] = [
    "evaluate",
    "scenes",
    "--skill",
    "count,small-text,motion",
    "--samples",
    "3",
    "--max-new-tokens",
    "5",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--quiet",
];

fn few(more: &[&str]) -> Value {
    smolvlm(FEW).args(["--model", &checkpoint(), "--json"]).args(more).json()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("{name}: {value}"))
}

#[test]
fn every_skill_has_its_rows_and_small_text_is_asked_both_ways() {
    let report = few(&["--compare-formats", "f32,q8"]);
    let rows: Vec<String> = list(&report, "skills")
        .iter()
        .map(|row| format!("{} {} {}", row["skill"], row["tiles"], row["counts"]))
        .collect();
    let expected = [
        r#""count" "one tile" true"#,
        r#""small-text" "split" true"#,
        r#""small-text" "one tile" false"#,
        r#""motion" "one tile" true"#,
    ];
    assert_eq!(rows, expected);
    assert_eq!((list(&report, "questions").len(), report["overall"]["questions"].as_u64()), (12, Some(9)));
    for row in list(&report, "skills") {
        assert!(
            row["chance"].as_f64() > Some(0.0) && row["blank"]["questions"] == 3 && row["unseen"]["questions"] == 3
        );
    }
    let formats: Vec<&Value> = list(&report, "formats").iter().map(|format| &format["dtype"]).collect();
    assert_eq!(formats, ["f32", "q8"]);
}

#[test]
fn equal_seeds_give_equal_replies_however_many_are_asked_together() {
    let asked = |more: &[&str]| few(&[more, &["--no-baselines", "--dtype", "f32"]].concat())["questions"].clone();
    let alone = asked(&["--batch", "1"]);
    assert_eq!(alone, asked(&["--batch", "3"]));
    assert_ne!(alone, asked(&["--seed", "2"]));
}

#[test]
fn a_report_and_what_was_asked_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (out, asked) = (at("report"), at("asked"));
    let written = smolvlm(FEW)
        .args(["--model", &checkpoint(), "--no-baselines", "--out"])
        .arg(&out)
        .arg("--export")
        .arg(&asked)
        .stdout();
    assert!(written.contains("| `motion` | frames | 3 |") && !written.contains("no picture"), "{written}");
    let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
    assert_eq!(read(&out.join("report.md")), written);
    let report: Value = serde_json::from_str(&read(&out.join("report.json"))).expect("JSON");
    let samples: Vec<Value> =
        read(&asked.join("held.jsonl")).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for question in list(&report, "questions") {
        let sample = samples.iter().find(|sample| sample["id"] == question["id"]).expect("its sample");
        let user = list(sample, "messages").iter().find(|message| message["role"] == "user").expect("a question");
        assert_eq!(list(user, "content").last().expect("text")["text"], question["question"]);
        assert_eq!(sample["skill"], question["skill"]);
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    smolvlm(["evaluate", "scenes", "--skill", "juggling"]).fails(2, &["juggling", "expected one of caption"]);
    smolvlm(["evaluate", "scenes", "--split", "--no-split"]).fails(2, &["--no-split"]);
    smolvlm(["evaluate", "scenes", "--model", "./nowhere"]).fails(4, &["nowhere"]);
}

#[test]
fn drawn_samples_are_what_finetune_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let drawn = folder.path().join("drawn");
    let written =
        smolvlm(["scenes", "--samples", "4", "--skill", "empty-quarter", "--quiet", "--json"]).arg(&drawn).json();
    assert_eq!(written["samples"], 4);
    let config = folder.path().join("run.yaml");
    let text = format!("model: {}\ndata: drawn/train.jsonl\noutput: out\nsplit_images: false\n", checkpoint());
    std::fs::write(&config, text).expect("a file");
    let ended = smolvlm(["finetune", "--check", "--config"]).arg(&config).run().succeeded();
    let total = ended.stderr.lines().find(|line| line.starts_with("total")).expect("a sum");
    // Samples, share, images, videos, frames, tiles: one each.
    let tiles = total.split_whitespace().filter_map(|word| word.parse::<f64>().ok()).nth(5);
    assert_eq!(tiles, Some(4.0), "{total}");
}

#[test]
fn a_demonstration_has_a_model_and_takes_any() {
    let own = smolvlm(["demo", "--device", "cpu", "--json"]).json();
    let right = list(&own, "items").iter().filter(|item| item["right"] == true).count();
    assert!(right >= 4, "{own}");
    let shown = smolvlm(["demo", "--model", &checkpoint(), "--device", "cpu"]).stdout();
    assert!(shown.contains("[a clip of") && shown.contains("of 7 right") && !shown.contains('\x1b'), "{shown}");
    let shown = smolvlm(["demo", "--model", &checkpoint(), "--device", "cpu", "--pictures", "blocks"]).stdout();
    assert!(shown.contains("\x1b[38;2;") && shown.contains('▀') && !shown.contains("[a clip of"));
    let items = smolvlm(["demo", "--model", &checkpoint(), "--device", "cpu", "--json"]).json();
    assert_eq!(list(&items, "items").len(), 7);
}
