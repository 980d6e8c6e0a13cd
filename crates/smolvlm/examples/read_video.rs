//! Times the reading of a video: `cargo run --release -p smolvlm --example read_video -- VIDEO [all | FRAMES]`
//!
//! Without a second argument, the frames that a published 256M model sees (one a second, at most 64) become its tiles.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Instant;

use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, open_video};
use smolvlm::preprocess::geometry::{Size, fit_frame};
use smolvlm::preprocess::resample::{Arithmetic, Filter, Resampler};
use smolvlm::preprocess::sampling::SamplingRule;
use smolvlm::{Error, Result};

/// Pixels along a side of a tile of the 256M model.
const TILE: usize = 512;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or_else(|| Error::usage("usage: read_video VIDEO [all | FRAMES]"))?;
    let wanted = args.next();

    let started = Instant::now();
    let source = MediaSource::Path(path.into());
    let options = VideoOptions { reader: VideoReader::Embedded, ..VideoOptions::default() };
    let mut video = open_video(&source, &MediaLimits::default(), &options)?;
    let opened = started.elapsed();
    let facts = video.facts().clone();
    let total = facts.frame_count;
    let indices: Vec<usize> = match wanted.as_deref() {
        Some("all") => (0..total).collect(),
        Some(count) => {
            let count: usize = count.parse().map_err(|_| Error::usage("FRAMES is a number, or all"))?;
            (0..count).map(|i| i * (total - 1) / (count - 1).max(1)).collect()
        }
        None => SamplingRule { max_frames: 64, fps: 1.0, skip_seconds: 1.0 }.indices(
            total,
            facts.average_rate,
            facts.duration,
        ),
    };
    let resampler = Resampler { filter: Filter::Lanczos, arithmetic: Arithmetic::Torch };
    let mut digest = 0u64;
    let tiles = wanted.as_deref() != Some("all");
    video.read(&indices, &mut |frame| {
        let fitted = fit_frame(Size::new(frame.image.width, frame.image.height), TILE);
        let first = resampler
            .resize(&frame.image, if tiles { fitted } else { Size::new(frame.image.width, frame.image.height) });
        let tile = if tiles { resampler.resize(&first, Size::square(TILE)) } else { first };
        digest = tile.rgb.iter().step_by(97).fold(digest, |sum, &byte| sum.wrapping_mul(31) ^ u64::from(byte));
        Ok(())
    })?;
    println!(
        "{} {}×{}, {} of {total} frames: opened in {:.1} ms, frames ready after {:.1} ms, {} MB read (digest {digest:016x})",
        facts.codec,
        facts.width,
        facts.height,
        indices.len(),
        opened.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3,
        bytes_read().map_or_else(|| "unknown".to_owned(), |bytes| (bytes / 1_000_000).to_string()),
    );
    Ok(())
}

/// What this process has read so far, where the system tells.
fn bytes_read() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}
