//! Drawn pictures and clips with questions and answers: the data of the demonstration model.
//!
//! A [`Generator`] makes any number of samples from a seed. Sample `index` depends on the seed, the split, the mixture and `index`
//! alone, so that workers draw different ones side by side and a training run goes on where it stopped. Nothing is read
//! from files: fonts are part of this crate.
//!
//! ```
//! use smolvlm_scenes::{Generator, Mixture, Split};
//!
//! let generator = Generator::new(1, Split::Train, Mixture::default());
//! let sample = generator.sample(12);
//! let turn = &sample.turns[0];
//! assert!(turn.check.accepts(&turn.answer));
//! ```
//!
//! Choices are the same on every machine. Pixels are drawn in floating point by tiny-skia and may differ by a level between
//! instruction sets.
#![forbid(unsafe_code)]

mod check;
mod dice;
mod draw;
mod error;
mod export;
mod files;
mod held;
mod mixture;
mod model_folder;
mod phrase;
mod sample;
mod scene;
mod sheet;
mod skills;
mod tokenizer;
mod vocabulary;
mod words;

pub use check::{Check, Class};
pub use error::{Error, Result};
pub use export::{Exported, export, export_samples};
pub use files::{encode_png, write_png};
pub use held::Split;
pub use mixture::{Mixture, Skill};
pub use model_folder::{PARAMETERS, write_model_folder};
pub use sample::{Clip, Detail, Medium, Picture, Sample, Turn};
pub use sheet::contact_sheet;
pub use tokenizer::{SpecialIds, TrainedTokenizer, train_tokenizer};

use dice::Dice;

/// Share of samples with a system message.
const WITH_SYSTEM: f32 = 0.1;
const SYSTEM: &[&str] = &[
    "You answer questions about pictures.",
    "Answer briefly.",
    "You are a helpful assistant.",
    "Look closely and answer the question.",
];

/// Makes samples.
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    split: Split,
    mixture: Mixture,
}

impl Generator {
    /// A source of samples for one purpose. Training and evaluation share nothing, even with one seed.
    pub fn new(seed: u64, split: Split, mixture: Mixture) -> Self {
        Self { seed, split, mixture }
    }

    /// What the samples are for.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Sample number `index`, without those before it.
    pub fn sample(&self, index: u64) -> Sample {
        // The two splits draw from the two halves of the streams.
        let half = u64::from(self.split == Split::Held) << 63;
        let mut dice = Dice::new(self.seed, half ^ index);
        let skill = self.mixture.skill(dice.weighted(self.mixture.weights().map(|(_, weight)| weight)));
        let draft = skills::draft(skill, &mut dice, self.split);
        let system = dice.chance(WITH_SYSTEM).then(|| (*dice.pick(SYSTEM)).to_owned());
        Sample { skill, system, media: draft.media, turns: draft.turns, detail: draft.detail }
    }
}

/// Whether `reply` is a right answer to turn number `turn` of a sample; [`Check`] says how that is decided.
pub fn correct(sample: &Sample, turn: usize, reply: &str) -> bool {
    sample.turns.get(turn).is_some_and(|turn| turn.check.accepts(reply))
}
