//! Copies of the reference checkpoint, to be damaged.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::command::{Ended, smolvlm};
use super::goldens::checkpoint;
use super::safetensors::Safetensors;

/// A copy, gone when dropped.
pub(crate) struct Copy {
    folder: TempDir,
}

impl Copy {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(checkpoint()).expect("the checkpoint") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
        }
        Self { folder }
    }

    /// The reference checkpoint, packed.
    pub(crate) fn packed(dtype: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().display().to_string();
        smolvlm(["quantize", "--model", &checkpoint(), "--dtype", dtype, &out]).stdout();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn remove(self, name: &str) -> Self {
        std::fs::remove_file(self.file(name)).expect("removed");
        self
    }

    pub(crate) fn write(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.file(name), content).expect("written");
        self
    }

    /// Keeps the first `length` bytes of a file.
    pub(crate) fn truncate(self, name: &str, length: usize) -> Self {
        let bytes = std::fs::read(self.file(name)).expect("read");
        self.write(name, &bytes[..length])
    }

    /// Changes the JSON in a file.
    pub(crate) fn edit(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let text = std::fs::read_to_string(self.file(name)).expect("read");
        let mut json = serde_json::from_str(&text).expect("JSON");
        change(&mut json);
        self.write(name, json.to_string())
    }

    /// Changes the header of the weights' file, and nothing else of it.
    pub(crate) fn edit_header(self, change: impl FnOnce(&mut Value)) -> Self {
        let path = self.file("model.safetensors");
        let mut weights = Safetensors::read(&path);
        change(&mut weights.header);
        weights.write(&path);
        self
    }

    /// Asks the model for one token.
    pub(crate) fn run(&self) -> Ended {
        let folder = self.path().display().to_string();
        smolvlm(["run", "--model", &folder, "--dtype", "f32", "-n", "1", "Hi"]).run()
    }

    /// The model is refused as a bad checkpoint, for a reason that contains all of `parts`.
    #[track_caller]
    pub(crate) fn is_refused(&self, parts: &[&str]) {
        self.run().failed(4, parts);
    }
}
