//! Video tracks (`trak`): header, clock, codec, samples.

use super::super::bytes::Fields;
use super::super::picture::Colour;
use super::boxes::Boxes;
use super::edits::{Edit, read_edits};
use super::{Sample, descend, tables};
use crate::{Error, Result};

/// What one video track says.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) enabled: bool,
    /// Clockwise degrees to the upright picture.
    pub(super) rotation: u16,
    /// Ticks per second, never 0.
    pub(super) timescale: u32,
    pub(super) edits: Vec<Edit>,
    pub(super) codec: String,
    pub(super) config: Vec<u8>,
    pub(super) colour: Option<Colour>,
    pub(super) samples: Vec<Sample>,
    /// Samples come from `moof` boxes.
    pub(super) fragmented: bool,
}

/// Every video track of a `moov` box.
pub(super) fn video_tracks(moov: &[u8], file_len: u64) -> Result<Vec<Track>> {
    let movie = Movie::read(moov);
    let is_video = |trak: &[u8]| descend(trak, &[b"mdia", b"hdlr"]).and_then(|hdlr| hdlr.get(8..12)) == Some(b"vide");
    Boxes(moov)
        .filter(|(kind, trak)| kind == b"trak" && is_video(trak))
        .map(|(_, trak)| Track::read(trak, &movie, file_len))
        .collect()
}

/// The movie's own clock and matrix (`mvhd`).
struct Movie {
    timescale: u32,
    matrix: Matrix,
}

impl Movie {
    fn read(moov: &[u8]) -> Self {
        Self::try_read(moov).unwrap_or(Self { timescale: 1, matrix: Matrix::IDENTITY })
    }

    fn try_read(moov: &[u8]) -> Option<Self> {
        let mut fields = Fields(descend(moov, &[b"mvhd"])?);
        let version = fields.u8()?;
        fields.skip(3 + if version == 0 { 8 } else { 16 })?;
        let timescale = fields.u32()?.max(1);
        fields.u32_or_u64(version)?;
        fields.skip(16)?;
        Some(Self { timescale, matrix: Matrix::read(&mut fields)? })
    }
}

impl Track {
    fn read(trak: &[u8], movie: &Movie, file_len: u64) -> Result<Self> {
        let broken = |what: &str| Error::input(format!("its video track has a broken `{what}` box"));
        let header = TrackHeader::read(trak).ok_or_else(|| broken("tkhd"))?;
        let timescale = read_timescale(trak).ok_or_else(|| broken("mdhd"))?;
        let stbl = descend(trak, &[b"mdia", b"minf", b"stbl"]).ok_or_else(|| broken("stbl"))?;
        let entry = SampleEntry::read(stbl).ok_or_else(|| broken("stsd"))?;
        Ok(Self {
            id: header.id,
            enabled: header.enabled,
            rotation: header.matrix.then(&movie.matrix).rotation(),
            timescale,
            edits: read_edits(trak, timescale, movie.timescale),
            codec: entry.codec,
            config: entry.config,
            colour: entry.colour,
            samples: tables::samples(stbl, file_len)?,
            fragmented: false,
        })
    }
}

/// `tkhd`.
struct TrackHeader {
    id: u32,
    enabled: bool,
    matrix: Matrix,
}

impl TrackHeader {
    fn read(trak: &[u8]) -> Option<Self> {
        let mut fields = Fields(descend(trak, &[b"tkhd"])?);
        let head = fields.u32()?;
        let version = (head >> 24) as u8;
        fields.skip(if version == 0 { 8 } else { 16 })?;
        let id = fields.u32()?;
        fields.skip(4)?;
        fields.u32_or_u64(version)?;
        fields.skip(16)?;
        Some(Self { id, enabled: head & 1 == 1, matrix: Matrix::read(&mut fields)? })
    }
}

/// Ticks per second (`mdhd`).
fn read_timescale(trak: &[u8]) -> Option<u32> {
    let mut fields = Fields(descend(trak, &[b"mdia", b"mdhd"])?);
    let version = fields.u8()?;
    fields.skip(3 + if version == 0 { 8 } else { 16 })?;
    fields.u32().filter(|&timescale| timescale > 0)
}

