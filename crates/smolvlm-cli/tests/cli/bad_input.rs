//! Exit code 3: files, messages and prompts that cannot be used.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::goldens::{on_checkpoint, run};
use crate::common::{Ended, input};

/// A folder with one file in it.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

/// The first `share` of a reference input.
fn truncated(name: &str, share: f64) -> (TempDir, String) {
    let bytes = fs::read(input(name)).expect("an input");
    file(name, &bytes[..(bytes.len() as f64 * share) as usize])
}

#[track_caller]
fn image_is_refused(path: &str, parts: &[&str]) {
    run(&["--image", path, "Hi"]).fails(3, &[&[path], parts].concat());
}

#[track_caller]
fn video_is_refused(path: &str, parts: &[&str]) {
    run(&["--video", path, "Hi"]).fails(3, &[&[path], parts].concat());
}

#[test]
fn a_missing_file_is_named() {
    image_is_refused("/no/such/cat.png", &["there is no such file"]);
    video_is_refused("/no/such/cat.mp4", &["No such file"]);
    run(&["--messages", "/no/such/chat.json"]).fails(3, &["/no/such/chat.json", "cannot be read"]);
}

#[test]
fn an_empty_file_is_neither_picture_nor_video() {
    let (_folder, path) = file("empty.png", "");
    image_is_refused(&path, &["the file is empty"]);
    video_is_refused(&path, &["empty"]);
    let (_folder, path) = file("empty.json", "");
    run(&["--messages", &path]).fails(3, &[&path, "not JSON"]);
}

#[test]
fn text_is_neither_picture_nor_video() {
    let (_folder, path) = file("cat.png", "This is not a picture.");
    image_is_refused(&path, &["not a picture of a known format", "JPEG, PNG, WebP, GIF, BMP or TIFF"]);
    video_is_refused(&path, &["not a video"]);
    let (_folder, path) = file("cat.jpg", "<html>404</html>");
    image_is_refused(&path, &["text (HTML or SVG)"]);
}

#[test]
fn a_video_is_no_picture_and_a_picture_no_video() {
    image_is_refused(&input("short_64x48_10fps_5s.mp4"), &["this is a video"]);
    for name in ["square_48.png", "photo_420_101x67.jpg", "lossy_46x34.webp"] {
        video_is_refused(&input(name), &["not a video in a known container (mp4, mov"]);
    }
}

#[test]
fn a_folder_is_no_picture_and_a_folder_without_frames_no_video() {
    let (folder, _path) = file("notes.txt", "no frame");
    let path = folder.path().display().to_string();
    image_is_refused(&path, &["it is a folder"]);
    video_is_refused(&path, &["holds no frames", "png, jpg"]);
}

#[test]
fn frames_of_different_sizes_are_no_video() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(input("square_48.png"), folder.path().join("1.png")).expect("copied");
    fs::copy(input("wide_200x37.png"), folder.path().join("2.png")).expect("copied");
    let path = folder.path().display().to_string();
    run(&["--video", &path, "Hi"]).fails(3, &["2.png", "200×37", "48×48"]);
}

#[test]
fn truncated_pictures_are_refused_at_every_length() {
    for name in [
        "square_48.png",
        "grey16_30x21.png",
        "palette_transparent_60x44.png",
        "photo_420_101x67.jpg",
        "progressive_101x67.jpg",
        "cmyk_40x30.jpg",
        "lossless_46x34.webp",
        "palette_46x34.gif",
    ] {
        for share in [0.002, 0.05, 0.3, 0.6] {
            let (_folder, path) = truncated(name, share);
            let ended = run(&["--image", &path, "-n", "1", "Hi"]).run();
            // libjpeg fills what is missing with grey; everything else is refused.
            if ended.code != 0 || !name.ends_with("jpg") {
                ended.failed(3, &[&path]);
            }
        }
    }
}

#[test]
fn a_jpeg_without_its_header_is_refused() {
    let (_folder, path) = truncated("photo_420_101x67.jpg", 0.02);
    image_is_refused(&path, &["broken JPEG file"]);
}

#[test]
fn corrupt_bytes_in_a_picture_end_in_an_answer_or_an_error_that_names_it() {
    for name in ["square_48.png", "photo_420_101x67.jpg", "lossy_46x34.webp", "palette_46x34.gif"] {
        let bytes = fs::read(input(name)).expect("an input");
        for i in 0..12 {
            let mut bytes = bytes.clone();
            let place = 4 + i * (bytes.len() - 4) / 12;
            bytes[place..].iter_mut().take(3).for_each(|byte| *byte ^= 0xA5);
            let (_folder, path) = file(name, &bytes);
            let ended = run(&["--image", &path, "-n", "1", "Hi"]).run();
            if ended.code != 0 {
                ended.failed(3, &[&path]);
            }
        }
    }
}

#[test]
fn a_picture_that_announces_a_huge_size_is_refused_without_being_allocated() {
    let mut png = fs::read(input("square_48.png")).expect("an input");
    // Width and height follow the signature, the chunk's length and its name.
    png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let (_folder, path) = file("huge.png", &png);
    image_is_refused(&path, &[]);
    let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend([0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 24, 0]);
    bmp.resize(64, 0);
    let (_folder, path) = file("huge.bmp", &bmp);
    image_is_refused(&path, &["65535x65535", "at most 200000000"]);
}

#[test]
fn truncated_videos_end_in_an_answer_or_an_error_that_names_them() {
    for share in [0.001, 0.02, 0.5, 0.9] {
        let (_folder, path) = truncated("short_64x48_10fps_5s.mp4", share);
        let ended = run(&["--video", &path, "-n", "1", "Hi"]).run();
        if ended.code != 0 {
            ended.failed(3, &[&path]);
        }
    }
}

