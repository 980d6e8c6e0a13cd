//! A run as people write it down: a YAML file.
//!
//! ```yaml
//! model: ./smolvlm2-256m        # a checkpoint folder or hub id
//! data: mixture.yaml            # a mixture, a file or folder of records, or entries of a mixture in place
//! output: first-run             # where the run is kept; relative to this file
//! dtype: bf16                   # f32, bf16; beneath adapters also q8, q4
//! epochs: 3
//! batch: {by: count, samples: 4}
//! learning_rate: {vision: 0, connector: 1e-4, text: 1e-4}    # or one number; 0 leaves a part as it is
//! schedule: {shape: cosine, warmup: 30}
//! lora: {rank: 8, alpha: 16, dropout: 0.05}                  # none: all weights learn
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use smolvlm_kernels::Format;

use super::RunSettings;
use super::data::DataConfig;
use super::evaluation::EvaluationConfig;
use super::overrides::{self, Override};
use crate::data::{BatchRule, ExampleRules, Loss};
use crate::initial::InitialWeights;
use crate::lora::{LoraOptions, Targets};
use crate::optimizer::{OptimizerSettings, Rates};
use crate::parameters::Group;
use crate::schedule::Shape;
use crate::{Error, LearnerOptions, Recompute, Result, Weighting};

/// What a run is made of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// A checkpoint folder or hub id.
    pub model: String,
    /// A mixture (`.yaml`, `.yml`), a file or folder of records, or entries of a mixture in place.
    pub data: DataConfig,
    /// The folder of the run: its log, its last place, what it has learned.
    pub output: PathBuf,
    /// What products are computed in.
    #[serde(default)]
    pub dtype: TrainDtype,
    /// How often every sample is seen; none: as often as the steps ask for, or once.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Most steps; none: as many as the epochs have.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Which samples make a batch.
    #[serde(default = "four_samples")]
    pub batch: BatchRule,
    /// Batches of a step.
    #[serde(default = "one_batch")]
    pub accumulation: usize,
    /// Full rates.
    #[serde(default)]
    pub learning_rate: LearningRate,
    /// How they change.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Of AdamW.
    #[serde(default)]
    pub adamw: OptimizerSettings,
    /// Adapters in place of the weights.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Whether inner results of blocks are computed twice rather than kept.
    #[serde(default)]
    pub recompute: bool,
    /// Which tokens are learned.
    #[serde(default)]
    pub loss: Loss,
    /// How much a token counts, by how long its reply is.
    #[serde(default)]
    pub weighting: Weighting,
    /// Whether pictures are split into tiles; none: as the checkpoint says.
    #[serde(default)]
    pub split_images: Option<bool>,
    /// Longest example, in tokens; longer ones are skipped and named.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// Of the order of samples, of adapters' first values and of dropout.
    #[serde(default)]
    pub seed: u64,
    /// Steps between two saved places.
    #[serde(default = "often")]
    pub save_every: u64,
    /// What the model is measured with on the way.
    #[serde(default)]
    pub evaluation: Option<EvaluationConfig>,
    /// How weights are drawn for a model that has none.
    #[serde(default)]
    pub initial: InitialWeights,
    /// Whether scalars are written for TensorBoard.
    #[serde(default = "yes")]
    pub tensorboard: bool,
    /// Worker threads that make examples; none: one for each core.
    #[serde(default)]
    pub workers: Option<usize>,
}

/// A number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainDtype {
    /// Exact.
    F32,
    /// bfloat16 beside f32 masters.
    #[default]
    Bf16,
    /// Frozen weights in 8 bits.
    Q8,
    /// Frozen weights in 4 bits.
    Q4,
}

/// One rate, or one for each part.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum LearningRate {
    /// For all.
    One(f64),
    /// For each; what is not named is left as it is.
    Parts(Rates),
}

/// Rates from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// After the warm-up.
    pub shape: Shape,
    /// Steps.
    pub warmup: u64,
    /// Part of the full rates.
    pub floor: f64,
}

/// Adapters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rows of `A`.
    pub rank: usize,
    /// Scaled by `alpha / rank`.
    pub alpha: f64,
    /// Share of inputs left out.
    pub dropout: f32,
    /// Scaled by `alpha / √rank`.
    pub rank_stabilised: bool,
    /// Whether rows have learned lengths beside (DoRA).
    pub dora: bool,
    /// Names of modules, or a regular expression over whole names.
    pub targets: Option<TargetsConfig>,
}

/// Which modules have adapters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum TargetsConfig {
    /// A regular expression.
    Pattern(String),
    /// Names.
    Names(Vec<String>),
}

fn yes() -> bool {
    true
}

fn one_batch() -> usize {
    1
}

fn four_samples() -> BatchRule {
    BatchRule::Count { samples: 4 }
}

fn often() -> u64 {
    RunSettings::default().save_every
}

impl Default for LearningRate {
    fn default() -> Self {
        Self::One(RunSettings::default().rates.text)
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        let RunSettings { shape, warmup, floor, .. } = RunSettings::default();
        Self { shape, warmup, floor }
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        let LoraOptions { rank, alpha, dropout, rank_stabilised, dora, .. } = LoraOptions::default();
        Self { rank, alpha, dropout, rank_stabilised, dora, targets: None }
    }
}