/// The part of a display matrix that turns: `x' = a·x + c·y`, `y' = b·x + d·y`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Matrix {
    a: f64,
    b: f64,
    c: f64,
    d: f64,
}

impl Matrix {
    const IDENTITY: Self = Self { a: 1.0, b: 0.0, c: 0.0, d: 1.0 };

    /// Nine numbers in 16.16 (the last column 2.30): `a b u c d v x y w`.
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mut number = || fields.i32().map(|fixed| f64::from(fixed) / 65536.0);
        let (a, b, _, c, d) = (number()?, number()?, number()?, number()?, number()?);
        fields.skip(16)?;
        Some(Self { a, b, c, d })
    }

    fn then(&self, next: &Self) -> Self {
        Self {
            a: self.a * next.a + self.b * next.c,
            b: self.a * next.b + self.b * next.d,
            c: self.c * next.a + self.d * next.c,
            d: self.c * next.b + self.d * next.d,
        }
    }

    /// Clockwise degrees, to the nearest quarter turn (ffmpeg's `av_display_rotation_get`, torchcodec's rounding).
    /// Mirroring is ignored there, and so here.
    fn rotation(&self) -> u16 {
        let (across, down) = (self.a.hypot(self.c), self.b.hypot(self.d));
        if across == 0.0 || down == 0.0 {
            return 0;
        }
        let degrees = (self.b / down).atan2(self.a / across).to_degrees();
        ((degrees / 90.0).round() as i32).rem_euclid(4) as u16 * 90
    }
}

/// The first entry of `stsd`: the codec and its parameters.
struct SampleEntry {
    codec: String,
    config: Vec<u8>,
    colour: Option<Colour>,
}

impl SampleEntry {
    fn read(stbl: &[u8]) -> Option<Self> {
        let (fourcc, entry) = Boxes(descend(stbl, &[b"stsd"])?.get(8..)?).next()?;
        // The fixed part of a visual entry: 6 reserved, 2 reference index, 70 of sizes, resolution and name.
        let inner = entry.get(78..).unwrap_or_default();
        let config =
            [b"avcC", b"hvcC"].into_iter().find_map(|kind| descend(inner, &[kind])).unwrap_or_default().to_vec();
        Some(Self { codec: codec_name(fourcc), config, colour: read_colour(inner) })
    }
}

/// ffmpeg's name of the codec behind a sample entry, or the entry's own four letters.
fn codec_name(fourcc: [u8; 4]) -> String {
    let known = match &fourcc {
        b"avc1" | b"avc2" | b"avc3" | b"avc4" => "h264",
        b"hvc1" | b"hev1" => "hevc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        // `mp4v` stands for MPEG-4 part 2 and, from some muxers, for pictures in JPEG; neither is decoded here.
        b"mp4v" => "mpeg4",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        other => return other.escape_ascii().to_string(),
    };
    known.to_owned()
}

/// `colr`: H.273 codes, with a range flag in `nclx` but not in QuickTime's `nclc`.
fn read_colour(entry: &[u8]) -> Option<Colour> {
    let mut fields = Fields(descend(entry, &[b"colr"])?);
    let kind = fields.take(4)?;
    fields.skip(4)?;
    let matrix = fields.u16()?;
    let full_range = match kind {
        b"nclx" => fields.u8()? & 0x80 != 0,
        b"nclc" => false,
        _ => return None,
    };
    Some(Colour { matrix: u8::try_from(matrix).unwrap_or(Colour::UNSPECIFIED), full_range })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_turns_by_quarter_turns() {
        let turned = |a, b, c, d| Matrix { a, b, c, d }.rotation();
        assert_eq!(turned(1.0, 0.0, 0.0, 1.0), 0);
        assert_eq!(turned(0.0, 1.0, -1.0, 0.0), 90);
        assert_eq!(turned(-1.0, 0.0, 0.0, -1.0), 180);
        assert_eq!(turned(0.0, -1.0, 1.0, 0.0), 270);
        assert_eq!(turned(0.0, 2.0, -3.0, 0.0), 90);
        assert_eq!(turned(0.0, 0.0, 0.0, 0.0), 0);
    }
}
