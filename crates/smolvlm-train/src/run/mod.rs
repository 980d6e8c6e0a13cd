//! A run of many steps over data, which may be killed at any moment and goes on where it last saved.

pub mod ahead;
mod config;
pub mod data;
pub mod evaluation;
mod events;
mod finetune;
mod log;
mod overrides;
mod picture;
mod place;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use smolvlm_kernels::{Backend, TrainBackend};

pub use self::config::RunConfig;
pub use self::data::DataConfig;
pub use self::evaluation::{Evaluation, EvaluationConfig, Evaluator};
pub use self::finetune::{Beginning, Finetune, Prepared, Surroundings};
pub use self::log::{LogLine, read_log};
pub use self::overrides::Override;
pub use self::picture::draw_loss;

use self::ahead::{Ahead, StepBatches};
use self::events::Events;
use self::log::Log;
use self::place::Place;
use crate::data::{Cursor, ExampleMaker, Loader, LoaderOptions, Schedule, Skipped};
use crate::optimizer::{Optimizer, OptimizerSettings, Rates};
use crate::schedule;
use crate::{Error, ErrorKind, Example, Learner, Result, Weighting};

/// Steps in a row whose gradients may be infinite or no numbers before the run ends with an error.
const MOST_LEFT_OUT: u64 = 10;

/// What a run is, beside its model and its data.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// What dropout is drawn from.
    pub seed: u64,
    /// Batches that make one step: their gradients add up.
    pub accumulation: usize,
    /// Most steps; none: as many as the schedule of the data has batches for.
    pub steps: Option<u64>,
    /// Full learning rates.
    pub rates: Rates,
    /// How they change after the warm-up.
    pub shape: schedule::Shape,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Part of the full rates below which they never fall after it.
    pub floor: f64,
    /// Of AdamW.
    pub optimizer: OptimizerSettings,
    /// How much a token counts.
    pub weighting: Weighting,
    /// Steps between two saved places; the last step is always saved. 0: only the last.
    pub save_every: u64,
}

impl Default for RunSettings {
    /// One batch a step, a rate of 1e-4, 3 % of a thousand steps of warm-up, then half a cosine.
    fn default() -> Self {
        Self {
            seed: 0,
            accumulation: 1,
            steps: None,
            rates: Rates::same(1e-4),
            shape: schedule::Shape::Cosine,
            warmup: 30,
            floor: 0.0,
            optimizer: OptimizerSettings::default(),
            weighting: Weighting::default(),
            save_every: 500,
        }
    }
}

/// What one step did: a line of the run's log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: u64,
    /// Epoch of its last batch, from 0.
    pub epoch: u64,
    /// Mean cross-entropy over the tokens that count, by their weights, in nats.
    pub loss: f64,
    /// Norm of the gradients before clipping; none when it was no number, and nothing moved.
    pub norm: Option<f64>,
    /// Part of the full learning rates.
    pub rate: f64,
    /// Examples, tokens read, and tokens that count.
    pub examples: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Sum of the weights of those that count: how many they are, unless replies are weighted.
    pub counted: u64,
    /// Samples skipped since the run began.
    pub skipped: u64,
    /// Seconds of this step, waiting for data included. On the processor the only number that another run may have otherwise.
    pub seconds: f64,
}

/// A run in progress.
pub struct Run<B: TrainBackend> {
    learner: Learner<B>,
    optimizer: Optimizer<B>,
    batches: Ahead,
    /// The place after the batches of the last step.
    cursor: Cursor,
    settings: RunSettings,
    /// What must be the same for it to go on.
    described: String,
    schedule: schedule::Schedule,
    folder: PathBuf,
    log: Log,
    step: u64,
    /// Steps in a row that moved nothing.
    left_out: u64,
    /// What was skipped in the last step.
    skipped: Vec<Skipped>,
    events: Option<Events>,
    evaluator: Option<Evaluator>,
    /// What was measured after the last step.
    evaluation: Option<Evaluation>,
}

