//! From a run's file to what was learned.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvlm::checkpoint::Checkpoint;
use smolvlm::{Compat, Device, Machine, MediaOptions, Processor};
use smolvlm_kernels::TrainBackend;

use super::place::Place;
use super::{Evaluator, Run, RunConfig};
use crate::data::{
    CheckOptions, DEFAULT_CACHE, ExampleMaker, ExampleRules, HoldOut, LoaderOptions, Loss, OpenDrawing, Part, Report,
    Samples, Schedule, ScheduleOptions, check,
};
use crate::files::failed;
use crate::initial::check_weightless;
use crate::{Learner, Result, draw_checkpoint, save_checkpoint};

/// What is written of the weights: an adapter, or a whole checkpoint.
const ADAPTER: &str = "adapter";
const MODEL: &str = "model";
/// The checkpoint that a run from nothing starts from.
const INITIAL: &str = "initial";

/// Where a run's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The checkpoint that is given.
    Checkpoint,
    /// A seed: the folder that is given has none.
    Nothing,
}

/// A run's data, looked at before anything is learned.
pub struct Prepared {
    config: RunConfig,
    checkpoint: Checkpoint,
    maker: ExampleMaker,
    evaluator: Option<Evaluator>,
    beginning: Beginning,
    /// Problems by sample, the table by kind of media, lengths.
    pub report: Report,
}

/// What a run is given beside its file.
pub struct Surroundings<'a> {
    /// The folder of its model: a checkpoint, or one without weights.
    pub folder: &'a Path,
    /// Which of both.
    pub beginning: Beginning,
    /// How media are read.
    pub media: MediaOptions,
    /// What draws samples for entries with `scenes`.
    pub drawing: OpenDrawing<'a>,
}

impl Prepared {
    /// Opens the checkpoint and looks at every sample. `progress` is called with samples done and in all, by any thread.
    ///
    /// # Errors
    /// When checkpoint or data cannot be opened, or not one sample can be used.
    pub fn new(
        config: RunConfig,
        surroundings: &Surroundings<'_>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let checkpoint = open_checkpoint(&config, surroundings)?;
        checkpoint.validate()?;
        let mut media = surroundings.media.clone();
        media.overrides.split_images = config.split_images.or(media.overrides.split_images);
        let processor = Processor::open(checkpoint.dir(), Compat::default(), media)?;
        let (maker, evaluator) = open_data(&config, &checkpoint, Arc::new(processor), surroundings.drawing)?;
        let report = check(&maker, &CheckOptions::default(), progress);
        Ok(Self { config, checkpoint, maker, evaluator, beginning: surroundings.beginning, report })
    }

    /// Opens the device that the run computes on, with so many threads on the processor; 0: one for each core.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it cannot be used, or not with the run's number format: says why.
    pub fn machine(&self, device: Device, threads: usize) -> Result<Machine> {
        let format = self.config.learner_options()?.format;
        Ok(Machine::open(device, threads, Some(format.into()), &self.checkpoint)?)
    }

    /// Loads the model and begins the run, or goes on with the one that its folder holds.
    ///
    /// # Errors
    /// As [`Run::open`] and [`Learner::load`].
    pub fn start<B: TrainBackend>(self, backend: B) -> Result<Finetune<B>> {
        let Self { config, checkpoint, maker, evaluator, beginning, report } = self;
        let options = ScheduleOptions {
            seed: config.seed,
            shuffled: true,
            rule: config.batch,
            epochs: config.all_epochs(),
            lengths: Some(report.lengths),
        };
        let batches = Schedule::new(&maker, options)?;
        let learner = Learner::load(backend, &checkpoint, config.learner_options()?)?;
        let defaults = LoaderOptions::default();
        let loader = LoaderOptions { threads: config.workers.unwrap_or(defaults.threads), ..defaults };
        let mut run = Run::open(learner, maker, batches, &loader, config.settings(), &config.output)?;
        if let Some(evaluator) = evaluator {
            run = run.with_evaluation(evaluator);
        }
        if config.tensorboard {
            run = run.with_events()?;
        }
        Ok(Finetune { config, checkpoint, beginning, run })
    }
}

/// The checkpoint in the folder; for a run from nothing one that is drawn, below the run's folder, until it has saved a place: then it
/// goes on from the one that it began with.
fn open_checkpoint(config: &RunConfig, surroundings: &Surroundings<'_>) -> Result<Checkpoint> {
    if surroundings.beginning == Beginning::Checkpoint {
        return Ok(Checkpoint::open(surroundings.folder)?);
    }
    let place = config.output.join(INITIAL);
    if place.is_dir() && Place::newest(&config.output)?.is_some() {
        check_weightless(surroundings.folder)?;
        return Ok(Checkpoint::open(&place)?);
    }
    if place.is_dir() {
        fs::remove_dir_all(&place).map_err(|error| failed(&place, "removed", error))?;
    }
    draw_checkpoint(surroundings.folder, &place, &config.initial)?;
    Ok(Checkpoint::open(&place)?)
}

/// What is learned from, and what is measured with.
fn open_data(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    processor: Arc<Processor>,
    drawing: OpenDrawing<'_>,
) -> Result<(ExampleMaker, Option<Evaluator>)> {
    let mixture = config.data.mixture()?;
    let held = config.evaluation.as_ref().and_then(|evaluation| evaluation.share);
    let held = held.map(|share| HoldOut { share, seed: config.seed });
    let part = held.map_or(Part::All, Part::Rest);
    let samples = Arc::new(Samples::open_with(&mixture, DEFAULT_CACHE, drawing, part)?);
    let maker = ExampleMaker::new(samples, processor.clone(), config.example_rules())?;
    let Some(evaluation) = &config.evaluation else { return Ok((maker, None)) };
    let (mixture, part) = match (&evaluation.data, held) {
        (Some(data), _) => (data.mixture()?, Part::All),
        (None, Some(held)) => (mixture, Part::Held(held)),
        (None, None) => (mixture, Part::All),
    };
    let here = |error: crate::Error| error.at("evaluation");
    let samples = Arc::new(Samples::open_with(&mixture, DEFAULT_CACHE, drawing, part).map_err(here)?);
    let rules = ExampleRules { loss: Loss::Replies, ..config.example_rules() };
    let examples = ExampleMaker::new(samples, processor, rules)?;
    let threads = config.workers.unwrap_or(LoaderOptions::default().threads);
    let ends = checkpoint.generation().eos_ids.clone();
    Ok((maker, Some(Evaluator::new(examples, evaluation.clone(), ends, threads)?)))
}

/// A run with where it came from.
pub struct Finetune<B: TrainBackend> {
    config: RunConfig,
    checkpoint: Checkpoint,
    beginning: Beginning,
    /// Its steps.
    pub run: Run<B>,
}

impl<B: TrainBackend> Finetune<B> {
    /// Writes what was learned below the run's folder, and returns where: `adapter` in PEFT's layout, or a checkpoint in `model`,
    /// of a run from nothing in the number format that its configuration names.
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
        let from_nothing = self.beginning == Beginning::Nothing;
        let dtype = from_nothing.then(|| self.checkpoint.config().stored_dtype).flatten();
        save_checkpoint(&self.checkpoint, taped, &place, dtype)?;
        Ok(place)
    }
}
