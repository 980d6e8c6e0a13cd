//! Damaged files of every format: each gives frames or an error, in bounded time and memory.
//!
//! 20,000 by default; a night's run is
//! `SMOLVLM_MUTANTS=1000000 cargo test --release -p smolvlm-cli --test mutants -- --nocapture`. `SMOLVLM_MUTANT_SEED` chooses
//! other ones. A mutant that fails is written to the folder for temporary files, and its path printed.

#![allow(clippy::print_stdout, reason = "a table of what was tried")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, WorkerCommand, open_video};
use smolvlm::{Compat, Result};

const DEFAULT_COUNT: usize = 20_000;
const DEFAULT_SEED: u64 = 20_261_124;
/// Longest time that one mutant may take. Most take a millisecond.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most memory of the whole test, with all its threads.
const MAX_MEMORY: u64 = 512 << 20;
/// Files above this size are left to the tests that they belong to.
const MAX_FILE: u64 = 200_000;

struct Original {
    /// See [`format_of`].
    format: String,
    data: Vec<u8>,
}

/// What became of the mutants of one format.
#[derive(Default, Clone, Copy)]
struct Outcomes {
    pictures: usize,
    errors: usize,
    /// Errors that are the end of a process.
    ends: usize,
}

/// What became of one mutant.
enum Outcome {
    Picture,
    Error,
    End,
}

fn originals() -> Vec<Original> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["../smolvlm/tests/data/image", "../smolvlm/tests/data/video", "../../goldens/tiny/inputs"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(crate_folder.join(folder)).unwrap());
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let is_medium = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        !matches!(extension, "txt" | "py" | "json" | "" | "safetensors")
            && std::fs::metadata(path).unwrap().len() <= MAX_FILE
    };
    let read = |path: PathBuf| Original { format: format_of(&path), data: std::fs::read(&path).unwrap() };
    paths.into_iter().filter(is_medium).map(read).collect()
}

/// The extension, and what matters beside it.
fn format_of(path: &Path) -> String {
    let (stem, extension) = (path.file_stem().unwrap().to_string_lossy(), path.extension().unwrap().to_string_lossy());
    let mark = if stem.starts_with("av1") {
        "av1 "
    } else if stem == "animated" {
        "moving "
    } else {
        ""
    };
    format!("{mark}{extension}")
}

/// A damaged copy: one to four changes.
fn mutate(random: &mut ChaCha8Rng, original: &[u8], other: &[u8]) -> Vec<u8> {
    let mut data = original.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if data.len() < 8 {
            break;
        }
        change(random, &mut data, other);
    }
    // Else nearly every damaged PNG would be refused for its checksum alone.
    if random.random_bool(0.7) {
        mend_png(&mut data);
    }
    data
}

