//! Every form in which conversations are kept, from the file to messages.

mod common;

use common::{folder_with, goldens, mixture, samples};
use serde_json::{Value, json};
use smolvlm::media::source::MediaSource;
use smolvlm::messages::{Content, Messages};
use smolvlm_train::data::{MediaRoot, SampleRef, Samples, read};

/// The conversation in a record whose media are below `/m`.
fn parse(record: &Value) -> smolvlm_train::Result<Messages> {
    read(&serde_json::from_value(record.clone()).unwrap(), None, &MediaRoot::new("/m"))
}

/// The roles and, for each, its blocks: text as it is, pictures as `I:name`, videos as `V:name`.
fn shown(messages: &Messages) -> Vec<(String, Vec<String>)> {
    let block = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        Content::Image(source) => format!("I:{}", source.name().trim_start_matches("/m/")),
        Content::Video(source) => format!("V:{}", source.name().trim_start_matches("/m/")),
    };
    messages.0.iter().map(|m| (m.role.clone(), m.content.iter().map(block).collect())).collect()
}

fn assert_read(record: &Value, expected: &[(&str, &[&str])]) {
    let found = shown(&parse(record).unwrap_or_else(|error| panic!("{record}: {error}")));
    let expected: Vec<(String, Vec<String>)> = expected
        .iter()
        .map(|(role, blocks)| ((*role).to_owned(), blocks.iter().map(|block| (*block).to_owned()).collect()))
        .collect();
    assert_eq!(found, expected, "{record}");
}

#[test]
fn strings_with_placeholders_take_media_from_their_columns() {
    assert_read(
        &json!({"messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "First <image> then <image>, and\n<video>\nGo."}, {"role": "assistant", "content": "Yes."}],
            "images": ["a.png", {"path": "b.png", "bytes": null}], "videos": ["c.mp4"]}),
        &[
            ("system", &["Be brief."]),
            ("user", &["First ", "I:a.png", " then ", "I:b.png", ", and", "V:c.mp4", "Go."]),
            ("assistant", &["Yes."]),
        ],
    );
}

#[test]
fn typed_blocks_take_media_in_order_by_index_or_their_own() {
    assert_read(
        &json!({"messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image", "text": null, "index": null}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]}], "images": ["a.png", "b.png"]}),
        &[("user", &["I:a.png", "or", "I:b.png"]), ("assistant", &["b"])],
    );
    assert_read(
        &json!({"messages": [
            {"role": "user", "content": [{"type": "image", "index": 1}, {"type": "image", "index": 0}, {"type": "image", "index": 1}]},
            {"role": "assistant", "content": "x"}], "images": ["a.png", "b.png"]}),
        &[("user", &["I:b.png", "I:a.png", "I:b.png"]), ("assistant", &["x"])],
    );
    assert_read(
        &json!({"messages": [
            {"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "image", "image": "b.png"},
                {"type": "image", "url": "c.png"}, {"type": "image_url", "image_url": {"url": "d.png"}},
                {"type": "video", "video": "frames"}, {"type": "video", "path": "e.mp4"}, {"type": "image", "base64": "aGk="}]},
            {"role": "assistant", "content": "x"}]}),
        &[
            ("user", &["I:a.png", "I:b.png", "I:c.png", "I:d.png", "V:frames", "V:e.mp4", "I:embedded file"]),
            ("assistant", &["x"]),
        ],
    );
}

#[test]
fn media_without_a_place_come_first_in_the_first_question() {
    assert_read(
        &json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Same?"}, {"role": "assistant", "content": "No"}],
            "images": ["a.png", "b.png"]}),
        &[("system", &["s"]), ("user", &["I:a.png", "I:b.png", "Same?"]), ("assistant", &["No"])],
    );
}

