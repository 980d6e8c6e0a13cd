//! The embedded video reader against torchcodec, and against damaged files.
//!
//! The clips and what torchcodec makes of them are written by `data/video/make_clips.py`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvlm::media::Frame;
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, VideoSource, open_video};

/// AV1 is decoded in a process of its own only: the program's tests have it.
const CLIPS: [&str; 11] = [
    "animated.gif",
    "animated.png",
    "b_frames.mkv",
    "b_frames.mp4",
    "cut_turned.mp4",
    "fragments.mp4",
    "hevc.mp4",
    "hevc_cut.mp4",
    "interlaced.mp4",
    "vp8.webm",
    "vp9.webm",
];

/// What torchcodec says of a clip.
struct Expected {
    codec: String,
    container: String,
    rate: f64,
    duration: f64,
    size: (usize, usize),
    /// Time and checksum of each frame.
    frames: Vec<(f64, u64)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video")
}

fn clip(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn expected(name: &str) -> Expected {
    let text = std::fs::read_to_string(folder().join("expected.txt")).unwrap();
    let mut lines = text.lines().skip_while(|line| line.split(' ').next() != Some(name));
    let head: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let frames = lines.take_while(|line| line.starts_with(' ')).map(|line| {
        let (time, checksum) = line.trim().split_once(' ').unwrap();
        (time.parse().unwrap(), u64::from_str_radix(checksum, 16).unwrap())
    });
    Expected {
        codec: head[1].to_owned(),
        container: head[2].to_owned(),
        rate: head[4].parse().unwrap(),
        duration: head[5].parse().unwrap(),
        size: (head[6].parse().unwrap(), head[7].parse().unwrap()),
        frames: frames.collect(),
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn open(name: &str, data: Vec<u8>) -> smolvlm::Result<Box<dyn VideoSource>> {
    let source = MediaSource::Bytes { name: name.to_owned(), data: Arc::from(data) };
    open_video(&source, &MediaLimits::default(), &embedded())
}

fn embedded() -> VideoOptions {
    VideoOptions { reader: VideoReader::Embedded, ..VideoOptions::default() }
}

fn read(video: &mut dyn VideoSource, indices: &[usize]) -> smolvlm::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut sink = |frame| {
        frames.push(frame);
        Ok(())
    };
    video.read(indices, &mut sink)?;
    Ok(frames)
}

#[test]
fn facts_times_and_pixels_equal_torchcodecs() {
    for name in CLIPS {
        let expected = expected(name);
        let mut video = open(name, clip(name)).unwrap();
        let facts = video.facts().clone();
        assert_eq!((facts.width, facts.height), expected.size, "{name}");
        assert_eq!((facts.average_rate, facts.duration), (expected.rate, expected.duration), "{name}");
        assert_eq!((facts.codec, facts.container), (expected.codec, expected.container), "{name}");
        assert!(facts.constant_rate, "{name}");
        let all: Vec<usize> = (0..facts.frame_count).collect();
        let frames = read(&mut *video, &all).unwrap();
        let seen: Vec<(f64, u64)> = frames.iter().map(|frame| (frame.time, checksum(&frame.image.rgb))).collect();
        assert_eq!(seen, expected.frames, "{name}");
        assert_eq!(video.timestamps(), frames.iter().map(|frame| frame.time).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_cut_off_matroska_file_is_read_up_to_its_last_whole_frame() {
    let data = clip("b_frames.mkv");
    let whole = open("b_frames.mkv", data.clone()).unwrap().facts().frame_count;
    let mut before = whole;
    for cut in (data.len() * 4 / 5..data.len()).rev().step_by(37) {
        let mut video = open("b_frames.mkv", data[..cut].to_vec()).unwrap();
        let frames = video.facts().frame_count;
        assert!(frames <= before, "{frames} frames of {cut} bytes, {before} of more");
        assert_eq!(read(&mut *video, &(0..frames).collect::<Vec<_>>()).unwrap().len(), frames, "{cut} bytes");
        before = frames;
    }
    assert!(before < whole, "{before}");
}

#[test]
fn av1_is_not_decoded_in_this_process() {
    let error = open("av1.mp4", clip("av1.mp4")).err().unwrap().to_string();
    assert!(error.contains("AV1") && error.contains("VideoOptions::worker"), "{error}");
}

#[test]
fn an_animated_webp_shows_what_was_drawn_within_one_level() {
    let mut video = open("animated.webp", clip("animated.webp")).unwrap();
    let frames = read(&mut *video, &[0, 1, 2]).unwrap();
    assert_eq!(frames.iter().map(|frame| frame.time).collect::<Vec<_>>(), [0.0, 0.04, 0.24]);
    assert_eq!((video.facts().codec.as_str(), video.facts().duration), ("webp", 0.32));
    for (step, frame) in frames.iter().enumerate() {
        for (at, pixel) in frame.image.rgb.chunks(3).enumerate() {
            let (row, column) = (at / 24, at % 24);
            let is_box = (2..12).contains(&row) && (4 * step..4 * step + 8).contains(&column);
            let drawn = if is_box { [250, 40 * step as u8, 30] } else { [10, 60, 200] };
            // The decoder blends opaque pixels too, and loses a level by it.
            let is_near = pixel.iter().zip(drawn).all(|(found, drawn)| found.abs_diff(drawn) <= 1);
            assert!(is_near, "frame {step}, row {row}, column {column}: {pixel:?}");
        }
    }
}

#[test]
fn a_frame_read_alone_equals_the_one_read_in_passing() {
    for name in CLIPS {
        let expected = expected(name).frames;
        let mut video =
            open_video(&MediaSource::Path(folder().join(name)), &MediaLimits::default(), &embedded()).unwrap();
        for index in (0..expected.len()).rev() {
            let frames = read(&mut *video, &[index]).unwrap();
            assert_eq!(checksum(&frames[0].image.rgb), expected[index].1, "{name}: frame {index}");
        }
        for step in [2, 3, 7] {
            let some: Vec<usize> = (1..expected.len()).step_by(step).collect();
            for frame in read(&mut *video, &some).unwrap() {
                assert_eq!(checksum(&frame.image.rgb), expected[frame.index].1, "{name}: every {step}th frame");
            }
        }
    }
}

#[test]
fn indices_that_descend_or_exceed_the_video_are_refused() {
    let mut video = open("b_frames.mp4", clip("b_frames.mp4")).unwrap();
    for indices in [&[1, 0][..], &[1, 1], &[15]] {
        let error = read(&mut *video, indices).unwrap_err();
        assert_eq!(error.kind(), smolvlm::ErrorKind::Usage, "{indices:?}");
    }
}

#[test]
fn an_error_of_the_sink_ends_the_reading() {
    let mut video = open("b_frames.mp4", clip("b_frames.mp4")).unwrap();
    let mut seen = 0;
    let error = video.read(&[0, 1, 2], &mut |_| {
        seen += 1;
        Err(smolvlm::Error::internal("enough"))
    });
    assert_eq!((seen, error.unwrap_err().to_string().as_str()), (1, "enough"));
}

#[test]
fn a_cut_off_fragmented_file_is_read_as_far_as_it_goes() {
    let whole = clip("fragments.mp4");
    let cut = whole[..whole.len() * 2 / 3].to_vec();
    let mut video = open("cut.mp4", cut).unwrap();
    let count = video.facts().frame_count;
    assert!((5..15).contains(&count), "{count}");
    let all: Vec<usize> = (0..count).collect();
    let expected = expected("fragments.mp4").frames;
    for frame in read(&mut *video, &all).unwrap() {
        // The last fragment's frames may lack one that is shown earlier and decoded later.
        assert!(expected.iter().any(|&(_, sum)| sum == checksum(&frame.image.rgb)), "frame {}", frame.index);
    }
}

#[test]
fn what_is_not_a_video_is_named() {
    let refuse = |data: &[u8]| open("thing", data.to_vec()).err().unwrap().to_string();
    assert!(refuse(b"").contains("thing: is an empty file"));
    assert!(refuse(b"just some text, at length").contains("it begins with 6a 75"));
    assert!(refuse(b"\0\0\0\x10ftypisom\0\0\0\0").contains("no index"));
    assert!(refuse(b"RIFF\0\0\0\0AVI LIST and so on").contains("avi"));
}

#[test]
fn frames_above_the_pixel_limit_are_refused_before_decoding() {
    let source = MediaSource::Path(folder().join("b_frames.mp4"));
    let limits = MediaLimits { pixels: 1000, ..MediaLimits::default() };
    let error = open_video(&source, &limits, &embedded()).err().unwrap().to_string();
    assert!(error.contains("70×46"), "{error}");
}

/// xorshift64*: the same mutants on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// A damaged copy: bytes changed, a 32-bit field set to an extreme, the end cut off, or a stretch moved.
fn mutant(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = original.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len().saturating_sub(8).max(1));
        match random.below(8) {
            0..3 => data[at] = random.below(256) as u8,
            3 => data[at] ^= 1 << random.below(8),
            4..6 => {
                let extreme = [0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, 0x00FF_FFFF][random.below(7)];
                data[at..at + 4].copy_from_slice(&extreme.to_be_bytes());
            }
            6 => data.truncate(at.max(16)),
            _ => {
                let end = (at + random.below(64)).min(data.len());
                let to = random.below(data.len() - (end - at) + 1);
                data.copy_within(at..end, to);
            }
        }
    }
    data
}

/// Peak resident memory of this process in KiB, where the system tells.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn damaged_files_neither_panic_nor_hang_nor_fill_the_memory() {
    let mut random = Random(0x5EED_0F01_D5A3_77A1);
    let mut opened = 0;
    for name in CLIPS {
        let original = clip(name);
        for number in 0..250 {
            let started = std::time::Instant::now();
            if let Ok(mut video) = open("mutant", mutant(&original, &mut random)) {
                opened += 1;
                let all: Vec<usize> = (0..video.facts().frame_count.min(40)).collect();
                // Damage is an error or a wrong picture, but always an end.
                let _ = read(&mut *video, &all);
            }
            assert!(started.elapsed().as_secs() < 10, "{name}: mutant {number} took {:?}", started.elapsed());
        }
    }
    assert!(opened > 100, "only {opened} mutants got as far as the decoder");
    assert!(peak_memory().is_none_or(|kib| kib < 2 << 20), "peak memory {:?} KiB", peak_memory());
}