/// Gives every chunk of a PNG the checksum of what it holds now.
fn mend_png(data: &mut [u8]) {
    if !data.starts_with(b"\x89PNG\r\n\x1a\n") {
        return;
    }
    let mut chunks = &mut data[8..];
    while let Some(length) = chunks.first_chunk().map(|&length| u32::from_be_bytes(length) as usize)
        && let Some((chunk, rest)) = chunks.split_at_mut_checked(length.saturating_add(12))
    {
        let sum = crc32(&chunk[4..8 + length]);
        chunk[8 + length..].copy_from_slice(&sum.to_be_bytes());
        chunks = rest;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    !sum
}

fn change(random: &mut ChaCha8Rng, data: &mut Vec<u8>, other: &[u8]) {
    let at = random.random_range(0..data.len());
    // Headers are where most damage can be done.
    let at = if random.random_bool(0.4) { at % 256.min(data.len()) } else { at };
    let length = random.random_range(1..=(data.len() - at).min(64));
    match random.random_range(0..9) {
        0 => data[at] ^= 1 << random.random_range(0..8),
        1 => data[at] = *[0, 0xFF, 0x7F, 0x80, 1].choose(random).unwrap(),
        2 => data[at] = random.random(),
        3 => data.truncate(at.max(1)),
        4 => drop(data.drain(at..at + length)),
        5 => {
            let piece = data[at..at + length].to_vec();
            data.splice(at..at, piece);
        }
        6 => random.fill_bytes(&mut data[at..at + length]),
        // A length field: of boxes in mp4, of chunks in PNG, of segments in others.
        7 => {
            let value: u32 =
                *[0, 1, 7, 0x7FFF_FFFF, 0xFFFF_FFFF, data.len() as u32, 0x0001_0000].choose(random).unwrap();
            let end = (at + 4).min(data.len());
            data[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
        }
        _ => {
            let from = random.random_range(0..other.len().max(1));
            let piece = &other[from..other.len().min(from + length)];
            let end = (at + piece.len()).min(data.len());
            data.splice(at..end, piece.iter().copied());
        }
    }
}

fn is_video(format: &str) -> bool {
    let extension = format.rsplit(' ').next().unwrap();
    matches!(extension, "mp4" | "mkv" | "webm" | "mov") || format.starts_with("moving")
}

/// Reads what there is to read. `Ok` says whether there was a picture.
fn read(format: &str, data: Vec<u8>) -> Result<()> {
    let limits = MediaLimits {
        pixels: 1 << 20,
        decode_timeout: PATIENCE,
        // Of a process of its own; one that needs more counts among those that end.
        decode_memory: MAX_MEMORY,
        ..MediaLimits::default()
    };
    let source = MediaSource::Bytes { name: format!("mutant.{format}"), data: Arc::from(data) };
    if !is_video(format) {
        return ImageFile::open(&source, &limits, Compat::default())?.decode().map(|_| ());
    }
    // One decoder ends its process on some files, so it has one of its own.
    let worker = format.starts_with("av1").then(|| WorkerCommand {
        program: env!("CARGO_BIN_EXE_smolvlm").into(),
        arguments: vec!["media-worker".to_owned()],
    });
    let options = VideoOptions { reader: VideoReader::Embedded, worker, ..VideoOptions::default() };
    let mut video = open_video(&source, &limits, &options)?;
    let last = video.facts().frame_count - 1;
    let mut indices = vec![0, last / 2, last];
    indices.dedup();
    video.read(&indices, &mut |_| Ok(()))
}

/// The outcome, or why it must not be.
fn check(format: &str, data: Vec<u8>) -> std::result::Result<Outcome, String> {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| read(format, data))).map_err(|_| "a panic escaped".to_owned())?;
    if start.elapsed() > PATIENCE {
        return Err(format!("took {:?}", start.elapsed()));
    }
    match outcome {
        Ok(()) => Ok(Outcome::Picture),
        Err(error) if error.to_string().contains("gave nothing for") => Err(format!("hangs: {error}")),
        Err(error) if error.to_string().contains("contained") && format.starts_with("av1") => Ok(Outcome::End),
        Err(error) if error.to_string().contains("contained") => Err(format!("our own code panicked: {error}")),
        Err(error) if error.kind() == smolvlm::ErrorKind::Internal => Err(format!("called our defect: {error}")),
        Err(_) => Ok(Outcome::Error),
    }
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    let number = |text: String| text.parse().ok();
    std::env::var(name).map_or(Some(default), number).unwrap_or_else(|| panic!("{name} must be a number"))
}

/// Most memory that this process has taken, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[test]
fn mutants_of_every_format_give_pictures_or_errors() {
    let (count, seed) =
        (from_environment("SMOLVLM_MUTANTS", DEFAULT_COUNT), from_environment("SMOLVLM_MUTANT_SEED", DEFAULT_SEED));
    let originals = originals();
    assert!(originals.len() > 40, "only {} files to damage", originals.len());
    // Decoders that panic are contained; what they say of it would fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::<String, Outcomes>::new());
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count || failures.lock().unwrap().len() > 20 {
            return;
        }
        let original = &originals[number % originals.len()];
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64));
        let alike: Vec<&Original> = originals.iter().filter(|other| other.format == original.format).collect();
        let other = alike.choose(&mut random).unwrap();
        let mutant = mutate(&mut random, &original.data, &other.data);
        match check(&original.format, mutant.clone()) {
            Ok(found) => {
                let mut outcomes = outcomes.lock().unwrap();
                let outcome = outcomes.entry(original.format.clone()).or_default();
                match found {
                    Outcome::Picture => outcome.pictures += 1,
                    Outcome::Error => outcome.errors += 1,
                    Outcome::End => outcome.ends += 1,
                }
            }
            Err(why) => {
                let path = std::env::temp_dir().join(format!("mutant-{seed}-{number}.{}", original.format));
                std::fs::write(&path, mutant).unwrap();
                failures.lock().unwrap().push(format!("mutant {number} of seed {seed}, {}: {why}", path.display()));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let _ = std::panic::take_hook();
    println!("seed {seed}");
    for (format, Outcomes { pictures, errors, ends }) in outcomes.into_inner().unwrap() {
        let all = pictures + errors + ends;
        println!("{format:11} {all:7} mutants: {pictures} gave pictures, {errors} an error, {ends} ended a worker");
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if let Some(peak) = peak_memory() {
        println!("peak memory {} MiB", peak >> 20);
        assert!(peak < MAX_MEMORY, "peak memory {peak} bytes");
    }
}