#[test]
fn llavas_conversations_are_read_with_pictures_and_videos() {
    assert_read(
        &json!({"id": "7", "image": "coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A cat."}, {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]}),
        &[
            ("user", &["I:coco/1.jpg", "What?"]),
            ("assistant", &["A cat."]),
            ("user", &["Sure?"]),
            ("assistant", &["Yes."]),
        ],
    );
    assert_read(
        &json!({"image": ["a.png", "b.png"], "conversations": [{"from": "system", "value": "s"},
            {"from": "human", "value": "Compare\n<image>\n<image>"}, {"from": "gpt", "value": "Equal."}]}),
        &[("system", &["s"]), ("user", &["Compare", "I:a.png", "I:b.png"]), ("assistant", &["Equal."])],
    );
    assert_read(
        &json!({"video": "v/1.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "x"}]}),
        &[("user", &["V:v/1.mp4", "What?"]), ("assistant", &["x"])],
    );
    // LLaVA-Video writes <image> where a video stands.
    assert_read(
        &json!({"video": "v/1.mp4", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]}),
        &[("user", &["V:v/1.mp4", "What?"]), ("assistant", &["x"])],
    );
}

#[test]
fn the_cauldrons_pairs_are_read() {
    assert_read(
        &json!({"images": ["a.png"], "texts": [{"user": "Q1", "assistant": "A1", "source": "s"}, {"user": "Q2", "assistant": "A2"}]}),
        &[("user", &["I:a.png", "Q1"]), ("assistant", &["A1"]), ("user", &["Q2"]), ("assistant", &["A2"])],
    );
}

#[test]
fn mistakes_are_named_with_their_place() {
    let turn = |content: Value| json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]});
    let with = |mut record: Value, key: &str, value: Value| {
        record[key] = value;
        record
    };
    for (record, message) in [
        (json!([]), "expected an object with a conversation, found a list"),
        (json!({"text": "x"}), "expected one of the keys messages, conversations, texts"),
        (json!({"messages": "x"}), "`messages`: expected a list"),
        (json!({"messages": []}), "`messages`: expected a list with at least one turn"),
        (json!({"messages": [7]}), "messages[0]: expected an object with `role`, found a number"),
        (json!({"messages": [{"role": 7, "content": "x"}]}), "messages[0]: `role`: expected a string, found a number"),
        (json!({"messages": [{"role": "", "content": "x"}]}), "messages[0]: `role`"),
        (turn(json!(7)), "messages[0]: `content`: expected a string or a list of blocks, found a number"),
        (
            turn(json!([{"type": "audio"}])),
            "messages[0]: content: [0]: `type`: expected text, image or video, found \"audio\"",
        ),
        (turn(json!([{"type": "text"}])), "`text`: expected a string, found none"),
        (turn(json!([{"type": "image"}])), "image 1 has a place in the text, and 0 are given"),
        (turn(json!([{"type": "image", "index": -1}])), "`index`: expected a whole number"),
        (turn(json!([{"type": "image", "index": 1e30}])), "`index`: expected a whole number"),
        (turn(json!([{"type": "image", "base64": "%"}])), "base64: not base64"),
        (turn(json!("<image> and <image>")), "image 1 has a place"),
        (turn(json!([])), "message 1 says nothing"),
        (with(turn(json!("<image>")), "images", json!(["a", "b"])), "2 media are given and 1 have a place"),
        (with(turn(json!("x")), "images", json!([7])), "images[0]: expected a file's name, found a number"),
        (
            with(turn(json!("x")), "images", json!([{"bytes": "aGk="}])),
            "images[0]: `bytes`: expected bytes, found a string",
        ),
        (with(turn(json!("x")), "images", json!([{}])), "images[0]: expected `bytes` or `path`, found neither"),
        (with(turn(json!("x")), "image", json!("../a.png")), "image: \"../a.png\" leads out of the media root /m"),
        (with(turn(json!("x")), "videos", json!(["/etc/passwd"])), "videos[0]: \"/etc/passwd\" leads out"),
        (with(turn(json!("x")), "image", json!("https://host/a.png")), "is a URL"),
        (with(turn(json!("x")), "images", json!(vec!["a"; 5000])), "`images`: 5000 media, at most 4096"),
        (
            json!({"conversations": [{"from": "bot", "value": "x"}]}),
            "conversations[0]: `from`: expected human, gpt or system",
        ),
        (json!({"conversations": [{"from": "human", "value": "x"}]}), "no answer of the assistant"),
        (json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}), "no answer"),
        (
            json!({"messages": [{"role": "assistant", "content": "x"}], "images": ["a"]}),
            "no message of the user to show them in",
        ),
        (json!({"texts": [{"user": "x"}]}), "texts[0]: `assistant`: expected a string, found none"),
    ] {
        let error = parse(&record).unwrap_err();
        assert!(error.to_string().contains(message), "{record}\n  {error}\n  expected {message}");
        assert_eq!(error.kind(), smolvlm_train::ErrorKind::Input);
    }
}

