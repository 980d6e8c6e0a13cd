//! `smolvlm chat`, with a conversation on standard input.

use serde_json::{Value, json};

use crate::common::goldens::{on_checkpoint, run};
use crate::common::{Case, Ended, input};

fn chat(lines: &[&str]) -> Ended {
    chat_with(&[], lines)
}

fn chat_with(flags: &[&str], lines: &[&str]) -> Ended {
    on_checkpoint("chat").args(flags).stdin(lines.join("\n") + "\n").run().succeeded()
}

/// What `run` answers to the same conversation.
fn answer(messages: &Value) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("messages.json");
    std::fs::write(&path, messages.to_string()).expect("written");
    run(&["--messages", &path.display().to_string()]).stdout()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// A reply as the next turn remembers it.
fn assistant(printed: &str) -> Value {
    json!({"role": "assistant", "content": printed.trim()})
}

#[test]
fn each_line_is_answered_and_remembered() {
    let first = answer(&json!([user("Hi")]));
    let second = answer(&json!([user("Hi"), assistant(&first), user("And now?")]));
    let third = answer(&json!([user("Hi"), assistant(&first), user("And now?"), assistant(&second), user("Hi")]));
    assert_eq!(chat(&["Hi", "And now?", "Hi"]).stdout, [first.clone(), second, third.clone()].concat());
    assert_ne!(first, third);
}

#[test]
fn an_attached_picture_is_shown_with_the_next_message_only() {
    let case = Case::read("image_square_48");
    let image = format!("/image {}", input("square_48.png"));
    let ended = chat(&[&image, "Can you describe this image?", "Hi"]);
    let second = answer(&json!([case.messages()[0], assistant(&case.printed()), user("Hi")]));
    assert_eq!(ended.stdout, case.printed() + &second);
    assert!(ended.stderr.contains("attached: picture "), "{}", ended.stderr);
}

#[test]
fn an_attached_video_is_shown() {
    let video = format!("/video {}", input("short_64x48_10fps_5s.mp4"));
    let ended = chat(&[&video, "/files", "Describe the video."]);
    assert_eq!(ended.stdout, Case::read("video_short").printed());
    assert_eq!(ended.stderr.matches("attached: video ").count(), 2, "{}", ended.stderr);
}

#[test]
fn undo_takes_the_last_exchange_back() {
    let hi = Case::read("text_short").printed();
    let next = answer(&json!([user("Hi"), assistant(&hi), user("And now?")]));
    let ended = chat(&["Hi", "What?", "/undo", "And now?", "/undo", "/undo", "/undo", "Hi"]);
    let lines: Vec<&str> = ended.stdout.split_inclusive('\n').collect();
    assert!(ended.stdout.starts_with(&hi) && ended.stdout.ends_with(&(next + &hi)), "{lines:?}");
    assert_eq!(ended.stderr.matches("the last exchange is taken back").count(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("there is nothing to be taken back"), "{}", ended.stderr);
}

#[test]
fn reset_starts_over_but_keeps_the_system_message() {
    let system = json!({"role": "system", "content": "Be brief."});
    let first = answer(&json!([system, user("Hi")]));
    let image = format!("/image {}", input("square_48.png"));
    let ended = chat_with(&["--system", "Be brief."], &["Hi", &image, "/reset", "Hi"]);
    assert_eq!(ended.stdout, first.clone() + &first);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_chat_goes_on_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "no picture").expect("written");
    for name in [broken.display().to_string(), "missing.png".to_owned()] {
        let ended = chat(&["Hi", &format!("/image {name}"), "What is this?", "/undo", "Hi"]);
        let hi = Case::read("text_short").printed();
        assert_eq!(ended.stdout, hi.clone() + &hi);
        assert!(ended.stderr.contains(&format!("error: {name}: ")), "{}", ended.stderr);
        assert!(ended.stderr.contains("taken back"), "{}", ended.stderr);
    }
}

#[test]
fn a_message_too_long_for_the_context_is_taken_back() {
    let long = "word ".repeat(20_000);
    let ended = chat(&[&long, "Hi"]);
    assert_eq!(ended.stdout, Case::read("text_short").printed());
    assert!(ended.stderr.contains("the model's context holds 8192"), "{}", ended.stderr);
}

#[test]
fn an_unknown_command_is_told_and_not_sent_to_the_model() {
    let ended = chat(&["/images", "/image", "/help", "", "   "]);
    assert_eq!(ended.stdout, "");
    for part in ["/images is not a command; /help lists them", "/image needs a path or URL", "/undo      take"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn quit_leaves_and_what_follows_is_not_read() {
    for word in ["/quit", "/exit"] {
        assert_eq!(chat(&["Hi", word, "Hi"]).stdout, Case::read("text_short").printed());
    }
}

#[test]
fn two_slashes_begin_a_message_with_one() {
    assert_eq!(chat(&["//etc?"]).stdout, run(&["/etc?"]).stdout());
}

#[test]
fn json_is_a_line_for_each_reply() {
    let ended = chat_with(&["--json", "--quiet"], &["Hi", "And now?"]);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["ids"], *Case::read("text_short").new_tokens());
    assert!(lines[1]["usage"]["prompt_tokens"].as_u64() > lines[0]["usage"]["prompt_tokens"].as_u64());
    assert!(lines[1]["timings_seconds"]["total"].is_f64());
}

#[test]
fn no_prompt_sign_is_shown_to_a_pipe_and_quiet_says_nothing() {
    let ended = chat_with(&["--quiet"], &["Hi"]);
    assert_eq!((ended.stdout, ended.stderr.as_str()), (Case::read("text_short").printed(), ""));
}

#[test]
fn input_that_is_not_text_is_refused() {
    on_checkpoint("chat").stdin(*b"\xff\xfe\n").fails(3, &["standard input cannot be read", "UTF-8"]);
}

#[test]
fn options_out_of_range_are_refused_before_the_first_line() {
    on_checkpoint("chat").args(["--temperature=-1"]).stdin("Hi\n").fails(2, &["temperature is -1"]);
}