#[test]
fn a_video_without_its_index_is_refused_by_either_reader() {
    let bytes = fs::read(input("short_64x48_10fps_5s.mp4")).expect("an input");
    let index = bytes.windows(4).position(|name| name == b"moov").expect("an index");
    let mut bytes = bytes;
    bytes[index..index + 4].copy_from_slice(b"lost");
    let (_folder, path) = file("clip.mp4", &bytes);
    video_is_refused(&path, &[]);
    run(&["--video-reader", "embedded", "--video", &path, "Hi"]).fails(3, &[&path]);
}

#[test]
fn malformed_urls_are_named_and_not_flooded() {
    image_is_refused("data:image/png;base64,***", &["base64 content is malformed"]);
    image_is_refused("data:image/png", &["needs a comma"]);
    run(&["--image", "file:/no/such/cat.png", "Hi"]).fails(3, &["/no/such/cat.png", "no such file"]);
    image_is_refused("ftp://host/cat.png", &["only http"]);
    let ended = run(&["--image", &format!("data:,{}", "x".repeat(100_000)), "Hi"]).fails(3, &["data:,xxx"]);
    assert!(ended.stderr.len() < 1000, "{} bytes of error", ended.stderr.len());
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let ended = run(&[&"word ".repeat(12_000)]).fails(3, &["the model's context holds 8192"]);
    assert!(ended.stderr.len() < 1000, "{} bytes of error", ended.stderr.len());
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_before_its_pictures_are_decoded() {
    // Its header says enough to count its tokens; decoding it would fail.
    let (_folder, path) = truncated("square_48.png", 0.5);
    run(&["--image", &path, &"word ".repeat(12_000)]).fails(3, &["the model's context holds 8192"]);
}

#[test]
fn pictures_that_alone_fill_the_context_are_refused_before_they_are_decoded() {
    let picture = input("square_48.png");
    let images: Vec<&str> = std::iter::repeat_n(["--image", picture.as_str()], 400).flatten().collect();
    // 400 pictures of 20 × 20 tiles and a global view, of 4 tokens each.
    run(&["--longest-edge", "480"]).args(images).arg("Hi").fails(3, &["641600 image tokens", "context holds 8192"]);
}

#[test]
fn a_literal_placeholder_is_refused_wherever_it_stands() {
    for text in ["<image> what?", "what <video>"] {
        run(&[text]).fails(3, &["message 1 (user)", "stands for a medium"]);
        run(&["--system", text, "Hi"]).fails(3, &["message 1 (system)"]);
    }
}

fn messages_are_refused(messages: &str, parts: &[&str]) -> Ended {
    let (_folder, path) = file("chat.json", messages);
    let refused = run(&["--messages", &path]).fails(3, &[&[path.as_str()], parts].concat());
    let out = PathBuf::from(&path).with_file_name("never.safetensors");
    on_checkpoint("trace").args(["--messages", &path, "--out"]).arg(&out).fails(3, parts);
    assert!(!out.exists());
    refused
}

#[test]
fn a_fault_in_a_messages_file_is_told_with_its_place() {
    let user = |content: Value| json!([{"role": "user", "content": content}]).to_string();
    for (messages, part) in [
        ("[{]".to_owned(), "not JSON"),
        ("{}".to_owned(), "expected a list of messages"),
        ("[]".to_owned(), "expected a list of messages"),
        ("[[]]".to_owned(), "[0]: expected a list of messages"),
        ("[3]".to_owned(), "[0]: expected a message"),
        (user(Value::Null), "[0]: `content`"),
        (user(json!([{"type": "text", "text": "a"}, {"type": "sound"}])), "[0].content[1]: `type`"),
        (user(json!([{"type": "text"}])), "[0].content[0]: `text`"),
        (user(json!([{"type": "image"}])), "[0].content[0]: expected exactly one of image, url, path, base64"),
        (user(json!([{"type": "image", "base64": "!"}])), "[0].content[0].base64: not base64"),
        (json!([{"content": "Hi"}]).to_string(), "[0]: `role`"),
        (json!([[{"role": "user", "content": "Hi"}], [{"role": "user"}]]).to_string(), "[1][0]: `content`"),
        ("[".repeat(100_000), "not JSON"),
    ] {
        messages_are_refused(&messages, &[part]);
    }
}

#[test]
fn a_file_of_a_batch_is_told_with_its_conversation() {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let picture = user(json!([{"type": "image", "path": "missing.png"}]));
    let (_folder, path) = file("chat.json", json!([user(json!("Hi")), picture]).to_string());
    run(&["--messages", &path]).fails(3, &["conversation 1: ", "missing.png", "no such file"]);
    let long = user("word ".repeat(12_000).into());
    let (_folder, path) = file("chat.json", json!([user(json!("Hi")), long]).to_string());
    run(&["--messages", &path]).fails(3, &["conversation 1: ", "context holds 8192"]);
    let (_folder, cut) = truncated("square_48.png", 0.5);
    let broken = user(json!([{"type": "image", "path": cut}]));
    let (_folder, path) = file("chat.json", json!([user(json!("Hi")), broken]).to_string());
    run(&["--messages", &path]).fails(3, &["conversation 1: ", &cut]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_messages_file_without_end_is_given_up() {
    run(&["--messages", "/dev/zero"]).fails(3, &["/dev/zero", "at most 268435456 bytes"]);
}

#[test]
fn a_messages_file_that_is_not_text_or_is_a_folder_is_refused() {
    let (folder, path) = file("chat.json", b"\xff\xfe[]");
    run(&["--messages", &path]).fails(3, &[&path, "cannot be read"]);
    let folder = folder.path().display().to_string();
    run(&["--messages", &folder]).fails(3, &[&folder, "cannot be read"]);
}