impl RunConfig {
    /// Reads a file. Relative paths of data and output start at its folder.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when it cannot be read, naming the line: unknown keys, wrong types;
    /// [`Usage`](crate::ErrorKind::Usage) for numbers out of range.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_file_with(path, &[])
    }

    /// Reads a file with some of its values replaced, paths in which start at the file's folder too.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file); [`Usage`](crate::ErrorKind::Usage) for a replacement that does not fit, by its key.
    pub fn from_file_with(path: &Path, overrides: &[Override]) -> Result<Self> {
        let mut config: Self = overrides::read(path, overrides)?;
        config.check().map_err(|error| error.at(path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.data = config.data.below(folder);
        config.output = folder.join(config.output);
        config.evaluation = config.evaluation.map(|evaluation| evaluation.below(folder));
        Ok(config)
    }

    /// Epochs that the schedule of the data has.
    pub fn all_epochs(&self) -> u64 {
        self.epochs.unwrap_or(if self.steps.is_some() { u64::MAX } else { 1 })
    }

    fn check(&self) -> Result<()> {
        let Rates { vision, connector, text } = self.rates();
        let OptimizerSettings { beta1, beta2, eps, decay, clip } = self.adamw;
        let at_least_zero = [
            ("learning_rate.vision", vision),
            ("learning_rate.connector", connector),
            ("learning_rate.text", text),
            ("adamw.weight_decay", decay),
            ("schedule.floor", self.schedule.floor),
        ];
        let wrong =
            |name: &str, range: &str, found: f64| Err(Error::usage(format!("{name}: expected {range}, found {found}")));
        if let Some((name, found)) = at_least_zero.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return wrong(name, "a number of at least 0", *found);
        }
        if let Some((name, found)) =
            [("adamw.beta1", beta1), ("adamw.beta2", beta2)].iter().find(|(_, beta)| !(0.0..1.0).contains(beta))
        {
            return wrong(name, "a number from 0 to below 1", *found);
        }
        let above_zero = [("adamw.eps", eps), ("adamw.clip", clip.unwrap_or(1.0))];
        if let Some((name, found)) = above_zero.iter().find(|(_, value)| !value.is_finite() || *value <= 0.0) {
            return wrong(name, "a number above 0", *found);
        }
        if self.epochs == Some(0) || self.accumulation == 0 || self.workers == Some(0) {
            return Err(Error::usage("epochs, accumulation and workers: expected at least 1 of each, found 0"));
        }
        self.data.check().map_err(|error| error.at("data"))?;
        self.evaluation.as_ref().map_or(Ok(()), EvaluationConfig::check).map_err(|error| error.at("evaluation"))?;
        if vision + connector + text == 0.0 {
            return Err(Error::usage("learning_rate: expected one above 0, or nothing would be learned"));
        }
        if self.lora.is_none() && matches!(self.dtype, TrainDtype::Q8 | TrainDtype::Q4) {
            return Err(Error::usage("dtype: q8 and q4 weights cannot learn; expected lora beside them"));
        }
        self.lora_options()?.map_or(Ok(()), |lora| Ok(lora.check()?))
    }

    fn rates(&self) -> Rates {
        match self.learning_rate {
            LearningRate::One(rate) => Rates::same(rate),
            LearningRate::Parts(rates) => rates,
        }
    }

    /// What the run does with its model and its data.
    pub fn settings(&self) -> RunSettings {
        RunSettings {
            seed: self.seed,
            accumulation: self.accumulation,
            steps: self.steps,
            rates: self.rates(),
            shape: self.schedule.shape,
            warmup: self.schedule.warmup,
            floor: self.schedule.floor,
            optimizer: self.adamw,
            weighting: self.weighting,
            save_every: self.save_every,
        }
    }

    /// How samples become examples.
    pub fn example_rules(&self) -> ExampleRules {
        ExampleRules { loss: self.loss, max_tokens: self.max_tokens.unwrap_or(usize::MAX), ..ExampleRules::default() }
    }

    /// How the model learns: what has no rate does not, and beneath adapters nothing else does.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for adapters that cannot be made.
    pub fn learner_options(&self) -> Result<LearnerOptions> {
        let (rates, lora) = (self.rates(), self.lora_options()?);
        let all = lora.is_none();
        Ok(LearnerOptions {
            format: match self.dtype {
                TrainDtype::F32 => Format::F32,
                TrainDtype::Bf16 => Format::Bf16,
                TrainDtype::Q8 => Format::Q8,
                TrainDtype::Q4 => Format::Q4,
            },
            selection: Box::new(move |name| all && rates.of(Group::of(name)) != 0.0),
            lora,
            recompute: if self.recompute { Recompute::Blocks } else { Recompute::Nothing },
            tiles: 0,
        })
    }

    fn lora_options(&self) -> Result<Option<LoraOptions>> {
        let Some(LoraConfig { rank, alpha, dropout, rank_stabilised, dora, targets }) = &self.lora else {
            return Ok(None);
        };
        let targets = match targets {
            None => LoraOptions::default().targets,
            Some(TargetsConfig::Names(names)) => Targets::Names(names.clone()),
            Some(TargetsConfig::Pattern(pattern)) => Targets::pattern(pattern)?,
        };
        let (rank, alpha, dropout, rank_stabilised, dora) = (*rank, *alpha, *dropout, *rank_stabilised, *dora);
        Ok(Some(LoraOptions { rank, alpha, dropout, rank_stabilised, dora, targets, seed: self.seed }))
    }
}
