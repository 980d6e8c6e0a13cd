//! Times the reading of a picture: `cargo run --release -p smolvlm --example read_image -- PICTURE [REPETITIONS]`
//!
//! A file's bytes in memory become the tiles that a published 256M model sees. The digest tells whether two builds, or this
//! and `benchsuite/image_peers.py`, made the same tiles.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Instant;

use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::preprocess::{Overrides, Preprocessor, Settings, Tile};
use smolvlm::{Compat, Error, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or_else(|| Error::usage("usage: read_image PICTURE [REPETITIONS]"))?;
    let repetitions = args.next().map_or(Ok(21), |count| count.parse());
    let repetitions: usize = repetitions.map_err(|_| Error::usage("REPETITIONS is a number"))?;
    let data = std::fs::read(&path).map_err(|error| Error::input(error.to_string()).at(&path))?;
    let source = MediaSource::Bytes { name: path, data: data.into() };

    let preprocessor = Preprocessor::new(Settings::published()?, Compat::Newest, Overrides::default())?;
    let (mut decoding, mut tiling, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let mut summary = String::new();
    for _ in 0..repetitions.max(1) {
        let started = Instant::now();
        let file = ImageFile::open(&source, &MediaLimits::default(), Compat::Newest)?;
        let image = file.decode()?;
        let decoded = started.elapsed().as_secs_f64() * 1e3;
        let plan = preprocessor.plan_image(image.width, image.height)?;
        let tiles = preprocessor.image_tiles(&image, &plan)?;
        let done = started.elapsed().as_secs_f64() * 1e3;
        decoding.push(decoded);
        tiling.push(done - decoded);
        both.push(done);
        summary = format!("{}×{}, {} tiles, digest {:016x}", image.width, image.height, tiles.len(), digest(&tiles));
    }
    println!("{summary}");
    for (what, times) in [("decode", decoding), ("resize and split", tiling), ("file to tiles", both)] {
        println!("{what}: {}", spread(times));
    }
    Ok(())
}

/// FNV-1a over the bytes of every tile.
fn digest(tiles: &[Tile]) -> u64 {
    let bytes = tiles.iter().flat_map(|tile| &tile.rgb);
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Median, least and most, in milliseconds.
fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    format!("{:.2} ms ({:.2} to {:.2})", times[times.len() / 2], times[0], times[times.len() - 1])
}
