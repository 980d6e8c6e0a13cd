//! What is found before training starts, and mixtures on real files.

mod common;

use std::fmt::Write;

use common::{CACHE, entry, folder_with, goldens, maker, mixture, processor};
use serde_json::{Value, json};
use smolvlm_train::data::{
    CheckOptions, Entry, ExampleMaker, ExampleRules, Mixture, Modality, SampleRef, Samples, TooLong, check,
};

fn chat(question: &str, media: &Value) -> Value {
    let mut record = media.clone();
    record["messages"] = json!([{"role": "user", "content": question}, {"role": "assistant", "content": "An answer."}]);
    record
}

/// One sample of each kind, and one of each kind of mistake.
fn records() -> Vec<Value> {
    vec![
        chat("Text", &json!({})),
        chat("Image", &json!({"image": "land_97x61.png"})),
        chat("Missing", &json!({"images": ["not_there.png", "square_48.png", "nor_this.jpg"]})),
        chat("Images", &json!({"images": ["square_48.png", "photo_420_101x67.jpg"]})),
        chat("Video", &json!({"videos": ["short_64x48_10fps_5s.mp4"]})),
        chat("Not a picture", &json!({"image": "short_64x48_10fps_5s.mp4"})),
        chat("Not a video", &json!({"video": "square_48.png"})),
        json!({"messages": "none"}),
        chat("Out", &json!({"image": "../manifest.json"})),
        chat(&"long ".repeat(4000), &json!({})),
        chat("<image> in words, and the picture has its place", &json!({"image": "square_48.png"})),
    ]
}

fn lines(records: &[Value]) -> String {
    records.iter().fold(String::new(), |mut lines, record| {
        writeln!(lines, "{record}").unwrap();
        lines
    })
}

#[test]
fn everything_missing_or_broken_is_listed_and_the_rest_is_counted() {
    let (_folder, path) = folder_with("data.jsonl", lines(&records()));
    let report = check(&maker(&mixture(&path)), &CheckOptions { threads: 3, listed: 100 }, &|_, _| {});
    let listed: Vec<u32> = report.problems.iter().map(|problem| problem.sample.sample).collect();
    assert_eq!((listed, report.problem_count), (vec![2, 5, 6, 7, 8, 9], 6));
    for (problem, parts) in report.problems.iter().zip([
        &["not_there.png", "nor_this.jpg"][..],
        &["short_64x48_10fps_5s.mp4"],
        &["square_48.png"],
        &["`messages`: expected a list"],
        &["leads out of the media root"],
        &["context holds"],
    ]) {
        assert_eq!(problem.messages.len(), parts.len(), "{problem:?}");
        for (message, part) in problem.messages.iter().zip(parts) {
            let name = format!("data.jsonl: record {}: ", problem.sample.sample + 1);
            assert!(message.contains(&name) && message.contains(part), "{message}");
        }
    }
    let row = |kind: Modality| report.table.modalities.iter().find(|row| row.name == kind.name()).unwrap().totals;
    assert_eq!(Modality::ALL.map(|kind| row(kind).samples), [1, 2, 1, 1]);
    assert_eq!((row(Modality::Video).videos, row(Modality::Video).frames, row(Modality::MultiImage).images), (1, 5, 2));
    assert_eq!((report.table.total.samples, report.table.datasets[0].totals), (5, report.table.total));
}

#[test]
fn the_report_does_not_depend_on_threads_and_lists_no_more_than_asked() {
    let many: Vec<Value> = (0..40).flat_map(|_| records()).collect();
    let (_folder, path) = folder_with("data.jsonl", lines(&many));
    let maker = maker(&mixture(&path));
    let report = |threads| check(&maker, &CheckOptions { threads, listed: 7 }, &|_, _| {});
    let one = report(1);
    assert_eq!((one.problems.len(), one.problem_count), (7, 240));
    assert_eq!((report(2), report(5)), (one.clone(), one));
}

