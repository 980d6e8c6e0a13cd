//! Training SmolVLM2: fine-tuning, and from nothing.
//!
//! The model that learns is the one that answers: [`Taped`] is a backend that runs another one's operations, notes them, and
//! goes through them backwards. [`Learner`] holds a model over it and takes steps on [`Example`]s. [`data`] reads what people have and
//! hands out batches.
#![forbid(unsafe_code)]

pub mod data;
mod error;
mod example;
mod files;
mod initial;
mod learner;
pub mod lora;
mod optimizer;
mod parameters;
pub mod run;
mod save;
mod schedule;
mod state;
pub mod taped;
mod yaml;

pub use error::{Error, ErrorKind, Result};
pub use example::{Example, Weighting};
pub use initial::{InitialWeights, draw_checkpoint, draw_weights};
pub use learner::{Learner, LearnerOptions, Measured, StepLoss};
pub use lora::{AdapterFile, LoraOptions, Targets};
pub use optimizer::{Optimizer, OptimizerSettings, Rates};
pub use parameters::{Group, Parameter};
pub use run::{
    Beginning, Evaluation, Evaluator, Finetune, LogLine, Override, Prepared, Run, RunConfig, RunSettings, StepReport,
    Surroundings, read_log,
};
pub use save::{MergeOptions, MergeProgress, Merged, merge_adapter, save_checkpoint};
pub use schedule::{Schedule, Shape};
pub use taped::{Recompute, Taped};
