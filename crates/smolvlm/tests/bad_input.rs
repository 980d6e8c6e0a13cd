//! Files with random damage: loading ends in a model or an error, never in a panic, and soon.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use smolvlm::messages::{self, Content, Messages};
use smolvlm::{Dtype, ErrorKind, LoadOptions};
use tempfile::TempDir;

/// Damaged copies of each file.
const ROUNDS: usize = 300;

/// Far above what one test takes, far below what an endless loop or a runaway allocation would.
const TIME_LIMIT: Duration = Duration::from_secs(60);

fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny").join(path)
}

/// A copy of the reference checkpoint.
fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(goldens("checkpoint")).expect("the checkpoint") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    folder
}

/// Loads a checkpoint and, if that works, asks it for two tokens about a picture, whose outcome is its own affair as long
/// as it is not taken for a defect of ours.
fn load(folder: &Path) -> smolvlm::Result<()> {
    let options = LoadOptions { threads: 1, ..LoadOptions::default().dtype(Dtype::F32) };
    let mut model = options.load(folder.to_str().expect("UTF-8"))?;
    let picture = Content::image(goldens("inputs/thin_3x90.png"));
    let messages = Messages::new().user([picture, Content::text("What is it?")]);
    match model.generate(&messages, &model.default_options().max_new_tokens(2)) {
        Err(error) if error.kind() == ErrorKind::Internal => Err(error),
        _ => Ok(()),
    }
}

/// Pieces of JSON that turn up where something else is expected.
const STRANGERS: [&str; 16] = [
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "\"\"",
    "[]",
    "{}",
    "[[[[",
    "\"\\ud800\"",
    "999999999",
    "\u{0}",
    "\u{fe0f}",
];

/// `text` with one to three faults: bits flipped, bytes lost, doubled or cut off, values replaced by strangers.
fn damaged(text: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        let place = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let end = (place + rng.random_range(1..20)).min(bytes.len());
        match rng.random_range(0..8) {
            0 => bytes.truncate(place),
            1 | 2 if place < bytes.len() => bytes[place] ^= 1 << rng.random_range(0..8),
            3 => drop(bytes.drain(place..end)),
            4 => {
                let piece = bytes[place..end].to_vec();
                bytes.splice(place..place, piece);
            }
            _ => replace_value(&mut bytes, place, rng),
        }
    }
    bytes
}

/// Puts a stranger in the place of the first value after `place`.
fn replace_value(bytes: &mut Vec<u8>, place: usize, rng: &mut StdRng) {
    let rest = &bytes[place..];
    let Some(start) = rest.iter().position(|byte| *byte == b':').map(|colon| place + colon + 1) else { return };
    let length = bytes[start..].iter().position(|byte| b",}\n".contains(byte)).unwrap_or(bytes.len() - start);
    let stranger = STRANGERS.choose(rng).expect("some");
    bytes.splice(start..start + length, stranger.bytes());
}

/// Tries `attempt` on damaged copies of `text`; both outcomes must occur, so that the damage is neither too small nor
/// all of one kind. An error must be of the kind expected.
fn survives(seed: u64, text: &[u8], kind: ErrorKind, mut attempt: impl FnMut(&[u8]) -> smolvlm::Result<()>) {
    let (mut rng, started) = (StdRng::seed_from_u64(seed), Instant::now());
    let mut refused = 0;
    for round in 0..ROUNDS {
        let bytes = damaged(text, &mut rng);
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]).into_owned();
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| attempt(&bytes))) else {
            panic!("seed {seed}, round {round}: a panic on {}", shown());
        };
        if let Err(error) = outcome {
            refused += 1;
            assert_eq!(error.kind(), kind, "seed {seed}, round {round}: {error}, on {}", shown());
            assert!(error.to_string().len() < 10_000, "seed {seed}, round {round}: {error}");
        }
        assert!(started.elapsed() < TIME_LIMIT, "seed {seed}, round {round}: {:?} so far", started.elapsed());
    }
    assert!((1..ROUNDS).contains(&refused), "seed {seed}: {refused} of {ROUNDS} were refused");
}

/// Loads a checkpoint with damaged copies of one file.
fn loading_survives(seed: u64, file: &str) {
    let folder = checkpoint();
    let path = folder.path().join(file);
    let text = fs::read(&path).expect("read");
    survives(seed, &text, ErrorKind::Checkpoint, |bytes| {
        fs::write(&path, bytes).expect("written");
        load(folder.path())
    });
}

#[test]
fn a_damaged_config_is_a_model_or_an_error() {
    loading_survives(1, "config.json");
}

#[test]
fn damaged_processor_files_are_a_model_or_an_error() {
    loading_survives(2, "preprocessor_config.json");
    loading_survives(3, "processor_config.json");
}

#[test]
fn damaged_generation_settings_are_a_model_or_an_error() {
    loading_survives(4, "generation_config.json");
}

#[test]
fn a_damaged_chat_template_is_a_model_or_an_error() {
    loading_survives(5, "chat_template.json");
}

#[test]
fn a_damaged_tokenizer_is_a_model_or_an_error() {
    loading_survives(6, "tokenizer.json");
}

#[test]
fn a_damaged_weights_header_is_a_model_or_an_error() {
    let folder = checkpoint();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("read");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    survives(7, header, ErrorKind::Checkpoint, |header| {
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&length, header, data].concat()).expect("written");
        load(folder.path())
    });
}

#[test]
fn a_weights_file_damaged_anywhere_is_a_model_or_an_error() {
    let folder = checkpoint();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("read");
    // The length and the first entries, followed by everything else as it is.
    let (head, rest) = bytes.split_at(200);
    survives(8, head, ErrorKind::Checkpoint, |head| {
        fs::write(&path, [head, rest].concat()).expect("written");
        load(folder.path())
    });
}

#[test]
fn damaged_messages_are_a_conversation_or_an_error() {
    for (seed, case) in [(9, "two_images_interleaved"), (10, "text_multi_turn"), (11, "two_videos")] {
        let text = fs::read_to_string(goldens(&format!("cases/{case}.json"))).expect("a case");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        survives(seed, json["messages"].to_string().as_bytes(), ErrorKind::Input, |bytes| {
            // Whoever reads the file refuses what is not UTF-8.
            messages::parse(&String::from_utf8_lossy(bytes), Path::new("folder"), "chat.json").map(drop)
        });
    }
}
