//! The processor without a model: sizes from headers, answers in prompts, files that are not needed.

use std::path::{Path, PathBuf};

use smolvlm::media::image::{ImageFile, read_size};
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::messages::{Content, Messages};
use smolvlm::prompt::{ChatTemplate, PromptTokenizer};
use smolvlm::{Compat, ErrorKind, MediaOptions, Processor};

fn tiny(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny").join(folder)
}

fn open(folder: &Path) -> smolvlm::Result<Processor> {
    Processor::open(folder, Compat::default(), MediaOptions::default())
}

#[test]
fn weights_are_not_needed_and_other_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let files =
        ["config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json", "chat_template.json"];
    for file in files {
        std::fs::copy(tiny("checkpoint").join(file), folder.path().join(file)).unwrap();
    }
    let processor = open(folder.path()).unwrap();
    assert_eq!(processor.image_token(), processor.tokenizer().id_of("<image>").unwrap());
    for file in ["config.json", "tokenizer.json", "chat_template.json"] {
        std::fs::rename(folder.path().join(file), folder.path().join("aside")).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint, "{file}: {error}");
        std::fs::rename(folder.path().join("aside"), folder.path().join(file)).unwrap();
    }
}

#[test]
fn sizes_from_headers_are_those_of_the_pictures() {
    let limits = MediaLimits::default();
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny("inputs")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "mp4") {
            assert!(read_size(&MediaSource::Path(path), &limits, Compat::default()).is_err());
            continue;
        }
        // Bytes after the picture make the file so long that only its beginning is read.
        let long = folder.path().join(path.file_name().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.resize(300_000, 0);
        std::fs::write(&long, bytes).unwrap();
        for compat in [Compat::Newest, Compat::Hf517] {
            let whole = ImageFile::open(&MediaSource::Path(path.clone()), &limits, compat).unwrap();
            for path in [&path, &long] {
                let size = read_size(&MediaSource::Path(path.clone()), &limits, compat);
                assert_eq!(size.unwrap(), (whole.width(), whole.height()), "{}", path.display());
            }
        }
    }
}

#[test]
fn a_complete_prompt_is_outlined_as_it_is_prepared() {
    let processor = open(&tiny("checkpoint")).unwrap();
    let input = |name: &str| tiny("inputs").join(name);
    let messages = Messages::new()
        .user([
            Content::image(input("large_150x114.png")),
            Content::video(input("short_64x48_10fps_5s.mp4")),
            Content::text("?"),
        ])
        .assistant("Yes.");
    let (outline, mut prepared) =
        (processor.outline_complete(&messages, true).unwrap(), processor.prepare_complete(&messages, true).unwrap());
    assert_eq!((outline.ids.as_slice(), outline.tiles), (prepared.ids(), prepared.tiles()));
    assert_eq!((outline.images, outline.videos, outline.frames), (1, 1, 5));
    assert_eq!((outline.replies.as_slice(), outline.replies.len()), (prepared.replies(), 1));
    assert!(processor.prepare_complete(&messages, false).unwrap().replies().is_empty());
    let read: usize = prepared.read_tiles(&processor).unwrap().iter().map(|medium| medium.tiles.len()).sum();
    assert_eq!(read, outline.tiles);
}

#[test]
fn a_template_that_rewrites_what_came_before_is_refused() {
    let template = ChatTemplate::from_caller(
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.role }}: {{ m.content[0].text }}\n{% endif %}{% endfor %}\
         {% if add_generation_prompt %}assistant:{% endif %}",
    )
    .unwrap();
    let once = Messages::new().user("a").assistant("b");
    let rendered = template.render(&once, false).unwrap();
    let spans = template.reply_spans(&once, &rendered).unwrap();
    assert_eq!((spans.len(), &rendered[spans[0].clone()]), (1, " b"));
    let twice = once.user("c").assistant("d");
    let error = template.reply_spans(&twice, &template.render(&twice, false).unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Checkpoint && error.to_string().contains("message 2"), "{error}");
}

#[test]
fn tokens_of_a_range_are_all_that_touch_it() {
    let tokenizer = PromptTokenizer::from_file(&tiny("checkpoint").join("tokenizer.json")).unwrap();
    let text = "User: héllo 世界<end_of_utterance>\nAssistant: 12 yes";
    let ids = tokenizer.encode(text).unwrap();
    // Where each token begins and ends, from decoding one more token at a time.
    let ends: Vec<usize> = (1..=ids.len())
        .map(|count| {
            let decoded = tokenizer.decode(&ids[..count], false);
            // An unfinished character is shown as U+FFFD and counts for as many bytes as its tokens have.
            if decoded.ends_with('\u{fffd}') { usize::MAX } else { decoded.len() }
        })
        .collect();
    for start in 0..text.len() {
        for end in start + 1..=text.len() {
            let tokens = tokenizer.tokens_of(&ids, text, std::slice::from_ref(&(start..end))).unwrap().remove(0);
            let first_end = ends[tokens.start];
            assert!(first_end > start, "{start}..{end}");
            let last = ends[tokens.end - 1];
            assert!(last >= end, "{start}..{end}");
            let before_last = tokens.end.checked_sub(2).map_or(0, |at| ends[at]);
            assert!(before_last == usize::MAX || before_last < end, "{start}..{end}");
            let before_first = tokens.start.checked_sub(1).map_or(0, |at| ends[at]);
            assert!(before_first == usize::MAX || before_first <= start, "{start}..{end}");
        }
    }
    let nothing = tokenizer.tokens_of(&ids, text, std::slice::from_ref(&(3..3))).unwrap();
    assert!(nothing[0].is_empty());
    assert!(tokenizer.tokens_of(&ids[1..], text, &[]).is_err());
}
