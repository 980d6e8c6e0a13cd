//! ISO base media files (mp4, mov, m4v) after ISO/IEC 14496-12: where each sample of the video track lies and when it is
//! shown. Samples themselves are read later, one at a time.
//!
//! Written for untrusted and damaged files: boxes that are cut off are read as far as they go, samples that lie outside
//! the file end the stream, and no table is believed beyond the bytes that back it. Times follow ffmpeg's demuxer
//! (`libavformat/mov.c`), the one under torchcodec, where the standard leaves a choice.

mod boxes;
mod edits;
mod fragments;
mod tables;
mod track;

use super::bytes::ByteSource;
use super::stream::{EncodedStream, StreamHeader};
use super::timeline::TimeBase;
use crate::{Error, Result};
use boxes::{Boxes, FileBox, FileBoxes};
use track::Track;

/// The largest index (`moov`, `moof`) that is read; the index of a day of video at 60 frames per second takes 80 MiB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// The most samples of one track: 38 hours at 30 frames per second.
const MAX_SAMPLES: usize = 1 << 22;

/// One sample, before edit lists. Times are in ticks of the track's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    offset: u64,
    size: u32,
    /// Decode time.
    dts: i64,
    /// Composition offset: the sample is shown at `dts + cts`.
    cts: i32,
    duration: u32,
    sync: bool,
}

impl Sample {
    fn composed(&self) -> i64 {
        self.dts.saturating_add(i64::from(self.cts))
    }
}

/// Reads the index of a file and picks its video track.
pub(super) fn open(bytes: ByteSource) -> Result<EncodedStream> {
    let (moov, moofs) = index_boxes(&bytes)?;
    let mut tracks = track::video_tracks(&moov, bytes.len())?;
    fragments::append(&mut tracks, &bytes, &moov, &moofs)?;
    let track = choose(tracks).ok_or_else(|| Error::input("holds no video track"))?;
    let packets = edits::present(&track, bytes.len());
    let header = StreamHeader {
        codec: track.codec,
        config: track.config,
        container: "mp4",
        base: TimeBase { numerator: 1, denominator: track.timescale },
        rotation: track.rotation,
        colour: track.colour,
    };
    Ok(EncodedStream { header, packets: packets.into(), prefix: [].into(), bytes })
}

/// The payload of `moov`, and where the fragments are.
fn index_boxes(bytes: &ByteSource) -> Result<(Vec<u8>, Vec<FileBox>)> {
    let mut moov = None;
    let mut moofs = Vec::new();
    for found in FileBoxes::scan(bytes)? {
        match &found.kind {
            b"moov" if moov.is_none() => moov = Some(read_index(bytes, &found)?),
            b"moof" => moofs.push(found),
            _ => {}
        }
    }
    match moov {
        Some(moov) => Ok((moov, moofs)),
        None => Err(Error::input(
            "has no index (`moov` box): the file was cut off or never finished; remux the original recording",
        )),
    }
}

fn read_index(bytes: &ByteSource, found: &FileBox) -> Result<Vec<u8>> {
    let size = found.end - found.payload;
    if size > MAX_INDEX_BYTES {
        return Err(Error::input(format!("its index of {size} bytes is above the limit of {MAX_INDEX_BYTES}")));
    }
    let mut payload = Vec::new();
    bytes.read_at(found.payload, size as usize, &mut payload)?;
    Ok(payload)
}

/// As ffmpeg's `av_find_best_stream` comes out: enabled before disabled, moving before still, video before previews in
/// single pictures, then the higher bit rate.
fn choose(tracks: Vec<Track>) -> Option<Track> {
    let rank = |track: &Track| {
        let size: u64 = track.samples.iter().map(|sample| u64::from(sample.size)).sum();
        let ticks: u64 = track.samples.iter().map(|sample| u64::from(sample.duration)).sum();
        let bytes_per_second = size as f64 * f64::from(track.timescale) / ticks.max(1) as f64;
        (
            track.enabled,
            track.samples.len().min(5),
            !matches!(track.codec.as_str(), "mjpeg" | "mpeg4"),
            bytes_per_second,
        )
    };
    let mut best: Option<Track> = None;
    for track in tracks {
        if best.as_ref().is_none_or(|best| rank(&track) > rank(best)) {
            best = Some(track);
        }
    }
    best
}

/// The first box of a kind, found by descending through `path`.
fn descend<'a>(payload: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter()
        .try_fold(payload, |payload, kind| Boxes(payload).find(|(found, _)| found == *kind).map(|(_, inner)| inner))
}
