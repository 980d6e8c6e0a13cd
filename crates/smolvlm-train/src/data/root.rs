//! Where media may lie, and which file a dataset means by a name.

use std::path::{Component, Path, PathBuf};

use smolvlm::media::source::MediaSource;

use crate::{Error, Result};

/// The folder that names of media start at, and must stay in.
///
/// Names are judged as they are written: an absolute path outside the folder, and `..` that climbs out of it, are refused,
/// because datasets come from strangers and a sample may end in a log or a model. Links inside the folder are followed:
/// whoever owns the folder made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRoot {
    folder: PathBuf,
    trusted: bool,
}

impl MediaRoot {
    /// Media below `folder`, nowhere else.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), trusted: false }
    }

    /// The same root for a dataset whose author is trusted: names may lead anywhere on this machine.
    #[must_use]
    pub fn trusting_paths(mut self, trusted: bool) -> Self {
        self.trusted = trusted;
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The medium that `name` means: a path, or a `data:` URL. Nothing is opened.
    ///
    /// # Errors
    /// An input error for a name that is empty, leads out of the folder, or is a URL of another kind: training reads no
    /// remote files, so that it can be repeated.
    pub fn resolve(&self, name: &str) -> Result<MediaSource> {
        if name.is_empty() {
            return Err(Error::input("the name of a medium is empty"));
        }
        if starts_with(name, "data:") {
            return Ok(MediaSource::Url(name.to_owned()));
        }
        if ["http://", "https://", "file:", "ftp://", "s3://", "gs://", "hf://"]
            .into_iter()
            .any(|s| starts_with(name, s))
        {
            return Err(Error::input(format!(
                "{} is a URL: datasets name files; download it and give the folder as `media_root`",
                shown(name)
            )));
        }
        let path = Path::new(name);
        let resolved = self.folder.join(path);
        let inside = if path.is_absolute() {
            stays_below(path).is_some_and(|path| path.starts_with(&self.folder))
        } else {
            stays_below(path).is_some()
        };
        if inside || self.trusted {
            return Ok(MediaSource::Path(resolved));
        }
        Err(Error::input(format!(
            "{} leads out of the media root {}: set `media_root` to a folder above it, or `trust_paths: true`",
            shown(name),
            self.folder.display()
        )))
    }
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start))
}

/// The path without `.` and `..`, as written; nothing where `..` climbs above its start.
fn stays_below(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            Component::ParentDir => {
                depth = depth.checked_sub(1)?;
                clean.pop();
            }
            Component::Normal(name) => {
                depth += 1;
                clean.push(name);
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => clean.push(component),
        }
    }
    Some(clean)
}

/// A name as messages show it.
pub(super) fn shown(name: &str) -> String {
    let mut short: String = name.chars().take(120).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_the_root_are_joined_to_it() {
        let root = MediaRoot::new("/data/images");
        for (name, path) in [
            ("a.png", "/data/images/a.png"),
            ("b/c/../a.png", "/data/images/b/c/../a.png"),
            ("/data/images/x/a.png", "/data/images/x/a.png"),
            ("./a.png", "/data/images/./a.png"),
        ] {
            assert_eq!(root.resolve(name).unwrap(), MediaSource::Path(path.into()), "{name}");
        }
    }

    #[test]
    fn names_that_lead_out_of_the_root_are_refused_unless_trusted() {
        let root = MediaRoot::new("/data/images");
        for name in [
            "../secret.png",
            "a/../../secret.png",
            "/etc/passwd",
            "/data/images/../secret.png",
            "/data/images2/a.png",
            "a/../../images/a.png",
            "/../data/images/a.png",
        ] {
            let error = root.resolve(name).unwrap_err().to_string();
            assert!(error.contains("leads out of the media root /data/images"), "{name}: {error}");
            assert!(root.clone().trusting_paths(true).resolve(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn remote_media_are_refused_and_inline_ones_are_not() {
        let root = MediaRoot::new("images").trusting_paths(true);
        for name in ["http://host/a.png", "HTTPS://host/a.png", "file:///etc/passwd", "s3://bucket/a.png"] {
            assert!(root.resolve(name).unwrap_err().to_string().contains("is a URL"), "{name}");
        }
        assert!(matches!(root.resolve("data:image/png;base64,aGk=").unwrap(), MediaSource::Url(_)));
        assert!(root.resolve("").is_err());
    }
}