#[test]
fn lines_and_lists_hold_the_same_samples() {
    let record = |number: usize| json!({"messages": [{"role": "user", "content": number.to_string()}, {"role": "assistant", "content": "x"}]});
    let lines: Vec<String> = (0..100).map(|number| record(number).to_string()).collect();
    let list = serde_json::to_string_pretty(&(0..100).map(record).collect::<Vec<_>>()).unwrap();
    for text in [lines.join("\n"), lines.join("\n\n") + "\n", list] {
        let (_folder, path) = folder_with("data.json", text);
        let samples = samples(&mixture(&path));
        assert_eq!(samples.len(), 100);
        for sample in samples.iter() {
            let first = &samples.read(sample).unwrap().messages.0[0];
            assert_eq!(first.content, [Content::text(sample.sample.to_string())]);
        }
        let name = samples.name(SampleRef { dataset: 0, sample: 41 });
        assert_eq!(name, format!("{}: record 42", path.display()));
    }
}

#[test]
fn one_broken_line_is_one_broken_sample() {
    let good =
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]}).to_string();
    let (_folder, path) = folder_with("data.jsonl", format!("{good}\n{{\"messages\": [\n{good}\n"));
    let samples = samples(&mixture(&path));
    let error = samples.read(SampleRef { dataset: 0, sample: 1 }).unwrap_err().to_string();
    assert!(error.contains("data.jsonl: record 2: not JSON"), "{error}");
    assert!(samples.read(SampleRef { dataset: 0, sample: 2 }).is_ok());
}

#[test]
fn a_file_that_changes_after_it_was_indexed_is_refused() {
    let (_folder, path) = folder_with("data.jsonl", "{\"a\": 1}\n{\"b\": 2}");
    let samples = samples(&mixture(&path));
    std::fs::write(&path, "{}").unwrap();
    let error = samples.read(SampleRef { dataset: 0, sample: 1 }).unwrap_err().to_string();
    assert!(error.contains("has changed since it was indexed"), "{error}");
}

#[test]
fn media_start_at_the_root_or_at_the_folder_of_the_file() {
    let record = json!({"image": "a.png", "conversations": [{"from": "human", "value": "<image>x"}, {"from": "gpt", "value": "y"}]});
    let (folder, path) = folder_with("data.json", json!([record]).to_string());
    let image = |samples: &Samples| {
        let messages = samples.read(SampleRef { dataset: 0, sample: 0 }).unwrap();
        match messages.messages.images().next() {
            Some(MediaSource::Path(path)) => path.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut mixture = mixture(&path);
    assert_eq!(image(&samples(&mixture)), std::path::absolute(goldens("inputs").join("a.png")).unwrap());
    mixture.media_root = None;
    assert_eq!(image(&samples(&mixture)), folder.path().join("a.png"));
}

#[cfg(unix)]
#[test]
fn links_inside_the_media_root_are_followed() {
    let record = json!({"image": "elsewhere/square_48.png", "conversations": [{"from": "human", "value": "<image>x"}, {"from": "gpt", "value": "y"}]});
    let (folder, path) = folder_with("data.jsonl", record.to_string());
    std::os::unix::fs::symlink(std::path::absolute(goldens("inputs")).unwrap(), folder.path().join("elsewhere"))
        .unwrap();
    let maker = common::maker(&smolvlm_train::data::Mixture::of(path));
    assert!(maker.make(SampleRef { dataset: 0, sample: 0 }).unwrap().tiles() > 0);
}