impl<B: TrainBackend> Run<B> {
    /// A run in `folder`: a new one, or the one that is there, from where it last saved.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) when the folder holds a run of other data or other settings;
    /// [`Input`](ErrorKind::Input) when it cannot be read or written.
    pub fn open(
        mut learner: Learner<B>,
        maker: ExampleMaker,
        batches: Schedule,
        loader: &LoaderOptions,
        settings: RunSettings,
        folder: &Path,
    ) -> Result<Self> {
        if settings.accumulation == 0 {
            return Err(Error::usage("batches of a step: expected at least 1, found 0"));
        }
        let total = total_steps(&settings, |most| batches.batches_up_to(maker.samples(), most));
        let described = place::described(&settings, total, learner.format(), learner.adapters().as_deref());
        let mut optimizer = Optimizer::new(learner.taped(), settings.optimizer);
        let (step, cursor) = match Place::newest(folder)? {
            Some(place) => {
                place.check(&described)?;
                optimizer.resume(&place.state(), learner.taped())?;
                (place.step, place.cursor)
            }
            None => (0, batches.start()),
        };
        learner.seed(seed_of(&settings, step));
        let log = Log::open(folder, step)?;
        let schedule =
            schedule::Schedule { shape: settings.shape, warmup: settings.warmup, total, floor: settings.floor };
        let batches = Ahead::new(Loader::start(maker, batches, cursor.clone(), loader)?, &settings);
        let (folder, left_out, skipped) = (folder.to_owned(), 0, Vec::new());
        let (events, evaluator, evaluation) = (None, None, None);
        Ok(Self {
            learner,
            optimizer,
            batches,
            cursor,
            settings,
            described,
            schedule,
            folder,
            log,
            step,
            left_out,
            skipped,
            events,
            evaluator,
            evaluation,
        })
    }

    /// The same run, measured on the way. Its steps are those that it would take anyway, bit by bit.
    #[must_use]
    pub fn with_evaluation(mut self, evaluator: Evaluator) -> Self {
        self.evaluator = Some(evaluator);
        self
    }

    /// Steps taken so far, those before it was resumed included.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Steps in all.
    pub fn total_steps(&self) -> u64 {
        self.schedule.total
    }

    /// The model as it is.
    pub fn learner(&self) -> &Learner<B> {
        &self.learner
    }

    /// Samples that could not be used in the last step, by name.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The same run, which writes scalars for TensorBoard into its folder: an event file of its own each time it is gone on with.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) when the file cannot be made.
    pub fn with_events(mut self) -> Result<Self> {
        if self.step < self.schedule.total {
            self.events = Some(Events::create(&self.folder, self.step, self.settings.rates)?);
        }
        Ok(self)
    }

    /// Measures the model before its first step, so that there is something to compare with. Nothing of a run that is gone on
    /// with, or that is measured at its end alone.
    ///
    /// # Errors
    /// As [`Evaluator::measure`]; [`Input`](ErrorKind::Input) when the log cannot be written.
    pub fn measure_first(&mut self) -> Result<Option<&Evaluation>> {
        if self.step == 0 && self.evaluator.as_ref().is_some_and(|evaluator| evaluator.every() > 0) {
            self.evaluate()?;
            return Ok(self.evaluation());
        }
        Ok(None)
    }

    /// What was measured after the last step, if it was time to.
    pub fn evaluation(&self) -> Option<&Evaluation> {
        self.evaluation.as_ref()
    }

