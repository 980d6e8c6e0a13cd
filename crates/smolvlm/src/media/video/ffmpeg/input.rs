//! A file that the tools can open by path.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::media::source::Opened;
use crate::{Error, Result};

/// A file the tools can open by path, as long as this stands.
pub(super) struct InputFile {
    path: PathBuf,
    _copy: Option<Copy>,
}

impl InputFile {
    pub(super) fn of(opened: &Opened) -> Result<Self> {
        match opened {
            Opened::File(path) if path.to_str().is_none() => Err(Error::input("its name is not UTF-8; rename it")),
            Opened::File(path) => Ok(Self { path: path.clone(), _copy: None }),
            Opened::Bytes(bytes) => {
                let copy = Copy::of(bytes)?;
                Ok(Self { path: copy.reachable(), _copy: Some(copy) })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes at hand as a file of our own.
struct Copy {
    /// Its name, until it is removed.
    path: Option<PathBuf>,
    file: File,
}

impl Copy {
    fn of(bytes: &[u8]) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("smolvlm-{}-{number}.video", std::process::id()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let cannot = |error: std::io::Error| {
            Error::input(format!("cannot be copied to {} for ffmpeg: {error}", path.display())).caused_by(error)
        };
        let mut this = Self { file: options.open(&path).map_err(cannot)?, path: Some(path.clone()) };
        // Where a nameless file can be reached, nothing is left of it however this process ends.
        if this.nameless().is_some_and(|reached| reached.exists()) {
            this.remove();
        }
        this.file.write_all(bytes).map_err(cannot)?;
        Ok(this)
    }

    /// The path of the open file itself, where the system has one.
    fn nameless(&self) -> Option<PathBuf> {
        #[cfg(target_os = "linux")]
        {
            let number = std::os::fd::AsRawFd::as_raw_fd(&self.file);
            Some(format!("/proc/{}/fd/{number}", std::process::id()).into())
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Where other processes of this user find it.
    fn reachable(&self) -> PathBuf {
        self.path.clone().or_else(|| self.nameless()).unwrap_or_default()
    }

    fn remove(&mut self) {
        if let Some(path) = self.path.take() {
            // Nothing can be done about a temporary file that refuses to go.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_can_be_opened_by_path_as_long_as_the_file_stands() {
        let file = InputFile::of(&Opened::Bytes([1, 2, 3][..].into())).unwrap();
        let path = file.path().to_owned();
        assert_eq!(std::fs::read(&path).unwrap(), [1, 2, 3]);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_of_it_lies_in_the_folder_for_temporary_files() {
        let file = InputFile::of(&Opened::Bytes([7; 10][..].into())).unwrap();
        assert!(!file.path().starts_with(std::env::temp_dir()), "{:?}", file.path());
    }
}
