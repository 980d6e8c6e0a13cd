//! `smolvlm run`: what goes in as flags, messages files and batches, and comes out as the reference's replies.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::goldens::run;
use crate::common::{Case, cases, input};

/// A messages file in a folder of its own.
fn messages_file(messages: &Value) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("messages.json");
    fs::write(&path, messages.to_string()).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

fn answer(messages: &Value) -> String {
    let (_folder, path) = messages_file(messages);
    run(&["--messages", &path]).stdout()
}

#[test]
fn every_conversation_gets_the_replys_text_of_the_reference() {
    for case in cases() {
        let (_folder, path) = messages_file(&case.messages());
        assert_eq!(run(&["--messages", &path]).args(case.flags()).stdout(), case.printed(), "{}", case.name);
    }
}

#[test]
fn every_conversation_gets_the_tokens_of_the_reference_as_json() {
    for case in cases() {
        let (_folder, path) = messages_file(&case.messages());
        let value = run(&["--messages", &path, "--json"]).args(case.flags()).json();
        let reply = &value["replies"][0];
        assert_eq!(reply["ids"], *case.new_tokens(), "{}", case.name);
        assert_eq!(reply["text"], case.text(), "{}", case.name);
        let prompt = case.json["input_ids"].as_array().expect("ids").len();
        assert_eq!(reply["usage"]["prompt_tokens"], prompt, "{}", case.name);
    }
}

#[test]
fn a_prompt_alone_is_text() {
    assert_eq!(run(&["Hi"]).stdout(), Case::read("text_short").printed());
}

#[test]
fn an_image_stands_before_the_prompt() {
    let case = Case::read("image_square_48");
    assert_eq!(run(&["--image", &input("square_48.png"), "Can you describe this image?"]).stdout(), case.printed());
}

#[test]
fn a_video_stands_before_the_prompt() {
    let (case, video) = (Case::read("video_short"), input("short_64x48_10fps_5s.mp4"));
    assert_eq!(run(&["--video", &video, "Describe the video."]).stdout(), case.printed());
}

#[test]
fn several_images_stand_in_the_order_given_and_videos_after_them() {
    let (a, b) = (input("square_48.png"), input("wide_200x37.png"));
    let clip = input("short_64x48_10fps_5s.mp4");
    let block = |kind: &str, path: &str| json!({"type": kind, "path": path});
    let content = json!([block("image", &b), block("image", &a), block("video", &clip), {"type": "text", "text": "?"}]);
    let expected = answer(&json!([{"role": "user", "content": content}]));
    assert_eq!(run(&["--video", &clip, "--image", &b, "--image", &a, "?"]).stdout(), expected);
    assert_ne!(run(&["--video", &clip, "--image", &a, "--image", &b, "?"]).stdout(), expected);
}

#[test]
fn a_system_message_comes_first() {
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]);
    let expected = answer(&messages);
    assert_eq!(run(&["--system", "Be brief.", "Hi"]).stdout(), expected);
    assert_ne!(run(&["Hi"]).stdout(), expected);
}

#[test]
fn text_as_content_is_one_block_of_text() {
    let expected = Case::read("text_short").printed();
    assert_eq!(answer(&json!([{"role": "user", "content": "Hi"}])), expected);
    assert_eq!(answer(&json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])), expected);
}

#[test]
fn a_batch_file_gets_each_conversations_own_reply_in_order() {
    let names = ["text_only", "two_images_interleaved", "video_short", "text_short"];
    let cases: Vec<Case> = names.iter().map(|name| Case::read(name)).collect();
    let (_folder, path) = messages_file(&cases.iter().map(Case::messages).collect());
    let printed: String = cases.iter().enumerate().map(|(i, case)| format!("[{i}] {}", case.printed())).collect();
    assert_eq!(run(&["--messages", &path]).stdout(), printed);
    let value = run(&["--messages", &path, "--json"]).json();
    let ids: Vec<&Value> = value["replies"].as_array().expect("replies").iter().map(|reply| &reply["ids"]).collect();
    assert_eq!(ids, cases.iter().map(Case::new_tokens).collect::<Vec<_>>());
}