    /// Takes one step, writes it to the log, measures and saves when it is time to; none when all steps are taken.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) when no sample of an epoch can be used, gradients stay without a finite norm, or a file cannot be
    /// written; [`Internal`](ErrorKind::Internal) when the machine fails.
    pub fn step(&mut self) -> Result<Option<StepReport>> {
        if self.step >= self.schedule.total {
            return Ok(None);
        }
        self.evaluation = None;
        let started = Instant::now();
        let StepBatches { epoch, parts, skipped, cursor } = self.batches.take()?;
        (self.skipped, self.cursor) = (skipped, cursor);
        if parts.is_empty() {
            // Batches without a usable sample were passed over, so that there are fewer steps than planned.
            self.evaluate()?;
            self.save()?;
            return Ok(None);
        }
        let counted: f64 = parts.iter().flatten().map(Example::counted).sum();
        let mut sum = 0.0;
        for examples in &parts {
            sum += self.learner.learn(examples, 1.0 / counted)?.sum;
        }
        if self.step + 1 < self.schedule.total {
            self.batches.prepare();
        }
        let rate = self.schedule.factor(self.step);
        let norm = self.update(rate)?;
        self.step += 1;
        let report = StepReport {
            step: self.step,
            epoch,
            loss: sum / counted,
            norm,
            rate,
            examples: parts.iter().map(|examples| examples.len() as u64).sum(),
            tokens: parts.iter().flatten().map(|example| example.ids.len() as u64).sum(),
            counted: counted as u64,
            skipped: self.cursor.skipped,
            seconds: started.elapsed().as_secs_f64(),
        };
        self.note(&LogLine::Step(report.clone()))?;
        let is_last = self.step == self.schedule.total;
        let is_time = |every: u64| is_last || (every > 0 && self.step.is_multiple_of(every));
        let (measures, saves) = (
            self.evaluator.as_ref().is_some_and(|evaluator| is_time(evaluator.every())),
            is_time(self.settings.save_every),
        );
        if measures {
            self.evaluate()?;
        }
        if saves {
            self.save()?;
        }
        Ok(Some(report))
    }

    /// Writes a line to the log, and what it says to the event file.
    fn note(&mut self, line: &LogLine) -> Result<()> {
        self.log.write(line)?;
        let memory = self.events.is_some().then(|| self.memory()).flatten();
        self.events.as_mut().map_or(Ok(()), |events| events.write(line, memory))
    }

    /// Bytes in use: of the GPU where it computes, else of this process, where the system tells.
    pub fn memory(&self) -> Option<u64> {
        let process = || smolvlm::ProcessMemory::read().map(|memory| memory.now);
        self.learner.taped().most_memory().or_else(process)
    }

    /// Measures the model as it is, and writes that to the log.
    fn evaluate(&mut self) -> Result<()> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        let evaluation = evaluator.measure(&mut self.learner, self.step, &self.folder)?;
        self.note(&LogLine::Evaluation { step: self.step, evaluation: evaluation.clone() })?;
        self.evaluation = Some(evaluation);
        Ok(())
    }

    /// Saves the place, where a run of the same settings goes on from, and draws the losses so far.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) when it cannot be written.
    pub fn save(&mut self) -> Result<()> {
        self.log.flush()?;
        let place = Place::new(&self.folder, self.step, self.cursor.clone(), &self.described);
        place.write(|state| self.optimizer.store(state, self.learner.taped()))?;
        draw_loss(&self.folder)
    }

    /// Moves the parameters; the norm of their gradients, or none when it was not finite and nothing moved.
    fn update(&mut self, rate: f64) -> Result<Option<f64>> {
        match self.learner.update(&mut self.optimizer, self.settings.rates.scaled(rate)) {
            Ok(norm) => {
                self.left_out = 0;
                Ok(Some(norm))
            }
            Err(error) if error.kind() == ErrorKind::Input && self.left_out + 1 < MOST_LEFT_OUT => {
                self.left_out += 1;
                Ok(None)
            }
            Err(error) => Err(error.at(format!("step {}", self.step + 1))),
        }
    }
}

/// Steps that the batches are enough for, as many as are wanted at most.
fn total_steps(settings: &RunSettings, batches_up_to: impl FnOnce(u64) -> u64) -> u64 {
    let each = settings.accumulation as u64;
    let most = settings.steps.map_or(u64::MAX, |steps| steps.saturating_mul(each));
    batches_up_to(most).div_ceil(each)
}

/// Every batch draws from a seed of its own, whatever came before.
fn seed_of(settings: &RunSettings, step: u64) -> u64 {
    settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step.wrapping_mul(settings.accumulation as u64))
}
