//! The folder of a packed checkpoint, written beside its place and renamed when it is whole.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::is_packed_folder;
use crate::{Error, Result};

/// Largest file that is taken over: nothing larger is ever read as text.
const MAX_COPIED: u64 = 64 << 20;
/// Endings of files with weights in any format.
const WEIGHTS: [&str; 12] = [
    ".safetensors",
    ".index.json",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".npz",
    ".part",
];

/// A folder in the making. It goes away when dropped unfinished.
pub(super) struct Destination {
    place: PathBuf,
    beside: PathBuf,
    finished: bool,
}

impl Destination {
    /// Makes a folder beside `place`, which must not exist or be empty; with `replace`, it may be a packed checkpoint.
    pub(super) fn begin(place: &Path, replace: bool) -> Result<Self> {
        let Some(name) = place.file_name() else {
            return Err(taken(place, "expected the name of a new folder"));
        };
        check_place(place, replace)?;
        let beside = place.with_file_name(with_ending(name, ".part"));
        if replace && beside.is_dir() && holds_only_files(&beside) {
            fs::remove_dir_all(&beside).map_err(|error| failed(&beside, "removed", error))?;
        }
        if let Some(parent) = place.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|error| failed(parent, "made", error))?;
        }
        match fs::create_dir(&beside) {
            Ok(()) => Ok(Self { place: place.to_owned(), beside, finished: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken(
                &beside,
                "is there: another run is at work, or was interrupted; remove it, or replace it (--force)",
            )),
            Err(error) => Err(failed(&beside, "made", error)),
        }
    }

    /// Where files are written.
    pub(super) fn folder(&self) -> &Path {
        &self.beside
    }

    /// Writes a small file.
    pub(super) fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.beside.join(file);
        fs::write(&path, bytes).map_err(|error| failed(&path, "written", error))
    }

    /// Takes over every file of `source` that holds no weights; their names, sorted.
    pub(super) fn copy_from(&self, source: &Path) -> Result<Vec<String>> {
        let mut copied = Vec::new();
        for entry in fs::read_dir(source).map_err(|error| failed(source, "read", error))? {
            let entry = entry.map_err(|error| failed(source, "read", error))?;
            let (from, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let lower = name.to_lowercase();
            if lower.starts_with('.') || WEIGHTS.iter().any(|ending| lower.ends_with(ending)) {
                continue;
            }
            // Files of the hub's cache are links; this follows them.
            let found = fs::metadata(&from).map_err(|error| failed(&from, "read", error))?;
            if found.is_file() && found.len() <= MAX_COPIED {
                let to = self.beside.join(entry.file_name());
                fs::copy(&from, &to).map_err(|error| failed(&from, &format!("copied to {}", to.display()), error))?;
                copied.push(name);
            }
        }
        copied.sort();
        Ok(copied)
    }

    /// Brings the folder to its place.
    pub(super) fn finish(mut self) -> Result<PathBuf> {
        let old = self.place.with_file_name(with_ending(self.place.file_name().unwrap_or_default(), ".old"));
        let replaced = self.place.is_dir();
        if replaced {
            fs::rename(&self.place, &old).map_err(|error| failed(&self.place, "renamed", error))?;
        }
        if let Err(error) = fs::rename(&self.beside, &self.place) {
            if replaced {
                // Better the old one than none.
                let _ = fs::rename(&old, &self.place);
            }
            return Err(failed(&self.beside, &format!("renamed to {}", self.place.display()), error));
        }
        self.finished = true;
        if replaced {
            fs::remove_dir_all(&old).map_err(|error| failed(&old, "removed", error))?;
        }
        Ok(self.place.clone())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed stays, under a name that says what it is.
            let _ = fs::remove_dir_all(&self.beside);
        }
    }
}

fn with_ending(name: &OsStr, ending: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(ending);
    name
}

/// Whether a checkpoint may be put at `place`. Nothing but an earlier packed checkpoint is ever replaced.
fn check_place(place: &Path, replace: bool) -> Result<()> {
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries.count(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if place.is_dir() => return Err(failed(place, "read", error)),
        Err(_) => return Err(taken(place, "is there and is no folder; give the name of a new one")),
    };
    match (entries, replace) {
        (0, _) => Ok(()),
        (_, false) => {
            Err(taken(place, "is not empty; give another folder, or replace the packed checkpoint in it (--force)"))
        }
        (_, true) if is_packed_folder(place) && holds_only_files(place) => Ok(()),
        (_, true) => {
            Err(taken(place, "holds something else than a packed checkpoint, and is left alone; give another folder"))
        }
    }
}

fn holds_only_files(folder: &Path) -> bool {
    let is_file =
        |entry: io::Result<fs::DirEntry>| entry.and_then(|entry| entry.file_type()).is_ok_and(|kind| kind.is_file());
    fs::read_dir(folder).is_ok_and(|mut entries| entries.all(is_file))
}

fn taken(place: &Path, what: &str) -> Error {
    Error::usage(format!("{}: {what}", place.display()))
}

fn failed(place: &Path, what: &str, error: io::Error) -> Error {
    Error::input(format!("{}: cannot be {what}: {error}", place.display())).caused_by(error)
}
