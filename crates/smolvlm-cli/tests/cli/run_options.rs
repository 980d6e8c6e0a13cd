//! `smolvlm run`: choosing tokens, stopping, and what is said about it.

use serde_json::Value;

use crate::common::goldens::run;
use crate::common::{Case, checkpoint, input, smolvlm};

fn reply(arguments: &[&str]) -> Value {
    run(arguments).arg("--json").json()["replies"][0].clone()
}

/// What `prompt` of the case is, given as an argument.
const QUESTION: &str = "What colour is the car on the left in 2024?";

fn first(case: &Case, count: usize) -> Value {
    case.new_tokens().as_array().expect("ids")[..count].into()
}

#[test]
fn json_says_what_ran_what_came_out_and_what_it_cost() {
    let value = run(&["--json", "--image", &input("square_48.png"), "Can you describe this image?"]).json();
    assert_eq!((&value["model"], &value["dtype"]), (&checkpoint().into(), &"f32".into()));
    assert!(value["compute"].as_str().expect("text").starts_with("CPU, "), "{value}");
    let reply = &value["replies"][0];
    assert_eq!(reply["finish"], "length");
    assert_eq!(reply["usage"]["prompt_tokens"], 125);
    assert_eq!(reply["usage"]["image_tokens"], 17 * 4);
    assert_eq!(reply["usage"]["generated_tokens"], 20);
    assert_eq!(reply.get("logprobs"), None);
    let seconds = |name: &str| reply["timings_seconds"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {reply}"));
    for name in ["prepare", "media", "vision", "prefill", "decode", "first_token"] {
        assert!((0.0..=seconds("total")).contains(&seconds(name)), "{name}: {reply}");
    }
    assert!(seconds("vision") > 0.0 && seconds("decode") > 0.0, "{reply}");
}

#[test]
fn a_gpu_that_is_not_there_or_cannot_be_used_is_refused_by_name() {
    let gpu = smolvlm(["info", &checkpoint(), "--json"]).json()["gpu"].clone();
    let on = |device: &str, dtype: &str| {
        smolvlm(["run", "--model", &checkpoint(), "--device", device, "--dtype", dtype, "--json", QUESTION])
    };
    if gpu["devices"].as_array().is_some_and(Vec::is_empty) {
        on("cuda", "f32").fails(2, &["--device cuda:0"]);
        let reply = on("auto", "f32").json();
        assert!(reply["compute"].as_str().expect("text").starts_with("CPU, "), "{reply}");
    }
    on("cuda:9999", "f32").fails(2, &["--device cuda:9999"]);
    on("cuda", "q8").fails(2, &["q8", "--device cpu"]);
    on("gpu", "f32").fails(2, &["auto, cpu, cuda or cuda:N"]);
}

#[test]
fn logprobs_are_the_references_with_the_likeliest_alternatives() {
    let case = Case::read("text_only");
    let reply = reply(&["--logprobs", "2", QUESTION]);
    let tokens = reply["logprobs"].as_array().expect("log-probabilities");
    assert_eq!(tokens.len(), 20);
    let number = |value: &Value| value.as_f64().expect("a number");
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(token["id"], case.new_tokens()[i]);
        let (found, expected) = (number(&token["logprob"]), number(&case.json["greedy"]["logprobs"][i]));
        // Recorded with six decimals, after logits that agree to about 1e-6.
        assert!((found - expected).abs() < 1e-4, "token {i}: {found}, expected {expected}");
        assert_eq!(token["top"][0]["id"], token["id"]);
        let margin = number(&token["top"][0]["logprob"]) - number(&token["top"][1]["logprob"]);
        assert!((margin - number(&case.json["greedy"]["margins"][i])).abs() < 1e-4, "token {i}: margin {margin}");
        assert_eq!(token["top"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn logprobs_without_a_number_come_without_alternatives() {
    let reply = reply(&[QUESTION, "--logprobs"]);
    assert_eq!(reply["logprobs"][0]["top"], Value::Array(Vec::new()));
    assert!(reply["logprobs"][0]["logprob"].as_f64().expect("a number") < 0.0);
}

#[test]
fn max_new_tokens_cuts_the_reply_and_says_so() {
    let case = Case::read("text_only");
    let reply = reply(&["-n", "3", QUESTION]);
    assert_eq!((&reply["ids"], &reply["finish"]), (&first(&case, 3), &"length".into()));
    let ended = run(&["--max-new-tokens", "3", QUESTION]).run().succeeded();
    assert!(ended.stderr.contains("cut off after 3 tokens; --max-new-tokens allows more"), "{}", ended.stderr);
}

#[test]
fn a_reply_that_ends_by_itself_is_not_called_cut_off() {
    let (a, b) = (input("short_64x48_10fps_5s.mp4"), input("long_48x64_8fps_12s_bt709.mp4"));
    let block = |path: &str| serde_json::json!({"type": "video", "path": path});
    let text = |text: &str| serde_json::json!({"type": "text", "text": text});
    let messages = serde_json::json!([{"role": "user", "content": [block(&a), text(" or "), block(&b), text("?")]}]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("messages.json");
    std::fs::write(&path, messages.to_string()).expect("written");
    let path = path.display().to_string();
    let reply = reply(&["--messages", &path]);
    assert_eq!((&reply["ids"], &reply["finish"]), (Case::read("two_videos").new_tokens(), &"end_token".into()));
    let ended = run(&["--messages", &path]).run().succeeded();
    assert!(!ended.stderr.contains("cut off"), "{}", ended.stderr);
}

#[test]
fn a_stop_string_ends_the_text_before_itself_across_tokens() {
    let case = Case::read("text_only");
    let stop = "onssist";
    let (before, _) = case.text().split_once(stop).expect("in the text");
    assert_eq!(run(&["--stop", stop, QUESTION]).stdout(), format!("{before}\n"));
    let reply = reply(&["--stop", "never said", "--stop", stop, QUESTION]);
    assert_eq!((&reply["text"], &reply["finish"]), (&before.into(), &"stop_string".into()));
    assert!(reply["ids"].as_array().expect("ids").len() < 20);
}

#[test]
fn a_stop_id_ends_the_reply_with_itself() {
    let case = Case::read("text_only");
    let ids = case.new_tokens().as_array().expect("ids");
    let place = (5..).find(|i| !ids[..*i].contains(&ids[*i])).expect("a new token");
    let reply = reply(&["--stop-id", &ids[place].to_string(), "--stop-id", "3", QUESTION]);
    assert_eq!((&reply["ids"], &reply["finish"]), (&first(&case, place + 1), &"end_token".into()));
}

#[test]
fn equal_seeds_give_equal_replies_and_others_others() {
    let draw = |seed: &str| reply(&["--temperature", "2", "--seed", seed, QUESTION])["ids"].clone();
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
    assert_ne!(draw("7"), *Case::read("text_only").new_tokens());
}

#[test]
fn temperature_zero_and_top_k_of_one_are_greedy() {
    let case = Case::read("text_only");
    for flags in [["--temperature", "0"], ["--top-k", "1"], ["--min-p", "1"], ["--top-p", "1e-9"]] {
        assert_eq!(reply(&[flags[0], flags[1], "--seed", "3", QUESTION])["ids"], *case.new_tokens(), "{flags:?}");
    }
}

#[test]
fn a_repetition_penalty_changes_the_choice() {
    let reply = reply(&["--repetition-penalty", "5", "-n", "20", QUESTION]);
    let ids = reply["ids"].as_array().expect("ids");
    let unique: std::collections::HashSet<u64> = ids.iter().filter_map(Value::as_u64).collect();
    assert_ne!(reply["ids"], *Case::read("text_only").new_tokens());
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}

#[test]
fn neither_threads_nor_chunks_change_a_bit() {
    let picture = input("square_48.png");
    let reply = |flags: &[&str]| {
        let reply = reply(&[flags, &["--logprobs", "3", "--image", &picture, "Can you describe this image?"]].concat());
        (reply["ids"].clone(), reply["logprobs"].clone())
    };
    let expected = reply(&["--threads", "1"]);
    for flags in [&["--threads", "2"][..], &["--threads", "3", "--chunk", "7"], &["--chunk", "1"]] {
        assert!(reply(flags) == expected, "{flags:?}");
    }
}

#[test]
fn the_number_format_in_use_is_told() {
    for dtype in ["f32", "bf16"] {
        let ended = smolvlm(["run", "--model", &checkpoint(), "--dtype", dtype, "Hi"]).run().succeeded();
        assert!(ended.stderr.contains(&format!(": {dtype} on CPU, ")), "{}", ended.stderr);
    }
    let ended = smolvlm(["run", "--model", &checkpoint(), "Hi"]).run().succeeded();
    assert!(ended.stderr.contains(": bf16 on ") || ended.stderr.contains(": f32 on "), "{}", ended.stderr);
}

#[test]
fn quiet_says_nothing_but_the_reply() {
    let ended = run(&["--quiet", "--image", &input("land_97x61.png"), "Hi"]).run().succeeded();
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.len() > 1);
}

#[test]
fn verbose_tells_token_counts_and_timings() {
    let ended =
        run(&["--verbose", "--image", &input("square_48.png"), "Can you describe this image?"]).run().succeeded();
    for part in ["125 prompt tokens (68 of images), 20 generated", "vision ", "prefill ", "tokens/s"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn older_releases_of_the_reference_can_be_asked_for() {
    let picture = input("rgba_70x50.png");
    for release in ["hf-5.23", "hf-5.17", "hf-4.57", "pil"] {
        let reply = reply(&["--compat", release, "--image", &picture, "Hi"]);
        assert!(reply["usage"]["image_tokens"].as_u64().expect("a count") > 0, "{release}");
    }
}
