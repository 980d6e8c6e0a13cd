//! Ids and what counts for the loss, against the Python reference (tests/data/labels/make_labels.py).

mod common;

use common::{fixtures, folder_with, mixture, processor, processor_with, samples};
use serde_json::{Value, json};
use smolvlm_train::data::{Example, ExampleMaker, ExampleRules, IGNORED, Loss, SampleRef, TooLong};

const FIRST: SampleRef = SampleRef { dataset: 0, sample: 0 };

/// The example that one record becomes.
fn example(record: &Value, rules: ExampleRules) -> smolvlm_train::Result<Example> {
    let (_folder, path) = folder_with("one.jsonl", record.to_string());
    ExampleMaker::new(samples(&mixture(&path)), processor(), rules).unwrap().make(FIRST)
}

fn cases() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixtures("labels/labels.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn ids_and_answers_equal_the_references() {
    let cases = cases();
    assert!(cases.len() >= 12);
    for (name, case) in &cases {
        let made = example(&json!({"messages": case["messages"]}), ExampleRules::default()).unwrap();
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(made.ids, ids, "{name}");
        // The reference marks what the template writes for the assistant; image tokens in it never count.
        let image_token = processor().image_token();
        let marked =
            case["mask"].as_str().unwrap().bytes().zip(&ids).map(|(mark, id)| mark == b'1' && *id != image_token);
        assert_eq!(made.counted, marked.collect::<Vec<_>>(), "{name}");
        assert_eq!(made.tiles() * 4, ids.iter().filter(|id| **id == image_token).count(), "{name}");
    }
}

#[test]
fn the_end_token_counts_and_the_line_break_after_it_does_not() {
    let record = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Again"}, {"role": "assistant", "content": "No"}]});
    let made = example(&record, ExampleRules::default()).unwrap();
    let tokenizer = processor().tokenizer().clone();
    let counted: Vec<u32> =
        made.ids.iter().zip(&made.counted).filter(|(_, counted)| **counted).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode(&counted, false), " Yes<end_of_utterance> No<end_of_utterance>");
    let rest: Vec<u32> =
        made.ids.iter().zip(&made.counted).filter(|(_, counted)| !**counted).map(|(id, _)| *id).collect();
    let expected = "<|im_start|>User: Hi<end_of_utterance>\nAssistant:\nUser: Again<end_of_utterance>\nAssistant:\n";
    assert_eq!(tokenizer.decode(&rest, false), expected);
}

#[test]
fn what_counts_goes_on_where_a_prompt_for_the_model_ends() {
    // The ids before an answer are those of the prompt that asks for it, so a model is trained on what it will see.
    for (name, case) in &cases() {
        let made = example(&json!({"messages": case["messages"]}), ExampleRules::default()).unwrap();
        let first = made.counted.iter().position(|counted| *counted).unwrap();
        let text = processor().tokenizer().decode(&made.ids[..first], false);
        assert!(text.ends_with("Assistant:"), "{name}: {text:?}");
    }
}

#[test]
fn labels_are_ids_where_they_count() {
    let record = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]});
    let made = example(&record, ExampleRules::default()).unwrap();
    let labels: Vec<i64> = made.labels().collect();
    assert_eq!(labels.iter().filter(|label| **label != IGNORED).count(), made.counted_tokens());
    assert!(labels.iter().zip(&made.ids).all(|(label, id)| *label == IGNORED || *label == i64::from(*id)));
}

#[test]
fn the_full_loss_counts_everything_but_the_first_token_and_image_tokens() {
    let case = &cases()["images"];
    let rules = ExampleRules { loss: Loss::Full, ..ExampleRules::default() };
    let made = example(&json!({"messages": case["messages"]}), rules).unwrap();
    let image_token = processor().image_token();
    let expected = made.ids.iter().enumerate().map(|(at, id)| at > 0 && *id != image_token);
    assert_eq!(made.counted, expected.collect::<Vec<_>>());
}

#[test]
fn long_samples_are_skipped_or_cut() {
    let record = json!({"messages": [{"role": "user", "content": [{"type": "image", "path": "square_48.png"}]},
        {"role": "assistant", "content": "one two three four five six seven eight nine ten"}]});
    let whole = example(&record, ExampleRules::default()).unwrap();
    let rules = |max_tokens, too_long| ExampleRules { max_tokens, too_long, ..ExampleRules::default() };
    let most = whole.ids.len() - 5;
    let error = example(&record, rules(most, TooLong::Skip)).unwrap_err().to_string();
    assert!(error.contains("record 1: it has") && error.contains(&format!("at most {most}")), "{error}");
    let cut = example(&record, rules(most, TooLong::Truncate)).unwrap();
    assert_eq!((cut.ids, cut.counted), (whole.ids[..most].to_vec(), whole.counted[..most].to_vec()));
    assert_eq!(cut.pixels, whole.pixels);
    let error = example(&record, rules(10, TooLong::Truncate)).unwrap_err().to_string();
    assert!(error.contains("would lose media"), "{error}");
    let answer = whole.counted.iter().position(|counted| *counted).unwrap();
    let error = example(&record, rules(answer, TooLong::Truncate)).unwrap_err().to_string();
    assert!(error.contains("none of its"), "{error}");
}

#[test]
fn a_template_that_rewrites_its_past_serves_the_full_loss_only() {
    // As templates that drop the reasoning of earlier answers do.
    let template =
        "{% for m in messages %}{{ m.role }}: {% if loop.last %}{{ m.content[0].text }}{% endif %}\n{% endfor %}";
    let record = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]});
    let (_folder, path) = folder_with("one.jsonl", record.to_string());
    let make = |loss| {
        let rules = ExampleRules { loss, ..ExampleRules::default() };
        ExampleMaker::new(samples(&mixture(&path)), processor_with(template), rules).unwrap().make(FIRST)
    };
    let error = make(Loss::Replies).unwrap_err().to_string();
    assert!(error.contains("message 2") && error.contains("learn from whole sequences"), "{error}");
    let made = make(Loss::Full).unwrap();
    assert_eq!(made.counted_tokens(), made.ids.len() - 1);
}
