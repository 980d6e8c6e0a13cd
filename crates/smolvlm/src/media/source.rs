//! Where a picture or video comes from: a path, a URL, or bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fetch;
use crate::{Error, Result};

/// Where a medium is read from.
#[derive(Debug, Clone, PartialEq)]
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
    /// A video whose frames are decoded already.
    DecodedVideo(Arc<DecodedVideo>),
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

/// A decoded video as a caller hands it over: all of its frames are meant to be seen.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedVideo {
    /// At least one, all of one size.
    pub frames: Vec<Arc<DecodedImage>>,
    /// Frames per second, above 0.
    pub rate: f64,
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
    /// Longest wait for a decoder that gives nothing: neither the facts of a video nor its next frame.
    pub decode_timeout: Duration,
    /// Most memory that a process of its own may take to decode a video, in bytes.
    pub decode_memory: u64,
    /// Whether `http` and `https` URLs may reach this machine and private networks. Prompts may come from strangers: a
    /// URL in one must not make this program ask where they cannot.
    pub allow_private_addresses: bool,
}

impl Default for MediaLimits {
    fn default() -> Self {
        Self {
            file_bytes: 4 << 30,
            pixels: 200_000_000,
            timeout: Duration::from_secs(120),
            decode_timeout: Duration::from_secs(60),
            decode_memory: 2 << 30,
            allow_private_addresses: false,
        }
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
    /// Reads what a user wrote: a `file:`, `http:`, `https:` or `data:` URL, else a path, which starts at `base_dir`
    /// where one is given and the path is relative. Nothing is opened.
    pub fn parse(text: &str, base_dir: Option<&Path>) -> Self {
        let is_url = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        if ["http://", "https://", "file:", "data:"].into_iter().any(is_url) {
            return Self::Url(text.to_owned());
        }
        Self::Path(base_dir.map_or_else(|| PathBuf::from(text), |base| base.join(text)))
    }

    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(url) => shown(url),
            Self::Bytes { name, .. } => name.clone(),
            Self::Decoded(_) => "decoded image".to_owned(),
            Self::DecodedVideo(_) => "decoded video".to_owned(),
        }
    }

    /// Brings the medium to hand: resolves `file:` URLs, decodes `data:` URLs, downloads `http(s):` ones.
    ///
    /// # Errors
    /// [`ErrorKind::Network`](crate::ErrorKind::Network) for what a server or the way to it does,
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for the rest: a malformed URL, a file over the limit, or what is
    /// decoded already.
    pub fn open(&self, limits: &MediaLimits) -> Result<Opened> {
        match self {
            Self::Path(path) => Ok(Opened::File(path.clone())),
            Self::Bytes { data, .. } => Ok(Opened::Bytes(data.clone())),
            Self::Url(url) => fetch::open(url, limits).map_err(|error| error.at(self.name())),
            Self::Decoded(_) | Self::DecodedVideo(_) => {
                Err(Error::input(format!("this is a {}; an encoded file is needed here", self.name())))
            }
        }
    }

    /// The encoded file in memory: [`open`](Self::open), then read if it is a file on disk.
    pub fn read(&self, limits: &MediaLimits) -> Result<Arc<[u8]>> {
        match self.open(limits)? {
            Opened::File(path) => read_file(&path, limits.file_bytes),
            Opened::Bytes(data) if data.is_empty() => Err(Error::input(format!("{}: it is empty", self.name()))),
            Opened::Bytes(data) if data.len() as u64 > limits.file_bytes => {
                Err(too_large(data.len() as u64, limits.file_bytes).at(self.name()))
            }
            Opened::Bytes(data) => Ok(data),
        }
    }
}