#[test]
fn lengths_are_those_of_the_examples() {
    let (_folder, path) = folder_with("data.jsonl", lines(&records()));
    let maker = maker(&mixture(&path));
    let report = check(&maker, &CheckOptions::default(), &|_, _| {});
    let mut totals = (0, 0, 0);
    for sample in maker.samples().iter() {
        let length = report.lengths.of(sample).unwrap();
        match maker.make(sample) {
            Ok(example) => {
                assert_eq!((length.tokens as usize, length.tiles as usize), (example.ids.len(), example.tiles()));
                totals =
                    (totals.0 + example.ids.len(), totals.1 + example.counted_tokens(), totals.2 + example.tiles());
            }
            Err(error) => assert_eq!(length.tokens, 0, "{error}"),
        }
    }
    let total = report.table.total;
    assert_eq!((total.tokens, total.counted_tokens, total.tiles), (totals.0 as u64, totals.1 as u64, totals.2 as u64));
}

#[test]
fn samples_over_the_token_limit_are_problems_unless_they_are_cut() {
    let long = json!({"texts": [{"user": "Hi", "assistant": "long ".repeat(40)}]});
    let (_folder, path) = folder_with("data.jsonl", lines(&[long, chat("Hi", &json!({}))]));
    let found = |too_long| {
        let rules = ExampleRules { max_tokens: 60, too_long, ..ExampleRules::default() };
        let maker = ExampleMaker::new(common::samples(&mixture(&path)), processor(), rules).unwrap();
        let report = check(&maker, &CheckOptions::default(), &|_, _| {});
        (report.problem_count, report.lengths.of(SampleRef { dataset: 0, sample: 0 }).unwrap().tokens)
    };
    assert_eq!((found(TooLong::Skip), found(TooLong::Truncate)), ((1, 0), (0, 60)));
    // A cut through the second picture is found without decoding either.
    let images = json!({"images": ["square_48.png", "land_97x61.png"]});
    std::fs::write(&path, lines(&[chat("Which?", &images)])).unwrap();
    assert_eq!(found(TooLong::Truncate), (1, 0));
}

#[test]
fn the_table_has_a_line_for_each_kind_and_each_entry() {
    let (_one, first) = folder_with("first.jsonl", lines(&records()[..2]));
    let (_two, second) = folder_with("second.jsonl", lines(&records()[3..5]));
    let named = |path: &std::path::Path, name: &str| Entry { name: Some(name.to_owned()), ..Entry::new(path) };
    let mixture = Mixture {
        media_root: Some(goldens("inputs")),
        datasets: vec![named(&first, "one"), named(&second, &format!("{}two", "long/".repeat(20)))],
        ..Mixture::of("")
    };
    let table = check(&maker(&mixture), &CheckOptions::default(), &|_, _| {}).table;
    let text = table.to_string();
    let name = format!("…{}two", &"long/".repeat(20)[64..]);
    let starts: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
    assert_eq!(
        starts,
        ["samples", "text", "image", "multi-image", "video", "", "one", name.as_str(), "", "total"],
        "\n{text}"
    );
    let widths: Vec<usize> = text.lines().filter(|line| !line.is_empty()).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "\n{text}");
    assert_eq!(serde_json::to_value(&table).unwrap()["datasets"][1]["frames"], 5);
}

