//! How to choose tokens and when to stop.

use smolvlm_kernels::DrawRules;

use crate::{Error, Result};

/// New tokens when neither the caller nor the checkpoint says how many, as in the reference
/// (`GenerationConfig.max_length`).
const DEFAULT_NEW_TOKENS: usize = 20;

/// How a reply is generated. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to generate, the end token included.
    pub max_new_tokens: usize,
    /// How each token is chosen; none: the likeliest.
    pub sampling: Option<Sampling>,
    /// Logits of ids seen in the prompt or the reply are divided (if positive) or multiplied by this. 1: off.
    pub repetition_penalty: f32,
    /// Ids that end the reply besides the checkpoint's own end tokens.
    pub stop_ids: Vec<u32>,
    /// Strings that end the reply; the text stops before them.
    pub stop_strings: Vec<String>,
    /// Whether the checkpoint's end tokens are ignored, so that exactly `max_new_tokens` come (for measuring).
    pub ignore_end: bool,
    /// How many alternatives to report beside each token's log-probability; none: no log-probabilities.
    pub logprobs: Option<usize>,
}

/// Random choice of tokens. The order of the rules is the reference's: temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this. Above 0.
    pub temperature: f32,
    /// Only the `k` likeliest stay (ties at the threshold all stay). 0: off.
    pub top_k: usize,
    /// Only the likeliest whose probabilities reach `p` together stay. 1: off.
    pub top_p: f32,
    /// Only tokens at least `min_p` times as likely as the likeliest stay. 0: off.
    pub min_p: f32,
    /// Equal seeds, prompts and options give equal replies, alone or in a batch.
    pub seed: u64,
}

impl Sampling {
    /// The rules without the seed.
    pub(super) fn rules(&self) -> DrawRules {
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        DrawRules { temperature, top_k, top_p, min_p }
    }
}

impl Default for Sampling {
    /// The reference's defaults once sampling is on; note its active `top_k` of 50.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: DEFAULT_NEW_TOKENS,
            sampling: None,
            repetition_penalty: 1.0,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            ignore_end: false,
            logprobs: None,
        }
    }
}

impl GenerateOptions {
    /// The same options with another limit of new tokens.
    #[must_use]
    pub fn max_new_tokens(mut self, count: usize) -> Self {
        self.max_new_tokens = count;
        self
    }

    /// The same options with random choice.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = Some(sampling);
        self
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage), naming the value.
    pub fn validate(&self) -> Result<()> {
        let check = |holds: bool, what: &str, range: &str, found: f32| {
            let message = || Error::usage(format!("{what} is {found}; it must be {range}"));
            if holds { Ok(()) } else { Err(message()) }
        };
        let penalty = self.repetition_penalty;
        check(penalty.is_finite() && penalty > 0.0, "repetition_penalty", "above 0", penalty)?;
        if self.max_new_tokens == 0 {
            return Err(Error::usage("max_new_tokens is 0; at least one token must be generated"));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(Error::usage("a stop string is empty; leave it out instead"));
        }
        let Some(sampling) = &self.sampling else { return Ok(()) };
        let Sampling { temperature, top_p, min_p, .. } = *sampling;
        check(temperature.is_finite() && temperature > 0.0, "temperature", "above 0", temperature)?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", "above 0 and at most 1", top_p)?;
        check((0.0..=1.0).contains(&min_p), "min_p", "from 0 to 1", min_p)
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    EndToken,
    /// A stop string appeared.
    StopString,
    /// `max_new_tokens` were generated.
    Length,
    /// The model's context is full.
    Context,
}

impl FinishReason {
    /// A stable name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndToken => "end_token",
            Self::StopString => "stop_string",
            Self::Length => "length",
            Self::Context => "context",
        }
    }
}
