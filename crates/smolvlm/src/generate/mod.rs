//! Turns prompts into tokens: sequences, pages of keys and values, sampling, stopping, batching.

mod engine;
mod features;
mod options;
mod pages;
mod sampling;
mod sequence;
mod text;

pub(crate) use engine::check_context;
pub use engine::{CachePlan, Engine, Generator, Logits, Request, SequenceId, StepOutput};
pub use features::Features;
pub use options::{FinishReason, GenerateOptions, Sampling};
pub use sampling::{Candidate, TokenLogprob};
pub use text::{TextFilter, TextPiece};
