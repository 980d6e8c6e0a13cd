//! Prompts against tables from the Python reference; `data/prompt/make.py` made them.

use std::path::Path;

use serde_json::{Value, json};
use smolvlm::ErrorKind;
use smolvlm::messages::{self, Content, Messages};
use smolvlm::prompt::clock;
use smolvlm::prompt::number_words::number_words;
use smolvlm::prompt::{ChatTemplate, ImageGrid, PromptTokenizer, VideoLayout, expand};

fn table(name: &str) -> Vec<Value> {
    let tables: Value = serde_json::from_str(include_str!("data/prompt/tables.json")).unwrap();
    tables[name].as_array().unwrap().clone()
}

fn tokenizer() -> PromptTokenizer {
    PromptTokenizer::from_bytes(include_bytes!("data/prompt/tokenizer.json")).unwrap()
}

fn template() -> ChatTemplate {
    let published: Value = serde_json::from_str(include_str!("data/prompt/chat_template.json")).unwrap();
    ChatTemplate::find(None, Some(&published), None, None).unwrap()
}

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn grids_of(value: &Value) -> Vec<ImageGrid> {
    let side = |value: &Value| value.as_u64().unwrap() as usize;
    let grids = value.as_array().into_iter().flatten();
    grids.map(|grid| ImageGrid { rows: side(&grid[0]), cols: side(&grid[1]) }).collect()
}

fn video_of(value: &Value) -> VideoLayout {
    let times: Vec<f64> = value["times"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
    VideoLayout { stated_frames: times.len(), times, duration: value["duration"].as_f64().unwrap() }
}

#[test]
fn rendered_prompts_expanded_prompts_and_ids_equal_the_reference() {
    let (template, tokenizer) = (template(), tokenizer());
    for case in table("cases") {
        let name = case["name"].as_str().unwrap();
        let conversations = messages::parse(&case["messages"].to_string(), Path::new("inputs"), name).unwrap();
        let videos: Vec<VideoLayout> = case["videos"].as_array().unwrap().iter().map(video_of).collect();
        for (index, conversation) in conversations.iter().enumerate() {
            let rendered = template.render(conversation, true).unwrap();
            assert_eq!(rendered, case["rendered_prompt"][index].as_str().unwrap(), "{name}");
            let expanded = expand(&rendered, &grids_of(&case["grids"][index]), &videos, 4).unwrap();
            assert_eq!(expanded.text, case["expanded_prompt"][index].as_str().unwrap(), "{name}");
            let ids = tokenizer.encode(&expanded.text).unwrap();
            assert_eq!(ids, ids_of(&case["input_ids"][index]), "{name}");
            let image = tokenizer.id_of("<image>").unwrap();
            assert_eq!(ids.iter().filter(|&&id| id == image).count(), expanded.image_tokens, "{name}");
            assert_eq!(tokenizer.decode(&ids, false), expanded.text, "{name}");
        }
    }
}

#[test]
fn numbers_and_durations_are_worded_as_in_python() {
    for row in table("words") {
        assert_eq!(number_words(row[0].as_u64().unwrap()), row[1].as_str().unwrap());
    }
    for row in table("durations") {
        assert_eq!(clock::duration(row[0].as_f64().unwrap()), row[1].as_str().unwrap());
    }
}

#[test]
fn tokens_and_texts_equal_the_reference() {
    let tokenizer = tokenizer();
    for row in table("probes") {
        let ids = ids_of(&row[1]);
        assert_eq!(tokenizer.encode(row[0].as_str().unwrap()).unwrap(), ids, "{row}");
        assert_eq!(tokenizer.decode(&ids, false), row[2].as_str().unwrap());
        assert_eq!(tokenizer.decode(&ids, true), row[3].as_str().unwrap());
    }
}

#[test]
fn a_stream_of_any_ids_joins_to_what_decoding_at_once_gives() {
    use rand::{Rng, SeedableRng};
    let tokenizer = tokenizer();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    for round in 0..500 {
        let ids: Vec<u32> = (0..40).map(|_| random.next_u32() % (tokenizer.vocab_size() as u32 + 3)).collect();
        for skip_special in [false, true] {
            let mut stream = tokenizer.stream(skip_special);
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text += &stream.finish();
            assert_eq!(text, tokenizer.decode(&ids, skip_special), "round {round}: {ids:?}");
        }
    }
}

#[test]
fn the_first_block_decides_the_space_after_the_role() {
    let template = template();
    let picture_first = Messages::new().user([Content::image("a.png"), Content::text("What?")]);
    assert!(template.render(&picture_first, false).unwrap().starts_with("<|im_start|>User:<image>What?"));
    let video_first = Messages::new().user([Content::video("a.mp4"), Content::text("What?")]);
    assert!(template.render(&video_first, false).unwrap().starts_with("<|im_start|>User: <video>What?"));
}

#[test]
fn a_placeholder_typed_in_text_is_refused_by_naming_the_message() {
    for content in [
        vec![Content::text("see <image>")],
        vec![Content::text("<vid"), Content::text("eo>")],
        vec![Content::image("a.png"), Content::text("an <image> tag")],
    ] {
        let error = template().render(&Messages::new().user("Hi").user(content), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().starts_with("message 2 (user): its text contains <"), "{error}");
    }
}

#[test]
fn empty_conversations_and_messages_are_refused() {
    for messages in [Messages::new(), Messages::new().user(Vec::new())] {
        assert_eq!(template().render(&messages, true).unwrap_err().kind(), ErrorKind::Input);
    }
}

#[test]
fn templates_are_looked_up_in_the_reference_s_order() {
    let keyed = |text: &str| json!({ "chat_template": text });
    let (first, second, last) =
        (keyed("1"), keyed("2"), json!({"chat_template": [{"name": "default", "template": "4"}]}));
    let hi = Messages::new().user("Hi");
    let render = |template: smolvlm::Result<ChatTemplate>| template.unwrap().render(&hi, false).unwrap();
    assert_eq!(render(ChatTemplate::find(Some(&first), Some(&second), Some("3"), Some(&last))), "1");
    assert_eq!(render(ChatTemplate::find(Some(&json!({})), Some(&second), Some("3"), Some(&last))), "2");
    assert_eq!(render(ChatTemplate::find(None, None, Some("3"), Some(&last))), "3");
    assert_eq!(render(ChatTemplate::find(None, None, None, Some(&last))), "4");
    assert_eq!(ChatTemplate::find(None, None, None, None).unwrap_err().kind(), ErrorKind::Checkpoint);
}

#[test]
fn what_jinja_templates_of_this_family_use_is_there() {
    let hi = Messages::new().user("  Hi ").assistant("Yes");
    let render = |source: &str| ChatTemplate::from_caller(source).and_then(|template| template.render(&hi, true));
    let source = "{% for m in messages %}\n  {% if loop.last %}{% continue %}{% endif %}\n\
                  {{ m['role'].upper() }}:{{ m.content[0].text.strip() }}{% endfor %}{{ add_generation_prompt }}";
    assert_eq!(render(source).unwrap(), "USER:HiTrue");
    let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("roles must alternate")), (ErrorKind::Input, true));
    assert_eq!(render("{{ unknown() }}").unwrap_err().kind(), ErrorKind::Checkpoint);
    assert_eq!(render("{% if %}").unwrap_err().kind(), ErrorKind::Checkpoint);
}

