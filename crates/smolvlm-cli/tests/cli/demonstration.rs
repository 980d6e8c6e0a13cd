//! The demonstration model, where meaning matters: what it knows, what number formats cost it, what it can be taught.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::smolvlm;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// Asks questions about held-out pictures on the processor; `skills` with commas.
fn asked(skills: &str, samples: &str, more: &[&str]) -> Value {
    smolvlm([
        "evaluate",
        "scenes",
        "--no-baselines",
        "--device",
        "cpu",
        "--threads",
        "2",
        "--quiet",
        "--json",
        "--model",
    ])
    .arg(model())
    .args(["--skill", skills, "--samples", samples])
    .args(more)
    .json()
}

/// Share of right answers by skill.
fn accuracies(report: &Value) -> Vec<(String, f64)> {
    let rows = report["skills"].as_array().expect("skills");
    let row = |row: &Value| Some((row["skill"].as_str()?.to_owned(), row["accuracy"].as_f64()?));
    rows.iter().map(|it| row(it).expect("a skill's accuracy")).collect()
}

#[test]
fn it_answers_about_pictures_and_clips_that_it_has_never_seen() {
    let report = asked("caption,attribute,presence,change", "40", &[]);
    for (skill, accuracy) in accuracies(&report) {
        assert!(accuracy >= 0.85, "{skill}: {accuracy}");
    }
}

#[test]
fn fewer_bits_cost_few_answers() {
    let report = asked("attribute,count", "40", &["--compare-formats", "f32,bf16,q8,q4"]);
    let formats: Vec<(String, f64)> = report["formats"]
        .as_array()
        .expect("formats")
        .iter()
        .map(|format| {
            let right: f64 = accuracies(format).iter().map(|(_, accuracy)| accuracy).sum();
            (format["dtype"].as_str().expect("a name").to_owned(), right / 2.0)
        })
        .collect();
    let [(_, exact), rounded @ ..] = &formats[..] else { panic!("{formats:?}") };
    assert_eq!(rounded.len(), 3);
    for ((name, accuracy), most) in rounded.iter().zip([0.02, 0.03, 0.05]) {
        assert!((accuracy - exact).abs() <= most, "{name}: {accuracy}, f32: {exact}");
    }
}

#[test]
fn an_adapter_teaches_it_what_it_was_never_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = accuracies(&asked("empty-quarter", "60", &[]));
    assert!(before[0].1 < 0.4, "{before:?}");
    let config = folder.path().join("run.yaml");
    let skill = "mixture: {empty-quarter: 1000}";
    let text = format!(
        "model: {}\ndata: [{{scenes: {{seed: 1, direct: true, {skill}}}}}]\noutput: run\nsteps: 100\nbatch: {{by: count, samples: 12}}\n\
         learning_rate: 3e-3\nschedule: {{shape: cosine, warmup: 10}}\nlora: {{rank: 8, alpha: 16, targets: '.*text_model.*_proj'}}\n",
        serde_json::to_string(&model()).expect("a path")
    );
    std::fs::write(&config, text).expect("a file");
    smolvlm(["finetune", "--device", "cpu", "--threads", "2", "--quiet", "--config"]).arg(&config).run().succeeded();
    let adapter = folder.path().join("run/adapter");
    let after = accuracies(&asked("empty-quarter", "60", &["--adapter", adapter.to_str().expect("a path")]));
    assert!(after[0].1 >= 0.8, "before: {before:?}, after: {after:?}");
}
