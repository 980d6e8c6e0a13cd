//! Video tracks (`TrackEntry`): codec, clock, colours, compression.

use super::super::picture::Colour;
use super::ebml::Children;
use crate::{Error, Result};

/// What one video track says.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) number: u64,
    pub(super) is_default: bool,
    pub(super) codec: String,
    pub(super) config: Vec<u8>,
    pub(super) colour: Option<Colour>,
    /// Nanoseconds of a frame, if they are all alike.
    pub(super) frame_time: Option<u64>,
    /// Bytes left out at the start of every frame.
    pub(super) prefix: Vec<u8>,
}

const VIDEO: u64 = 1;

/// Every enabled video track, in order.
pub(super) fn video_tracks(tracks: &[u8]) -> Result<Vec<Track>> {
    Children(tracks)
        .filter(|(id, entry)| *id == 0xAE && Children(entry).unsigned(0x83) == Some(VIDEO))
        .filter(|(_, entry)| Children(entry).unsigned(0xB9) != Some(0))
        .map(|(_, entry)| Track::read(Children(entry)))
        .collect()
}

impl Track {
    fn read(entry: Children<'_>) -> Result<Self> {
        let number = entry.unsigned(0xD7).ok_or_else(|| Error::input("its video track has no number"))?;
        let id = String::from_utf8_lossy(entry.find_id(0x86).unwrap_or_default()).into_owned();
        let private = entry.find_id(0x6_3A2).unwrap_or_default();
        let video = Children(entry.find_id(0xE0).unwrap_or_default());
        Ok(Self {
            number,
            is_default: entry.unsigned(0x88) != Some(0),
            codec: codec_name(id.trim_end_matches('\0'), private),
            config: private.to_vec(),
            colour: video.find_id(0x55B0).map(|colour| read_colour(Children(colour))),
            frame_time: entry.unsigned(0x23_E383).filter(|&time| time > 0),
            prefix: entry.find_id(0x6D80).map_or(Ok(Vec::new()), read_prefix)?,
        })
    }
}

/// ffmpeg's name of a codec, or Matroska's own.
fn codec_name(id: &str, private: &[u8]) -> String {
    let known = match id {
        "V_MPEG4/ISO/AVC" => "h264",
        "V_MPEGH/ISO/HEVC" => "hevc",
        "V_VP8" => "vp8",
        "V_VP9" => "vp9",
        "V_AV1" => "av1",
        "V_MJPEG" => "mjpeg",
        "V_THEORA" => "theora",
        "V_FFV1" => "ffv1",
        "V_PRORES" => "prores",
        "V_MPEG2" => "mpeg2video",
        "V_MPEG1" => "mpeg1video",
        // The fourth field of a BITMAPINFOHEADER.
        "V_MS/VFW/FOURCC" => match private.get(16..20) {
            Some(fourcc) => return fourcc.escape_ascii().to_string(),
            None => id,
        },
        id if id.starts_with("V_MPEG4/") => "mpeg4",
        other => other,
    };
    known.to_owned()
}

fn read_colour(colour: Children<'_>) -> Colour {
    let matrix = colour.unsigned(0x55B1).and_then(|matrix| u8::try_from(matrix).ok());
    Colour { matrix: matrix.unwrap_or(Colour::UNSPECIFIED), full_range: colour.unsigned(0x55B9) == Some(2) }
}

/// The bytes that `ContentEncodings` leave out of every frame.
fn read_prefix(encodings: &[u8]) -> Result<Vec<u8>> {
    const HEADER_STRIPPING: u64 = 3;
    let mut prefix = Vec::new();
    for (_, encoding) in Children(encodings).filter(|(id, _)| *id == 0x6240) {
        let encoding = Children(encoding);
        let Some(compression) = encoding.find_id(0x5034) else {
            return Err(Error::input("its video track is encrypted"));
        };
        let compression = Children(compression);
        if compression.unsigned(0x4254).unwrap_or(0) != HEADER_STRIPPING {
            return Err(Error::input("its video track is compressed by the container, which is not read here"));
        }
        prefix.extend_from_slice(compression.find_id(0x4255).unwrap_or_default());
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_leave_out_is_read_and_other_compressions_are_refused() {
        // One encoding, by header stripping, of the byte 9.
        assert_eq!(
            read_prefix(&[0x62, 0x40, 0x8B, 0x50, 0x34, 0x88, 0x42, 0x54, 0x81, 3, 0x42, 0x55, 0x81, 9]).unwrap(),
            [9]
        );
        assert!(read_prefix(&[0x62, 0x40, 0x83, 0x50, 0x34, 0x80]).is_err());
        assert!(read_prefix(&[0x62, 0x40, 0x83, 0x50, 0x35, 0x80]).unwrap_err().to_string().contains("encrypted"));
    }
}
