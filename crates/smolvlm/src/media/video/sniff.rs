//! Which container a file is, by its first bytes.

use super::bytes::ByteSource;
use crate::{Error, Result};

/// As many chunks stand before the first picture of any PNG.
const MAX_PNG_CHUNKS: usize = 100;

/// A container that this crate or the `ffmpeg` tool reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    Matroska,
    Avi,
    Gif,
    Apng,
    WebP,
    MpegTs,
    MpegPs,
    Flv,
    Asf,
    Ogg,
    RawH26x,
    Y4m,
}

impl Container {
    /// As ffmpeg names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "matroska",
            Self::Avi => "avi",
            Self::Gif => "gif",
            Self::Apng => "apng",
            Self::WebP => "webp",
            Self::MpegTs => "mpegts",
            Self::MpegPs => "mpeg",
            Self::Flv => "flv",
            Self::Asf => "asf",
            Self::Ogg => "ogg",
            Self::RawH26x => "raw H.26x",
            Self::Y4m => "yuv4mpegpipe",
        }
    }
}

/// The container of a file, or an error that says what the file looks like instead.
pub(super) fn container(bytes: &ByteSource) -> Result<Container> {
    let mut head = Vec::new();
    bytes.read_up_to(0, 512, &mut head)?;
    if head.is_empty() {
        return Err(Error::input("is an empty file, not a video"));
    }
    let animated = if is_animated_png(bytes)? { Some(Container::Apng) } else { None };
    animated.or_else(|| of_head(&head)).ok_or_else(|| {
        let start: Vec<String> = head.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Error::input(format!(
            "is not a video in a known container (mp4, mov, mkv, webm, avi, gif, ts, …): it begins with {}",
            start.join(" ")
        ))
    })
}

/// Whether a PNG says before its first picture that it is animated (`acTL`).
fn is_animated_png(bytes: &ByteSource) -> Result<bool> {
    let mut head = Vec::new();
    bytes.read_up_to(0, 8, &mut head)?;
    if head != b"\x89PNG\r\n\x1a\n" {
        return Ok(false);
    }
    let mut at = 8;
    for _ in 0..MAX_PNG_CHUNKS {
        bytes.read_up_to(at, 8, &mut head)?;
        let (Some(&length), Some(kind)) = (head.first_chunk(), head.get(4..8)) else { return Ok(false) };
        match kind {
            b"acTL" => return Ok(true),
            b"IDAT" | b"IEND" => return Ok(false),
            _ => at += u64::from(u32::from_be_bytes(length)) + 12,
        }
    }
    Ok(false)
}

fn of_head(head: &[u8]) -> Option<Container> {
    const BOXES: [&[u8]; 10] =
        [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"pnot"];
    if head.get(4..8).is_some_and(|kind| BOXES.contains(&kind)) {
        return Some(Container::Mp4);
    }
    if head.starts_with(b"RIFF") {
        return match head.get(8..16) {
            Some(kind) if kind.starts_with(b"AVI") => Some(Container::Avi),
            // The second bit of an extended header means animation.
            Some(b"WEBPVP8X") if head.get(20).is_some_and(|flags| flags & 2 != 0) => Some(Container::WebP),
            _ => None,
        };
    }
    // 188-byte packets, or 192 with a time code of 4 bytes before each.
    let sync_at = |first: usize, step: usize| (0..2).all(|k| head.get(first + k * step) == Some(&0x47));
    if sync_at(0, 188) || sync_at(4, 192) {
        return Some(Container::MpegTs);
    }
    const MAGIC: [(&[u8], Container); 9] = [
        (&[0x1A, 0x45, 0xDF, 0xA3], Container::Matroska),
        (b"GIF8", Container::Gif),
        (&[0, 0, 1, 0xBA], Container::MpegPs),
        (b"FLV\x01", Container::Flv),
        (&[0x30, 0x26, 0xB2, 0x75], Container::Asf),
        (b"OggS", Container::Ogg),
        (&[0, 0, 0, 1], Container::RawH26x),
        (&[0, 0, 1], Container::RawH26x),
        (b"YUV4MPEG2", Container::Y4m),
    ];
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, container)| container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_the_container() {
        assert_eq!(of_head(b"\0\0\0\x20ftypisom"), Some(Container::Mp4));
        assert_eq!(of_head(b"\0\0\0\x08wide\0\0\0\0mdat"), Some(Container::Mp4));
        assert_eq!(of_head(b"RIFF\0\0\0\0AVI LIST"), Some(Container::Avi));
        assert_eq!(of_head(b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0\x02"), Some(Container::WebP));
        assert_eq!(of_head(b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0\x10"), None);
        assert_eq!(of_head(b"\x1A\x45\xDF\xA3"), Some(Container::Matroska));
        let mut ts = vec![0u8; 400];
        (ts[0], ts[188]) = (0x47, 0x47);
        assert_eq!(of_head(&ts), Some(Container::MpegTs));
    }

    #[test]
    fn pictures_and_text_are_not_videos() {
        for head in [&b"RIFF\0\0\0\0WEBPVP8 "[..], b"\x89PNG\r\n\x1a\n", b"hello, world", b"R", b"RIFF"] {
            assert_eq!(of_head(head), None);
        }
    }
}
