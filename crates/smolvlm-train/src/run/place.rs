//! Places of a run: folders `step-N` that are written beside their name and renamed when they are whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RunSettings;
use crate::data::Cursor;
use smolvlm_kernels::Format;

use crate::{Error, Result};

const PREFIX: &str = "step-";
const PART: &str = ".part";
const STATE: &str = "state.safetensors";
const FACTS: &str = "run.json";

/// What is known of a run after some steps, beside what its model has learned.
pub(super) struct Place {
    folder: PathBuf,
    pub(super) step: u64,
    pub(super) cursor: Cursor,
    settings: String,
}

/// `run.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    step: u64,
    cursor: Cursor,
    /// What a run must be to go on from here.
    settings: String,
}

impl Place {
    /// `settings` as [`described`] tells them.
    pub(super) fn new(run: &Path, step: u64, cursor: Cursor, settings: &str) -> Self {
        Self { folder: run.join(format!("{PREFIX}{step}")), step, cursor, settings: settings.to_owned() }
    }

    /// The last place of a run that was saved whole, if there is one.
    pub(super) fn newest(run: &Path) -> Result<Option<Self>> {
        let Some(step) = steps(run)?.into_iter().max() else { return Ok(None) };
        let folder = run.join(format!("{PREFIX}{step}"));
        let path = folder.join(FACTS);
        let broken = |what: String| Error::input(format!("{}: not the facts of a run: {what}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| broken(error.to_string()).caused_by(error))?;
        let facts: Facts = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if facts.step != step {
            return Err(broken(format!("expected step {step}, found {}", facts.step)));
        }
        Ok(Some(Self { folder, step, cursor: facts.cursor, settings: facts.settings }))
    }

    /// Whether a run of these settings may go on from here.
    pub(super) fn check(&self, wanted: &str) -> Result<()> {
        if self.settings == wanted {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{}: a run of other settings; expected {wanted}, found {}. Choose another folder, or the settings it was begun with",
            self.folder.display(),
            self.settings
        )))
    }

    /// The file of what was learned.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    /// Writes it, its state by `state`; then older places go.
    pub(super) fn write(&self, state: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if self.folder.exists() {
            return Ok(());
        }
        let part = PathBuf::from(format!("{}{PART}", self.folder.display()));
        let failed = |error: std::io::Error| Error::input(format!("{}: {error}", part.display())).caused_by(error);
        if part.exists() {
            fs::remove_dir_all(&part).map_err(failed)?;
        }
        fs::create_dir_all(&part).map_err(failed)?;
        state(&part.join(STATE))?;
        let facts = Facts { step: self.step, cursor: self.cursor.clone(), settings: self.settings.clone() };
        let text = serde_json::to_string_pretty(&facts).map_err(|error| Error::internal(error.to_string()))?;
        fs::write(part.join(FACTS), text).map_err(failed)?;
        fs::File::open(part.join(FACTS)).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&part, &self.folder).map_err(failed)?;
        let run = self.folder.parent().unwrap_or(Path::new("."));
        for step in steps(run)?.into_iter().filter(|step| *step < self.step) {
            fs::remove_dir_all(run.join(format!("{PREFIX}{step}"))).map_err(failed)?;
        }
        Ok(())
    }
}

/// What must be the same for a run to go on, beside its data.
pub(super) fn described(settings: &RunSettings, total: u64, format: Format, adapters: Option<&str>) -> String {
    let RunSettings { seed, accumulation, rates, shape, warmup, floor, optimizer, weighting, .. } = settings;
    let adapters = adapters.map_or(String::new(), |adapters| format!(", {adapters}"));
    format!(
        "seed {seed}, {accumulation} batches a step, {total} steps, {rates:?}, {shape:?} after {warmup} down to {floor}, {optimizer:?}, {weighting:?} weighted alike, in {}{adapters}",
        format.name()
    )
}

/// Steps of the whole places in a folder.
fn steps(run: &Path) -> Result<Vec<u64>> {
    let failed = |error: std::io::Error| Error::input(format!("{}: {error}", run.display())).caused_by(error);
    if !run.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok()));
    }
    Ok(found)
}