#[test]
fn strategies_select_from_all_files_of_an_entry_together() {
    let folder = tempfile::tempdir().unwrap();
    for (file, from) in [("a.jsonl", 0), ("b.json", 4), ("c.jsonl", 8)] {
        let records: Vec<Value> = (from..from + 4).map(|number: usize| chat(&number.to_string(), &json!({}))).collect();
        let text = if file.ends_with(".json") { Value::from(records).to_string() } else { lines(&records) };
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let selected = |sampling: &str| -> Vec<String> {
        let samples =
            Samples::open(&Mixture { datasets: vec![entry(folder.path(), sampling)], ..Mixture::of("") }, CACHE)
                .unwrap();
        let question = |sample| match &samples.read(sample).unwrap().messages.0[0].content[0] {
            smolvlm::messages::Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        samples.iter().map(question).collect()
    };
    let numbers = |range: std::ops::Range<usize>| range.map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(selected("all"), numbers(0..12));
    assert_eq!(selected("first:50%"), numbers(0..6));
    assert_eq!(selected("end:5"), numbers(7..12));
    let random = selected("random:25%");
    assert_eq!((random.len(), random.clone()), (3, selected("random:3")));
}

#[test]
fn the_cards_mixture_is_read_and_normalised() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("mixtures/smolvlm2.yaml");
    let mut mixture = Mixture::from_file(&path).unwrap();
    assert_eq!(mixture.datasets.len(), 26);
    let total: f64 = mixture.datasets.iter().filter_map(|entry| entry.weight).sum();
    assert!((total - 99.9).abs() < 1e-9, "{total}");
    // With one small file in the place of every set, an epoch has the card's percentages of 99.9.
    let (_folder, file) = folder_with("data.jsonl", lines(&records()[..1]));
    let weights: Vec<f64> = mixture.datasets.iter().filter_map(|entry| entry.weight).collect();
    for entry in &mut mixture.datasets {
        *entry = Entry { path: Entry::new(&file).path, media_root: None, ..entry.clone() };
    }
    let samples = Samples::open(&mixture, CACHE).unwrap();
    let order = smolvlm_train::data::Order::new(&samples, 0, true).unwrap();
    assert_eq!(order.shares().iter().sum::<usize>(), 3_300_000);
    for (share, weight) in order.shares().iter().zip(weights) {
        assert!((*share as f64 / 3_300_000.0 - weight / 99.9).abs() < 1e-6, "{share} for {weight}");
    }
}

#[test]
fn mixtures_of_files_that_are_not_there_name_entry_and_file() {
    let open = |mixture: &Mixture| Samples::open(mixture, CACHE).unwrap_err().to_string();
    let (_folder, path) = folder_with("data.jsonl", lines(&records()[..1]));
    let missing = path.with_file_name("missing.jsonl");
    let mut mixture = Mixture::of(&path);
    mixture.datasets.push(Entry { name: Some("second".to_owned()), ..Entry::new(&missing) });
    let error = open(&mixture);
    assert!(error.contains("datasets[1] (second)") && error.contains("missing.jsonl"), "{error}");
    for (content, message) in [("", "the file is empty"), ("[{\"a\": 1},", "cut off"), ("[]", "no records")] {
        let (_folder, path) = folder_with("bad.json", content);
        let error = open(&Mixture::of(&path));
        assert!(error.contains("bad.json") && error.contains(message), "{content}: {error}");
    }
}

#[test]
fn damaged_records_are_errors_of_their_own() {
    // Every record cut at every length and with every byte changed, as lines of one file: each is read or refused by itself.
    let whole = json!({"images": ["square_48.png"], "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a\u{e9}\"b"}]}, {"role": "assistant", "content": "c"}]})
    .to_string();
    let mut text = Vec::new();
    for at in 0..whole.len() {
        text.extend_from_slice(&whole.as_bytes()[..at.max(1)]);
        text.push(b'\n');
        for byte in [b'"', b'{', b']', b'0', 0xff, b'\\'] {
            let mut changed = whole.clone().into_bytes();
            changed[at] = byte;
            text.extend_from_slice(&changed);
            text.push(b'\n');
        }
    }
    let deep = format!("{{\"messages\": {}1{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    text.extend_from_slice(deep.as_bytes());
    let (_folder, path) = folder_with("data.jsonl", text);
    let report = check(&maker(&mixture(&path)), &CheckOptions::default(), &|_, _| {});
    let records = whole.len() * 7 + 1;
    assert_eq!(report.problem_count + report.table.total.samples as usize, records);
    assert!(report.problem_count > records / 2 && report.table.total.samples > 50, "{}", report.problem_count);
    assert!(report.problems.iter().all(|problem| problem.messages[0].contains("data.jsonl: record ")));
}
