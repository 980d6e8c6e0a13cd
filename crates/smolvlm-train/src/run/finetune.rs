//! From a run's file to what was learned, on the processor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvlm::checkpoint::Checkpoint;
use smolvlm::{Compat, MediaOptions, Processor};
use smolvlm_kernels::CpuBackend;

use super::{Run, RunConfig};
use crate::data::{
    CheckOptions, DEFAULT_CACHE, ExampleMaker, LoaderOptions, Mixture, Report, Samples, Schedule, ScheduleOptions,
    check,
};
use crate::{Learner, Result, save_checkpoint};

/// What is written of the weights: an adapter, or a whole checkpoint.
const ADAPTER: &str = "adapter";
const MODEL: &str = "model";

/// A run's data, looked at before anything is learned.
pub struct Prepared {
    config: RunConfig,
    checkpoint: Checkpoint,
    maker: ExampleMaker,
    /// Problems by sample, the table by kind of media, lengths.
    pub report: Report,
}

impl Prepared {
    /// Opens the checkpoint in `folder` and looks at every sample. `progress` is called with samples done and in all, by any thread.
    ///
    /// # Errors
    /// When checkpoint or data cannot be opened, or not one sample can be used.
    pub fn new(
        config: RunConfig,
        folder: &Path,
        media: MediaOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.validate()?;
        let is_mixture = config.data.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let mixture = if is_mixture { Mixture::from_file(&config.data)? } else { Mixture::of(&config.data) };
        let samples = Arc::new(Samples::open(&mixture, DEFAULT_CACHE)?);
        let processor = Arc::new(Processor::open(folder, Compat::default(), media)?);
        let maker = ExampleMaker::new(samples, processor, config.example_rules())?;
        let report = check(&maker, &CheckOptions::default(), progress);
        Ok(Self { config, checkpoint, maker, report })
    }

    /// Loads the model and begins the run, or goes on with the one that its folder holds. 0 threads: one for each core.
    ///
    /// # Errors
    /// As [`Run::open`] and [`Learner::load`].
    pub fn start(self, threads: usize) -> Result<Finetune> {
        let Self { config, checkpoint, maker, report } = self;
        let options = ScheduleOptions {
            seed: config.seed,
            shuffled: true,
            rule: config.batch,
            epochs: config.epochs,
            lengths: Some(report.lengths),
        };
        let batches = Schedule::new(&maker, options)?;
        let backend = CpuBackend::new(threads)?;
        let learner = Learner::load(backend, &checkpoint, config.learner_options()?)?;
        let loader = LoaderOptions::default();
        let run = Run::open(learner, maker, batches, &loader, config.settings(), &config.output)?;
        Ok(Finetune { config, checkpoint, run })
    }
}

/// A run with where it came from.
pub struct Finetune {
    config: RunConfig,
    checkpoint: Checkpoint,
    /// Its steps.
    pub run: Run<CpuBackend>,
}

impl Finetune {
    /// Writes what was learned below the run's folder, and returns where: `adapter` in PEFT's layout, or a checkpoint in `model`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let taped = self.run.learner().taped();
        if let Some(adapter) = taped.adapter_file(&self.config.model) {
            let place = self.config.output.join(ADAPTER);
            adapter.write(&place)?;
            return Ok(place);
        }
        let place = self.config.output.join(MODEL);
        if place.exists() {
            // Of the same run, which had come to its end before.
            return Ok(place);
        }
        save_checkpoint(&self.checkpoint, taped, &place, None)?;
        Ok(place)
    }
}
