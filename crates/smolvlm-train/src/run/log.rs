//! The log of a run: a line of JSON for each step, and one for each evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StepReport;
use super::evaluation::Evaluation;
use crate::files::write_whole;
use crate::{Error, Result};

const FILE: &str = "log.jsonl";

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// What a step did.
    Step(StepReport),
    /// What was measured after a step.
    Evaluation {
        /// Steps taken.
        step: u64,
        /// The figures.
        evaluation: Evaluation,
    },
}

impl LogLine {
    /// Steps taken.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(report) => report.step,
            Self::Evaluation { step, .. } => *step,
        }
    }
}

/// Lines that are added one by one.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The log of a run that has taken `steps`: lines of steps that were taken after that place was saved, or half
    /// a line, go; of a run that begins, all.
    pub(super) fn open(folder: &Path, steps: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let failed = |error: std::io::Error| Error::input(format!("{}: {error}", path.display())).caused_by(error);
        fs::create_dir_all(folder).map_err(failed)?;
        let text = if path.exists() { fs::read_to_string(&path).map_err(failed)? } else { String::new() };
        let taken =
            |line: &&str| serde_json::from_str::<LogLine>(line).is_ok_and(|line| steps > 0 && line.step() <= steps);
        let kept: String = text.lines().take_while(taken).flat_map(|line| [line, "\n"]).collect();
        if kept != text {
            write_whole(&path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, line: &LogLine) -> Result<()> {
        let line = serde_json::to_string(line).map_err(|error| Error::internal(format!("the log: {error}")))?;
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

/// The log of the run in `folder`.
///
/// # Errors
/// An input error that names the file and the line.
pub fn read_log(folder: &Path) -> Result<Vec<LogLine>> {
    let path = folder.join(FILE);
    let failed = |error: std::io::Error| Error::input(format!("{}: {error}", path.display())).caused_by(error);
    let text = fs::read_to_string(&path).map_err(failed)?;
    let line = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let message = format!("{}: line {}: no step and no evaluation: {error}", path.display(), number + 1);
            Error::input(message).caused_by(error)
        })
    };
    text.lines().enumerate().map(line).collect()
}
