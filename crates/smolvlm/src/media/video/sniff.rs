//! Which container a file is, by its first bytes.

use super::bytes::ByteSource;
use crate::{Error, Result};

/// A container that this crate or the `ffmpeg` tool reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    Matroska,
    Avi,
    Gif,
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
    of_head(&head).ok_or_else(|| {
        let start: Vec<String> = head.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Error::input(format!(
            "is not a video in a known container (mp4, mov, mkv, webm, avi, gif, ts, …): it begins with {}",
            start.join(" ")
        ))
    })
}

fn of_head(head: &[u8]) -> Option<Container> {
    const BOXES: [&[u8]; 10] =
        [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"pnot"];
    if head.get(4..8).is_some_and(|kind| BOXES.contains(&kind)) {
        return Some(Container::Mp4);
    }
    if head.starts_with(b"RIFF") {
        return head[4..].get(4..7).filter(|kind| kind == b"AVI").map(|_| Container::Avi);
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
