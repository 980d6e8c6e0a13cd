//! The folder of a new checkpoint, written beside its place and renamed when it is whole.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Checkpoint, is_packed_folder};
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

/// For callers that can be told to replace what is there.
const FORCE: &str = ", or replace the checkpoint in it (--force)";

/// What a new checkpoint may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// Nothing but an empty folder.
    #[default]
    Nothing,
    /// A packed checkpoint with nothing beside it.
    Packed,
    /// Any checkpoint with nothing beside it.
    Checkpoint,
}

/// A checkpoint's folder in the making. It goes away when dropped unfinished.
#[derive(Debug)]
pub struct Destination {
    place: PathBuf,
    beside: PathBuf,
    finished: bool,
}

impl Destination {
    /// Makes a folder beside `place`, which must not exist, or be empty, or be what may be replaced.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when something else is there, or another one is in the making;
    /// [`Input`](crate::ErrorKind::Input) when it cannot be made.
    pub fn begin(place: &Path, replace: Replace) -> Result<Self> {
        let Some(name) = place.file_name() else {
            return Err(taken(place, "expected the name of a new folder"));
        };
        check_place(place, replace, FORCE)?;
        let beside = place.with_file_name(with_ending(name, ".part"));
        if replace != Replace::Nothing && beside.is_dir() && holds_only_files(&beside) {
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

    /// As [`begin`](Self::begin) with nothing to replace, for a caller that knows no other to be at work there: what an
    /// interrupted one has left beside `place` is removed.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_again(place: &Path) -> Result<Self> {
        check_place(place, Replace::Nothing, "")?;
        let beside = place.with_file_name(with_ending(place.file_name().unwrap_or_default(), ".part"));
        if beside.is_dir() && holds_only_files(&beside) {
            fs::remove_dir_all(&beside).map_err(|error| failed(&beside, "removed", error))?;
        }
        Self::begin(place, Replace::Nothing)
    }

    /// Where files are written.
    pub fn folder(&self) -> &Path {
        &self.beside
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when it cannot be written.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.beside.join(file);
        fs::write(&path, bytes).map_err(|error| failed(&path, "written", error))
    }

    /// Takes over every file of `source` that holds no weights; their names, sorted.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when one cannot be copied.
    pub fn copy_from(&self, source: &Path) -> Result<Vec<String>> {
        let mut copied = Vec::new();
        for entry in fs::read_dir(source).map_err(|error| failed(source, "read", error))? {
            let entry = entry.map_err(|error| failed(source, "read", error))?;
            let (from, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with('.') || is_weights(&name) {
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
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when it cannot be renamed.
    pub fn finish(mut self) -> Result<PathBuf> {
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

/// Whether a file of this name holds weights, in any format.
pub fn is_weights(name: &str) -> bool {
    let name = name.to_lowercase();
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}

fn with_ending(name: &OsStr, ending: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(ending);
    name
}

/// Whether a checkpoint may be put at `place`; `advice` says what else would help where it may not.
fn check_place(place: &Path, replace: Replace, advice: &str) -> Result<()> {
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries.count(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if place.is_dir() => return Err(failed(place, "read", error)),
        Err(_) => return Err(taken(place, "is there and is no folder; give the name of a new one")),
    };
    let (is_one, what) = match replace {
        _ if entries == 0 => return Ok(()),
        Replace::Nothing => {
            return Err(taken(place, &format!("is not empty; give another folder{advice}")));
        }
        Replace::Packed => (is_packed_folder(place), "a packed checkpoint"),
        Replace::Checkpoint => (Checkpoint::open(place).is_ok(), "a checkpoint"),
    };
    if is_one && holds_only_files(place) {
        return Ok(());
    }
    Err(taken(place, &format!("holds something else than {what}, and is left alone; give another folder")))
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