#[test]
fn a_list_of_one_conversation_is_answered_like_the_conversation() {
    let case = Case::read("text_only");
    assert_eq!(answer(&json!([case.messages()])), case.printed());
}

#[test]
fn relative_paths_start_at_the_files_folder_and_not_where_the_command_runs() {
    let (case, folder) = (Case::read("two_images_interleaved"), tempfile::tempdir().expect("a folder"));
    for inner in ["inputs", "cases", "elsewhere"] {
        fs::create_dir(folder.path().join(inner)).expect("a folder");
    }
    for picture in ["square_48.png", "wide_200x37.png"] {
        fs::copy(input(picture), folder.path().join("inputs").join(picture)).expect("copied");
    }
    fs::write(folder.path().join("cases/a.json"), case.json["messages"].to_string()).expect("written");
    let run_in = |place: &str, file: &str| run(&["--messages", file]).within(&folder.path().join(place)).stdout();
    assert_eq!(run_in("elsewhere", "../cases/a.json"), case.printed());
    assert_eq!(run_in("cases", "a.json"), case.printed());
    assert_eq!(run_in("", "cases/a.json"), case.printed());
}

#[test]
fn paths_on_the_command_line_start_where_the_command_runs() {
    let inputs = input("");
    let command = run(&["--image", "square_48.png", "Can you describe this image?"]).within(Path::new(&inputs));
    assert_eq!(command.stdout(), Case::read("image_square_48").printed());
}

#[test]
fn a_data_url_is_the_picture_itself() {
    let bytes = fs::read(input("square_48.png")).expect("a picture");
    let encoded: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!("data:image/png,{encoded}");
    let case = Case::read("image_square_48");
    assert_eq!(run(&["--image", &url, "Can you describe this image?"]).stdout(), case.printed());
    let content = json!([{"type": "image", "url": url}, {"type": "text", "text": "Can you describe this image?"}]);
    assert_eq!(answer(&json!([{"role": "user", "content": content}])), case.printed());
}

#[test]
fn a_file_url_is_a_path_with_its_escapes_undone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(input("square_48.png"), folder.path().join("a b.png")).expect("copied");
    let url = format!("file://{}/a%20b.png", folder.path().display());
    let printed = Case::read("image_square_48").printed();
    assert_eq!(run(&["--image", &url, "Can you describe this image?"]).stdout(), printed);
}

#[test]
fn a_folder_of_frames_is_a_video_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in [("exif2_32x20.jpg", "10.jpg"), ("exif3_32x20.jpg", "9.jpg"), ("exif4_32x20.jpg", "1.jpg")] {
        fs::copy(input(from), folder.path().join(to)).expect("copied");
    }
    let frames = folder.path().display().to_string();
    let value = run(&["--video", &frames, "--json", "What happens?"]).json();
    assert_eq!(value["replies"][0]["usage"]["image_tokens"], 3 * 4);
}

#[test]
fn the_embedded_reader_and_ffmpeg_see_the_same_video() {
    let (case, video) = (Case::read("video_short"), input("short_64x48_10fps_5s.mp4"));
    let command = |reader| run(&["--video", &video, "--video-reader", reader, "Describe the video."]);
    assert_eq!(command("embedded").stdout(), case.printed());
    if std::process::Command::new("ffmpeg").arg("-version").output().is_ok() {
        assert_eq!(command("ffmpeg").stdout(), case.printed());
    }
}

#[test]
fn a_reader_that_goes_away_early_ends_the_command_quietly() {
    let ended = run(&["--quiet", "Hi"]).run_unread();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let ended = run(&["--quiet", "--json", "Hi"]).run_unread();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}
