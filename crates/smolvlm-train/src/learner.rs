//! A model that learns: steps on examples, and updates.

use smolvlm::Compat;
use smolvlm::checkpoint::{Checkpoint, ModelConfig};
use smolvlm::model::Model;
use smolvlm_kernels::{Backend, CacheShape, Format, TrainBackend};

use crate::example::{Example, Step, tile_batch, tile_parts};
use crate::lora::LoraOptions;
use crate::optimizer::{Optimizer, Rates};
use crate::taped::{Recompute, Selection, Taped, Tensor};
use crate::{Error, Result};

/// How a model learns.
pub struct LearnerOptions {
    /// What products are computed in: f32, or bf16 beside f32 masters. Tensors that do not learn may be q8 or q4.
    pub format: Format,
    /// Which tensors of the checkpoint learn, by their names.
    pub selection: Selection,
    /// Adapters, and what they are on.
    pub lora: Option<LoraOptions>,
    /// What is kept until the way back.
    pub recompute: Recompute,
    /// Tiles that go through the vision tower together; 0: as many as the backend likes.
    pub tiles: usize,
}

impl Default for LearnerOptions {
    /// Everything learns, in f32.
    fn default() -> Self {
        Self { format: Format::F32, selection: Box::new(|_| true), lora: None, recompute: Recompute::Nothing, tiles: 0 }
    }
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepLoss {
    /// `Σ weight · cross-entropy` in nats.
    pub sum: f64,
    /// `Σ weight`.
    pub counted: f64,
}

impl StepLoss {
    /// Mean over the tokens that count.
    pub fn mean(&self) -> f64 {
        if self.counted > 0.0 { self.sum / self.counted } else { 0.0 }
    }
}

/// What a model makes of examples that it does not learn from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    /// As of a step.
    pub loss: StepLoss,
    /// Tokens that count.
    pub rows: u64,
    /// Those of them that the model would have chosen.
    pub right: u64,
}

impl Measured {
    /// Adds what another batch gave.
    pub fn add(&mut self, other: &Self) {
        self.loss.sum += other.loss.sum;
        self.loss.counted += other.loss.counted;
        self.rows += other.rows;
        self.right += other.right;
    }
}

/// A model over [`Taped<B>`], with what its steps need.
pub struct Learner<B: TrainBackend> {
    taped: Taped<B>,
    model: Model<Taped<B>>,
    tiles: usize,
    seed: u64,
    tile_plan: <Taped<B> as Backend>::Plan,
    token_plan: <Taped<B> as Backend>::Plan,
    cache: <Taped<B> as Backend>::Cache,
}

