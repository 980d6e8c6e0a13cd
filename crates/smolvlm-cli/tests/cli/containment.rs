//! Decoders in a process of their own: what they do to it stays there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, VideoSource, WorkerCommand, open_video};
use smolvlm::{ErrorKind, Result};

fn clip() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny/inputs/short_64x48_10fps_5s.mp4")
}

/// Time and checksum of each frame, as torchcodec reads them.
fn expected(name: &str) -> Vec<(f64, u64)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../smolvlm/tests/data/video");
    let text = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
    let lines = text.lines().skip_while(|line| line.split(' ').next() != Some(name)).skip(1);
    let parse = |line: &str| {
        let (time, sum) = line.trim().split_once(' ').unwrap();
        (time.parse().unwrap(), u64::from_str_radix(sum, 16).unwrap())
    };
    lines.take_while(|line| line.starts_with(' ')).map(parse).collect()
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn open(program: &str, arguments: &[&str], limits: &MediaLimits) -> Result<Box<dyn VideoSource>> {
    let worker =
        WorkerCommand { program: program.into(), arguments: arguments.iter().map(|&a| a.to_owned()).collect() };
    let options = VideoOptions { reader: VideoReader::Embedded, worker: Some(worker), ..VideoOptions::default() };
    open_video(&MediaSource::Path(clip()), limits, &options)
}

fn own_worker(limits: &MediaLimits) -> Result<Box<dyn VideoSource>> {
    open(env!("CARGO_BIN_EXE_smolvlm"), &["media-worker"], limits)
}

#[test]
fn av1_is_decoded_apart_as_torchcodec_decodes_it() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../smolvlm/tests/data/video/av1.mp4");
    let arguments = vec!["media-worker".to_owned()];
    let worker = WorkerCommand { program: env!("CARGO_BIN_EXE_smolvlm").into(), arguments };
    let options = VideoOptions { reader: VideoReader::Embedded, worker: Some(worker), ..VideoOptions::default() };
    let mut video = open_video(&MediaSource::Path(path), &MediaLimits::default(), &options).unwrap();
    let expected = expected("av1.mp4");
    assert_eq!(expected.len(), 15);
    for step in [1, 4] {
        let indices: Vec<usize> = (0..expected.len()).step_by(step).collect();
        let mut seen = Vec::new();
        let mut sink = |frame: smolvlm::media::Frame| {
            seen.push((frame.time, checksum(&frame.image.rgb)));
            Ok(())
        };
        video.read(&indices, &mut sink).unwrap();
        assert_eq!(seen, indices.iter().map(|&index| expected[index]).collect::<Vec<_>>());
    }
}

fn frames(video: &mut dyn VideoSource, indices: &[usize]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    video.read(indices, &mut |frame| {
        frames.push(frame.image.rgb);
        Ok(())
    })?;
    Ok(frames)
}

#[test]
fn the_worker_gives_what_a_thread_gives() {
    let limits = MediaLimits::default();
    let options = VideoOptions { reader: VideoReader::Embedded, ..VideoOptions::default() };
    let mut here = open_video(&MediaSource::Path(clip()), &limits, &options).unwrap();
    let mut there = own_worker(&limits).unwrap();
    assert_eq!(here.facts(), there.facts());
    assert_eq!(here.timestamps(), there.timestamps());
    let last = here.facts().frame_count - 1;
    for indices in [vec![0, 7, last], vec![3]] {
        assert!(frames(&mut *here, &indices).unwrap() == frames(&mut *there, &indices).unwrap(), "{indices:?}");
    }
    // After a reader that stopped early, the next request gets its own frames.
    assert!(there.read(&[0, 1, 2], &mut |_| Err(smolvlm::Error::input("enough"))).is_err());
    assert!(frames(&mut *here, &[9]).unwrap() == frames(&mut *there, &[9]).unwrap());
}

#[test]
#[cfg(unix)]
fn a_worker_that_aborts_is_an_error_with_its_last_words() {
    let script = "echo the decoder is sorry >&2; kill -ABRT $$";
    let error = open("sh", &["-c", script], &MediaLimits::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
    let text = error.to_string();
    assert!(
        text.contains("short_64x48") && text.contains("the decoder is sorry") && text.contains("signal: 6"),
        "{text}"
    );
}

#[test]
#[cfg(unix)]
fn a_worker_that_hangs_is_stopped_in_time() {
    let limits = MediaLimits { decode_timeout: Duration::from_millis(300), ..MediaLimits::default() };
    let start = Instant::now();
    let error = open("sh", &["-c", "exec sleep 1000"], &limits).err().unwrap().to_string();
    assert!(error.contains("gave nothing for 0.3 s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_that_needs_more_memory_than_it_may_take_ends_alone() {
    let limits = MediaLimits { decode_memory: 1 << 20, ..MediaLimits::default() };
    let ends = own_worker(&limits).and_then(|mut video| frames(&mut *video, &[0, 49]));
    let text = ends.err().unwrap().to_string();
    assert!(text.contains("contained"), "{text}");
}

#[test]
#[cfg(unix)]
fn a_worker_that_talks_nonsense_is_an_error() {
    for script in [
        "head -c 5000 /dev/zero",
        "printf 'I\\377\\377\\377\\377\\377\\377\\377\\377'",
        "printf 'F\\002\\0\\0\\0\\0\\0\\0\\0{}'",
    ] {
        assert!(open("sh", &["-c", script], &MediaLimits::default()).is_err(), "{script}");
    }
    let missing = open("no-such-program-as-this", &[], &MediaLimits::default()).err().unwrap();
    assert!(missing.to_string().contains("no-such-program-as-this"), "{missing}");
}
