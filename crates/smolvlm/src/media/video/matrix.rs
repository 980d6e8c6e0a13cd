//! Decoded planes against ffmpeg's: of the clips of the tests, and, with planes, RGB and times, of a folder of clips.
//!
//! `SMOLVLM_VIDEO_MATRIX=FOLDER cargo test -p smolvlm --release --lib matrix -- --ignored --nocapture`

#![allow(clippy::print_stdout, reason = "a table of results")]

use std::path::Path;
use std::process::Command;

use super::bytes::ByteSource;
use super::embedded::EmbeddedVideo;
use super::picture::{Chroma, Picture, Planes};
use super::{VideoSource, sniff, yuv};
use crate::Result;
use crate::media::source::{MediaLimits, Opened};

/// Clips that are not read here, each for what its name says; `avc3` is broken, and refused by ffmpeg too.
const REFUSED: [&str; 9] = [
    "anim.gif",
    "h264_444.mp4",
    "h264_avc3.mp4",
    "h264_in.ts",
    "h264_lossless444pred.mp4",
    "hevc_422_10.mp4",
    "mjpeg.avi",
    "mjpeg.mov",
    "mpeg4.avi",
];

/// One frame as a tool or we see it: time, planes as raw bytes, RGB.
struct Seen {
    time: f64,
    planes: Vec<u8>,
    luma_bytes: usize,
    rgb: Vec<u8>,
    is_exact_rgb: bool,
}

fn raw(picture: &Picture) -> Vec<u8> {
    match &picture.planes {
        Planes::Byte(planes) => planes.concat(),
        Planes::Wide(planes) => planes.iter().flatten().flat_map(|sample| sample.to_le_bytes()).collect(),
    }
}

fn ours(path: &Path) -> Result<(String, Vec<Seen>)> {
    let limits = MediaLimits::default();
    let bytes = ByteSource::open(&Opened::File(path.to_owned()))?;
    let stream = super::open_stream(sniff::container(&bytes)?, bytes)?;
    let mut video = EmbeddedVideo::open("clip", stream, &limits)?;
    let codec = video.facts().codec.clone();
    let all: Vec<usize> = (0..video.facts().frame_count).collect();
    let times = video.timestamps().to_vec();
    let mut seen = Vec::new();
    video.read_pictures(&all, &mut |index, picture| {
        seen.push(Seen {
            time: times[index],
            planes: raw(&picture),
            luma_bytes: picture.width * picture.height * if picture.depth > 8 { 2 } else { 1 },
            is_exact_rgb: picture.depth == 8 && matches!(picture.chroma, Chroma::Yuv420 | Chroma::Yuv422),
            rgb: yuv::to_rgb(&picture).rgb,
        });
        Ok(())
    })?;
    Ok((codec, seen))
}

fn tool(name: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(name).args(arguments).output().expect("ffmpeg and ffprobe are needed");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn compare(path: &Path, seen: &[Seen]) -> std::result::Result<String, String> {
    let path = path.to_str().unwrap();
    let probe = tool(
        "ffprobe",
        &["-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "csv=p=0", path],
    );
    let times: Vec<f64> = String::from_utf8_lossy(&probe)
        .lines()
        .filter_map(|line| line.split(',').next()?.trim().parse().ok())
        .collect();
    if times.len() != seen.len() {
        return Err(format!("{} frames, ffmpeg has {}", seen.len(), times.len()));
    }
    for (index, (seen, time)) in seen.iter().zip(&times).enumerate() {
        if (seen.time - time).abs() > 0.001 {
            return Err(format!("frame {index} at {} s, ffmpeg says {time}", seen.time));
        }
    }
    let decode = |format: &[&str]| {
        let mut arguments =
            vec!["-v", "error", "-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"];
        arguments.extend_from_slice(format);
        arguments.extend_from_slice(&["-f", "rawvideo", "-"]);
        tool("ffmpeg", &arguments)
    };
    let planes = decode(&[]);
    let frame = planes.len() / seen.len().max(1);
    if frame == 0 || planes.len() % seen.len() != 0 {
        return Err(format!("ffmpeg gives {} bytes for {} frames", planes.len(), seen.len()));
    }
    for (index, (seen, expected)) in seen.iter().zip(planes.chunks(frame.max(1))).enumerate() {
        // Grey pictures have no chroma there.
        let found = if frame == seen.luma_bytes { &seen.planes[..frame] } else { &seen.planes };
        if found != expected {
            let first = found.iter().zip(expected).position(|(a, b)| a != b);
            return Err(format!(
                "frame {index}: planes differ from byte {first:?} of {} ({})",
                found.len(),
                expected.len()
            ));
        }
    }
    let rgb = decode(&["-sws_flags", "bilinear", "-pix_fmt", "rgb24"]);
    let mut worst = 0;
    for (seen, expected) in seen.iter().zip(rgb.chunks((rgb.len() / seen.len().max(1)).max(1))) {
        worst = seen.rgb.iter().zip(expected).map(|(&a, &b)| a.abs_diff(b)).max().unwrap_or(0).max(worst);
    }
    if seen[0].is_exact_rgb && worst > 0 {
        return Err(format!("planes equal, RGB differs by up to {worst}"));
    }
    Ok(format!("planes equal, RGB within {worst}"))
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

#[test]
fn planes_of_every_depth_and_layout_equal_ffmpegs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video");
    let text = std::fs::read_to_string(folder.join("planes.txt")).unwrap();
    let mut expected = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("  ") {
            None => expected.push((line, Vec::new())),
            Some(sum) => expected.last_mut().unwrap().1.push(u64::from_str_radix(sum, 16).unwrap()),
        }
    }
    assert!(expected.len() >= 14, "{}", expected.len());
    for (name, sums) in expected {
        let (_, seen) = ours(&folder.join(name)).unwrap();
        let found: Vec<u64> = seen.iter().map(|seen| checksum(&seen.planes)).collect();
        assert_eq!(found, sums, "{name}");
    }
}

#[test]
#[ignore = "needs a folder of clips in SMOLVLM_VIDEO_MATRIX, ffmpeg and ffprobe"]
fn every_clip_of_the_matrix_equals_ffmpegs() {
    let folder = std::env::var("SMOLVLM_VIDEO_MATRIX").expect("SMOLVLM_VIDEO_MATRIX names the folder");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut wrong = 0;
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let line = match ours(&path) {
            Err(error) => {
                wrong += usize::from(!REFUSED.contains(&name.as_str()));
                format!("refused: {error}")
            }
            Ok((codec, seen)) => match compare(&path, &seen) {
                Ok(result) => format!("{codec}, {} frames: {result}", seen.len()),
                Err(difference) => {
                    wrong += 1;
                    format!("{codec}: WRONG: {difference}")
                }
            },
        };
        println!("{name:30} {line}");
    }
    assert_eq!(wrong, 0, "clips that are read, but not as ffmpeg reads them");
}