/// A URL without what may be secret: user, password, and the query, which signs some.
fn shown(url: &str) -> String {
    let plain = match url::Url::parse(url) {
        Ok(mut parsed) if matches!(parsed.scheme(), "http" | "https") => {
            let hidden = parsed.set_username("").and_then(|()| parsed.set_password(None));
            if parsed.query().is_some() {
                parsed.set_query(Some("…"));
            }
            // Both fail only for URLs without a host, which none of these is.
            if hidden.is_err() { "URL".to_owned() } else { parsed.to_string().replace("%E2%80%A6", "…") }
        }
        Err(_) if url.contains('@') => "a malformed URL".to_owned(),
        _ => url.to_owned(),
    };
    plain.chars().take(120).collect()
}

/// A file of more bytes than the limit.
pub(super) fn too_large(found: u64, limit: u64) -> Error {
    Error::input(format!("it has {found} bytes; at most {limit} are read"))
}

/// Reads a file of at most `limit` bytes. Its size is checked first, and again while reading, because it may grow or
/// be a pipe that has none.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Arc<[u8]>> {
    read_checked(path, limit).map_err(|error| error.at(path.display()))
}

fn read_checked(path: &Path, limit: u64) -> Result<Arc<[u8]>> {
    let failed = |error: std::io::Error| Error::input(explain(path, &error)).caused_by(error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Error::input("it is a folder; a file is needed here"));
    }
    if metadata.len() > limit {
        return Err(too_large(metadata.len(), limit));
    }
    let mut data = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut data).map_err(failed)?;
    match data.len() as u64 {
        0 => Err(Error::input("the file is empty")),
        found if found > limit => Err(too_large(found, limit)),
        _ => Ok(data.into()),
    }
}

fn explain(path: &Path, error: &std::io::Error) -> String {
    match (error.kind(), path.to_str()) {
        (std::io::ErrorKind::NotFound, Some(text)) if text.contains("://") => {
            "there is no such file, and only http, https, file and data URLs are read".to_owned()
        }
        (std::io::ErrorKind::NotFound, _) => "there is no such file".to_owned(),
        _ => format!("it cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn urls_are_told_from_paths() {
        let base = Path::new("base");
        for url in ["http://a/b.png", "HTTPS://a/b.png", "file:///a.png", "data:image/png;base64,AA=="] {
            assert_eq!(MediaSource::parse(url, Some(base)), MediaSource::Url(url.to_owned()));
        }
        assert_eq!(MediaSource::parse("http.png", Some(base)), MediaSource::Path(base.join("http.png")));
        assert_eq!(MediaSource::parse("a/b.png", None), MediaSource::Path("a/b.png".into()));
        assert_eq!(MediaSource::parse("/a/b.png", Some(base)), MediaSource::Path("/a/b.png".into()));
    }

    #[test]
    fn missing_empty_large_files_and_folders_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let limits = MediaLimits { file_bytes: 3, ..MediaLimits::default() };
        for (name, content, expected) in [("empty", "", "empty"), ("large", "1234", "4 bytes; at most 3")] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let error = MediaSource::Path(path).read(&limits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(error.to_string().contains(expected) && error.to_string().contains(name), "{error}");
        }
        let error = MediaSource::Path(dir.path().join("missing")).read(&limits).unwrap_err();
        assert!(error.to_string().contains("no such file"), "{error}");
        let error = MediaSource::Path(dir.path().to_owned()).read(&limits).unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        std::fs::write(dir.path().join("fits"), "123").unwrap();
        assert_eq!(*MediaSource::Path(dir.path().join("fits")).read(&limits).unwrap(), *b"123");
    }

    #[test]
    fn messages_do_not_tell_what_a_url_keeps_secret() {
        let name = |url: &str| MediaSource::Url(url.to_owned()).name();
        assert_eq!(name("https://me:pw@host/a.png?sig=secret"), "https://host/a.png?…");
        assert_eq!(name("http://host:81/a%20b.png"), "http://host:81/a%20b.png");
        assert_eq!(name("data:text/plain,x"), "data:text/plain,x");
    }

    #[test]
    fn an_unknown_scheme_is_named_as_such() {
        let error = MediaSource::parse("ftp://host/cat.png", None).read(&MediaLimits::default()).unwrap_err();
        assert!(error.to_string().contains("only http"), "{error}");
    }
}
