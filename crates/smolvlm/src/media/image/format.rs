//! Which picture format a file has.

use crate::{Error, Result};

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// Tells the format by the file's first bytes; names and extensions do not count.
    pub(super) fn sniff(data: &[u8]) -> Result<Self> {
        Ok(match data {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Self::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Self::Tiff,
            _ => return Err(unknown(data)),
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

fn unknown(data: &[u8]) -> Error {
    let found = match data {
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => "an AVIF picture",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', ..] => "a HEIC picture",
        [_, _, _, _, b'f', b't', b'y', b'p', b'm', b'i' | b's', b'f', ..] => "a HEIF picture",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] | [0x1A, 0x45, 0xDF, 0xA3, ..] => "a video",
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL picture",
        [0xFF, 0x4F, 0xFF, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => "a JPEG 2000 picture",
        [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..] => "a BigTIFF file",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
        [0, 0, 1 | 2, 0, ..] => "an icon or cursor",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'<', ..] => "text (HTML or SVG)",
        _ => "not a picture of a known format",
    };
    Error::input(format!(
        "this is {found}; a JPEG, PNG, WebP, GIF, BMP or TIFF file is needed: convert it to PNG or JPEG"
    ))
}