#[test]
fn a_hostile_template_ends_with_an_error() {
    let hi = Messages::new().user("Hi");
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{{ 'a' * 9999999999 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ] {
        let error = ChatTemplate::from_caller(source).unwrap().render(&hi, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint, "{source}");
    }
}

/// Made with Python's `tokenizers` from the published tokenizer; runs where a copy of it is beside the project.
#[test]
fn the_published_tokenizer_gives_the_known_ids() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/smolvlm2/common/tokenizer.json");
    if !path.exists() {
        return;
    }
    let tokenizer = PromptTokenizer::from_file(&path).unwrap();
    for (text, ids) in [
        (
            "<|im_start|>User:<image>Describe this.<end_of_utterance>\nAssistant:",
            &[1, 11126, 42, 49190, 37964, 451, 30, 49279, 198, 9519, 9531, 42][..],
        ),
        (
            "<|im_start|>User: What is the capital of France?<end_of_utterance>\nAssistant:",
            &[1, 11126, 42, 1812, 314, 260, 3575, 282, 4649, 47, 49279, 198, 9519, 9531, 42],
        ),
        ("How's it going?", &[2020, 506, 357, 2045, 47]),
        ("\n\n<fake_token_around_image><global-img>", &[1116, 49189, 49152]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids, false), text);
    }
    assert_eq!((tokenizer.vocab_size(), tokenizer.id_of("<row_2_col_3>")), (49280, Some(49153 + 6 + 2)));
}
