//! Where a picture or video comes from: a path, a URL, or bytes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Result};

/// Where a medium is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// A file (or, for video, a folder of numbered frames).
    Path(PathBuf),
    /// `file:`, `http:`, `https:` or `data:`.
    Url(String),
    /// The encoded file itself; the name is used in messages.
    Bytes {
        /// What to call it in messages.
        name: String,
        /// The encoded file.
        data: Arc<[u8]>,
    },
    /// A picture that is decoded already.
    Decoded(Arc<DecodedImage>),
}

/// A decoded picture as a caller hands it over, before the reference's conversion to RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedImage {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
    pub channels: usize,
    /// `[height, width, channels]`, row-major.
    pub data: Vec<u8>,
}

/// What reading one medium may cost. Everything that a file could ask for is checked against these first.
#[derive(Debug, Clone)]
pub struct MediaLimits {
    /// Largest encoded file, in bytes, read into memory or downloaded.
    pub file_bytes: u64,
    /// Largest decoded picture or frame, in pixels.
    pub pixels: u64,
    /// Longest wait for a remote file, from the first byte sent to the last received.
    pub timeout: Duration,
}

impl Default for MediaLimits {
    fn default() -> Self {
        Self { file_bytes: 4 << 30, pixels: 200_000_000, timeout: Duration::from_secs(120) }
    }
}

/// A medium that is at hand: a file on disk, or its bytes.
#[derive(Debug, Clone)]
pub enum Opened {
    /// A file or folder on disk.
    File(PathBuf),
    /// The encoded file.
    Bytes(Arc<[u8]>),
}

impl MediaSource {
    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(url) => url.chars().take(120).collect(),
            Self::Bytes { name, .. } => name.clone(),
            Self::Decoded(_) => "decoded image".to_owned(),
        }
    }

    /// Brings the medium to hand: resolves `file:` URLs, decodes `data:` URLs, downloads `http(s):` ones.
    pub fn open(&self, limits: &MediaLimits) -> Result<Opened> {
        let _ = limits;
        match self {
            Self::Path(path) => Ok(Opened::File(path.clone())),
            Self::Bytes { data, .. } => Ok(Opened::Bytes(data.clone())),
            _ => Err(Error::internal("URLs are not readable yet")),
        }
    }
}
