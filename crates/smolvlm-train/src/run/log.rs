//! The log of a run: a line of JSON for each step.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::StepReport;
use crate::{Error, Result};

const FILE: &str = "log.jsonl";

/// Lines that are added one by one.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The log of a run that has taken `steps`: lines of steps that were taken after that place was saved, or half a line, go.
    pub(super) fn open(folder: &Path, steps: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let failed = |error: std::io::Error| Error::input(format!("{}: {error}", path.display())).caused_by(error);
        fs::create_dir_all(folder).map_err(failed)?;
        let text = if path.exists() { fs::read_to_string(&path).map_err(failed)? } else { String::new() };
        let taken = |line: &&str| serde_json::from_str::<StepReport>(line).is_ok_and(|report| report.step <= steps);
        let kept: String = text.lines().take_while(taken).flat_map(|line| [line, "\n"]).collect();
        if kept != text {
            let part = folder.join(format!("{FILE}.part"));
            fs::write(&part, kept).map_err(failed)?;
            fs::rename(&part, &path).map_err(failed)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, report: &StepReport) -> Result<()> {
        let line = serde_json::to_string(report).map_err(|error| Error::internal(format!("the log: {error}")))?;
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|error| self.failed(error))
    }

    /// Brings what was written to the disk.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::input(format!("{}: {error}", self.path.display())).caused_by(error)
    }
}
