//! Files of records: where each record begins, and reading one at a time.

mod cache;
mod json;
mod json_scan;
mod parquet;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) use self::cache::GroupCache;
use self::json::JsonFile;
use self::parquet::ParquetFile;
use super::value::Value;
use crate::{Error, Result};

/// Most records of one dataset: places and lengths take up to 24 bytes each.
pub(super) const MAX_RECORDS: usize = 1 << 28;

/// One file of records. Holds an index, no records.
#[derive(Debug)]
pub(crate) enum RecordFile {
    /// JSON lines, or one JSON list.
    Json(JsonFile),
    /// Parquet, read a row group at a time.
    Parquet(ParquetFile),
}

impl RecordFile {
    /// Indexes a file; content decides what it is, never the name.
    ///
    /// # Errors
    /// An input error for a file that is missing, empty, or neither JSON nor parquet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = if parquet::is_parquet(path)? {
            ParquetFile::open(path).map(Self::Parquet)
        } else {
            JsonFile::open(path).map(Self::Json)
        };
        opened.map_err(|error| error.at(path.display()))
    }

    /// Records in it.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(file) => file.len(),
            Self::Parquet(file) => file.len(),
        }
    }

    /// Hands record `index` to `read`.
    ///
    /// # Errors
    /// An input error for a record that cannot be read, and whatever `read` returns.
    pub(super) fn with<T>(
        &self,
        index: usize,
        cache: &GroupCache,
        read: impl FnOnce(&Value) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Json(file) => read(&file.read(index)?),
            Self::Parquet(file) => file.with(index, cache, read),
        }
    }

    /// Runs of records that are cheap to read together; none where each stands alone.
    pub(super) fn groups(&self) -> Option<Vec<Range<usize>>> {
        match self {
            Self::Json(_) => None,
            Self::Parquet(file) => Some(file.groups()),
        }
    }

    /// A digest of what the file holds.
    pub(super) fn digest(&self) -> &[u8; 32] {
        match self {
            Self::Json(file) => file.digest(),
            Self::Parquet(file) => file.digest(),
        }
    }
}

/// The files that `path` means: itself; all data files of a folder; or those that match a `*` in its last part. In the
/// order of their names.
///
/// # Errors
/// An input error when there is none.
pub(super) fn data_files(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.contains('*') && !path.exists() {
        let folder = path.parent().unwrap_or(Path::new(""));
        return files_in(folder, |file| matches_pattern(file, &name), &format!("no file there is called {name}"));
    }
    if path.is_dir() {
        let is_data = |file: &str| {
            [".jsonl", ".json", ".parquet"].iter().any(|ending| file.to_lowercase().ends_with(ending))
                && !file.starts_with('.')
        };
        return files_in(path, is_data, "the folder holds no .jsonl, .json or .parquet file");
    }
    Ok(vec![path.to_owned()])
}

fn files_in(folder: &Path, wanted: impl Fn(&str) -> bool, none: &str) -> Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let cannot =
        |error: std::io::Error| Error::input(format!("{}: cannot be read: {error}", folder.display())).caused_by(error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(Error::input(format!("{}: {none}", folder.display()))) } else { Ok(files) }
}

/// Whether `name` is `pattern`, in which every `*` stands for any characters.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| name.strip_prefix(start)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |end| rest.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (name, pattern, expected) in [
            ("train-00000.parquet", "train-*", true),
            ("train-00000.parquet", "*.parquet", true),
            ("train-00000.parquet", "train-*-of-*.parquet", false),
            ("train-0-of-2.parquet", "train-*-of-*.parquet", true),
            ("valid.parquet", "train-*", false),
            ("a.json", "a.json", true),
            ("ab", "ab*b", false),
            ("abab", "a*b*b", true),
        ] {
            assert_eq!(matches_pattern(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn a_folder_means_its_data_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.parquet", "notes.txt", ".hidden.json"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = data_files(folder.path()).unwrap();
        assert_eq!(found, ["a.parquet", "b.jsonl"].map(|name| folder.path().join(name)));
        assert!(data_files(&folder.path().join("*.csv")).unwrap_err().to_string().contains("*.csv"));
    }
}
