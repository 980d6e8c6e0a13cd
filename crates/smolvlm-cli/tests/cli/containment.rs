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

/// What names a transport stream of a few packets, which only the tools read.
#[cfg(target_os = "linux")]
fn transport_stream() -> String {
    let packet = format!("G{}", "a".repeat(187));
    format!("data:,{}", packet.repeat(4))
}

/// `frames` on a transport stream, with `folder` for tools and temporary files.
#[cfg(target_os = "linux")]
fn frames_with_tools_of(folder: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_smolvlm"));
    command.args(["frames", "--quiet", &transport_stream()]).env("PATH", folder).env("TMPDIR", folder);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[cfg(target_os = "linux")]
fn is_there_within(patience: Duration, mut found: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !found() {
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_is_left_of_a_silent_tool_when_the_program_is_killed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (tool, note) = (folder.path().join("ffprobe"), folder.path().join("pid"));
    std::fs::write(
        &tool,
        format!("#!/bin/sh\necho $$ > {0}.new\n/bin/mv {0}.new {0}\nexec /bin/sleep 600\n", note.display()),
    )
    .unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = frames_with_tools_of(folder.path()).spawn().unwrap();
    assert!(is_there_within(Duration::from_secs(20), || note.exists()), "the tool never ran");
    let tool = PathBuf::from(format!("/proc/{}", std::fs::read_to_string(&note).unwrap().trim()));
    assert!(tool.exists());
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(is_there_within(Duration::from_secs(10), || !tool.exists()), "the tool goes on");
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["ffprobe", "pid"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_tool_that_is_not_there_is_named_with_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let output = frames_with_tools_of(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("mpegts") && text.contains("install ffmpeg"), "{text}");
}