impl<B: TrainBackend> Learner<B> {
    /// Loads a validated checkpoint.
    ///
    /// # Errors
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) as [`Model::load`]; [`Usage`](crate::ErrorKind::Usage) when what is picked to
    /// learn cannot.
    pub fn load(backend: B, checkpoint: &Checkpoint, options: LearnerOptions) -> Result<Self> {
        let mut taped = Taped::new(backend, options.selection, options.recompute);
        if let Some(lora) = options.lora {
            lora.check()?;
            taped = taped.with_lora(lora);
        }
        let model = Model::load(&taped, checkpoint, options.format, Compat::Newest)?;
        taped.failure().map_err(|error| Error::usage(error.message))?;
        let text = &model.config().text;
        // Steps are over whole sequences, whose keys and values are not kept.
        let shape = CacheShape {
            layers: text.layers,
            kv_heads: text.kv_heads,
            head_dim: text.head_dim,
            pages: 0,
            format: options.format.of_attention(),
        };
        let patches = model.config().vision.patches_per_side().pow(2);
        let tiles = if options.tiles == 0 { taped.inner().training_tiles(patches) } else { options.tiles };
        let (tile_plan, token_plan, cache) = (taped.plan(), taped.plan(), taped.cache(shape));
        Ok(Self { taped, model, tiles, seed: 0, tile_plan, token_plan, cache })
    }

    /// The model's sizes.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The backend that notes what it does.
    pub fn taped(&self) -> &Taped<B> {
        &self.taped
    }

    /// What adapters it has on what, for people: `LoRA of rank 8, alpha 16, dropout 0.05 on q8`.
    pub fn adapters(&self) -> Option<String> {
        let lora = self.taped.lora()?;
        Some(format!("{}, dropout {} on {}", lora.describe(), lora.dropout, self.model.format().name()))
    }

    /// What products are computed in.
    pub fn format(&self) -> Format {
        self.model.format()
    }

    /// Draws the dropout of the steps that follow from this seed on: the same seed, the same draws.
    pub fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Adds the gradients of `scale · Σ weight · cross-entropy` over all tokens that count. For the mean over a batch that is
    /// taken in several steps, `scale` is one over the tokens that count in all of them.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when an example does not fit the model; [`Internal`](crate::ErrorKind::Internal) when the
    /// machine fails.
    pub fn learn(&mut self, examples: &[Example], scale: f64) -> Result<StepLoss> {
        check(examples, self.config())?;
        self.taped.begin(self.seed);
        self.seed = self.seed.wrapping_add(1);
        let outcome = self.forward(examples).and_then(|(step, logits)| {
            let weights: Vec<f32> = step.weights.iter().map(|weight| (f64::from(*weight) * scale) as f32).collect();
            let sum = self.taped.backward(&logits, &step.targets, &weights)?;
            Ok(StepLoss { sum: sum / scale, counted: step.counted() })
        });
        self.taped.end();
        outcome
    }

    /// The loss alone.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn evaluate(&mut self, examples: &[Example]) -> Result<StepLoss> {
        self.measure(examples).map(|measured| measured.loss)
    }

    /// The loss, and how many of the tokens that count are those that the model would have chosen.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn measure(&mut self, examples: &[Example]) -> Result<Measured> {
        check(examples, self.config())?;
        self.taped.begin_evaluation();
        let outcome = self.forward(examples).and_then(|(step, logits)| {
            let sum = self.taped.loss(&logits, &step.targets, &step.weights)?;
            let mut choices = Vec::new();
            self.taped.largest_into(&logits, &mut choices);
            self.taped.failure()?;
            let right = choices.iter().zip(&step.targets).filter(|(choice, target)| choice == target).count();
            let loss = StepLoss { sum, counted: step.counted() };
            Ok(Measured { loss, rows: step.targets.len() as u64, right: right as u64 })
        });
        self.taped.end();
        outcome
    }

    /// Greedy answers to prompts, each up to one of the ids in `ends`, which is left out, or `most` tokens. Every token reads
    /// its whole sequence anew, features of tiles excepted: for a few short answers while the model learns.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn answer(&mut self, prompts: &[Example], ends: &[u32], most: usize) -> Result<Vec<Vec<u32>>> {
        check(prompts, self.config())?;
        self.taped.begin_evaluation();
        let answers = self.generate(prompts, ends, most);
        self.taped.end();
        answers
    }

    fn generate(&mut self, prompts: &[Example], ends: &[u32], most: usize) -> Result<Vec<Vec<u32>>> {
        let features = self.features(prompts)?;
        let (context, mut sequences) = (self.config().text.max_positions, prompts.to_vec());
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut open = vec![true; prompts.len()];
        for _ in 0..most {
            let choices = self.next_tokens(&sequences, &features)?;
            for (at, id) in choices.into_iter().enumerate() {
                let sequence = &mut sequences[at];
                open[at] &= !ends.contains(&id) && sequence.ids.len() < context;
                if open[at] {
                    answers[at].push(id);
                    sequence.ids.push(id);
                    sequence.weights.push(0.0);
                }
            }
            if !open.contains(&true) {
                break;
            }
        }
        Ok(answers)
    }

    /// What the model would say next after each sequence.
    fn next_tokens(&mut self, sequences: &[Example], features: &[Tensor<B>]) -> Result<Vec<u32>> {
        let rows: Vec<usize> = features.iter().map(|features| self.taped.rows(features)).collect();
        let mut step = Step::new(sequences, self.model.config(), &rows);
        step.batch.outputs = step.batch.segments.iter().map(|segment| segment.rows.end as u32 - 1).collect();
        let logits = self.logits(&step, features)?;
        let mut choices = Vec::new();
        self.taped.largest_into(&logits, &mut choices);
        self.taped.failure()?;
        Ok(choices)
    }

    /// Moves all parameters one step along their gradients, which are then zero again; returns the norm that the gradients had.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when a gradient is not finite: nothing has moved then.
    pub fn update(&mut self, optimizer: &mut Optimizer<B>, rates: Rates) -> Result<f64> {
        let norm = optimizer.update(&self.taped, rates);
        self.taped.clear_gradients();
        norm
    }

    /// Tiles → features → logits of the rows whose next token counts.
    fn forward(&mut self, examples: &[Example]) -> Result<(Step, Tensor<B>)> {
        let features = self.features(examples)?;
        let rows: Vec<usize> = features.iter().map(|features| self.taped.rows(features)).collect();
        let step = Step::new(examples, self.model.config(), &rows);
        let logits = self.logits(&step, &features)?;
        Ok((step, logits))
    }

    /// What the tiles of all examples show: a tensor for each part of them.
    fn features(&mut self, examples: &[Example]) -> Result<Vec<Tensor<B>>> {
        let (taped, size) = (&self.taped, self.model.config().vision.image_size);
        let mut features = Vec::new();
        for part in &tile_parts(examples, self.tiles) {
            features.push(self.model.image_features(taped, &mut self.tile_plan, tile_batch(size, part))?);
        }
        Ok(features)
    }

    fn logits(&mut self, step: &Step, features: &[Tensor<B>]) -> Result<Tensor<B>> {
        let taped = &self.taped;
        taped.fill_tokens(&mut self.token_plan, &mut self.cache, &step.batch);
        let features: Vec<&Tensor<B>> = features.iter().collect();
        Ok(self.model.text().forward(taped, &self.token_plan, &mut self.cache, &features)?)
    }
}

fn check(examples: &[Example], config: &ModelConfig) -> Result<()> {
    let mut numbered = examples.iter().enumerate();
    numbered.try_for_each(|(i, example)| example.check(config).map_err(|error| error.at(format!("example {i}"))))
}
