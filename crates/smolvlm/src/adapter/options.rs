//! How adapters are made, and which modules have one.

use regex::Regex;

use crate::{Error, Result};

/// How adapters are made.
#[derive(Debug, Clone)]
pub struct LoraOptions {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// Adapters are scaled by `alpha / rank`.
    pub alpha: f64,
    /// Share of an adapter's inputs that a step leaves out.
    pub dropout: f32,
    /// Scales by `alpha / √rank` instead (Kalajdzievski 2023).
    pub rank_stabilised: bool,
    /// Whether rows have learned lengths beside (DoRA): `m / ‖W + scaling · B · A‖` scales each.
    pub dora: bool,
    /// Which matrices have one.
    pub targets: Targets,
    /// Draws the first `A`.
    pub seed: u64,
}

impl Default for LoraOptions {
    /// Rank 8, alpha 16, on every projection of both towers' attention and MLPs.
    fn default() -> Self {
        let names =
            ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2"];
        let targets = Targets::Names(names.map(str::to_owned).to_vec());
        Self { rank: 8, alpha: 16.0, dropout: 0.0, rank_stabilised: false, dora: false, targets, seed: 0 }
    }
}

/// Which modules have adapters, as PEFT's `target_modules` says it.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Those that have one of these names, or whose names end with one after a dot.
    Names(Vec<String>),
    /// Those whose whole name matches.
    Pattern(Pattern),
}

/// A regular expression that matches whole names, and its text.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub(super) text: String,
    whole: Regex,
}

impl Targets {
    /// A regular expression over whole names.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it is none.
    pub fn pattern(text: &str) -> Result<Self> {
        let whole = Regex::new(&format!("^(?:{text})$"));
        let whole =
            whole.map_err(|error| Error::usage(format!("target modules: {text:?}: {error}")).caused_by(error))?;
        Ok(Self::Pattern(Pattern { text: text.to_owned(), whole }))
    }

    /// Whether a module (`model.text_model.layers.0.self_attn.q_proj`) has an adapter.
    pub fn pick(&self, module: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }),
            Self::Pattern(pattern) => pattern.whole.is_match(module),
        }
    }
}

impl LoraOptions {
    /// What `B · A · x` is multiplied by.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// For people: `LoRA of rank 8, alpha 16`.
    pub fn describe(&self) -> String {
        let kind = if self.dora { "DoRA" } else { "LoRA" };
        let stabilised = if self.rank_stabilised { ", rank-stabilised" } else { "" };
        format!("{kind} of rank {}, alpha {}{stabilised}", self.rank, self.alpha)
    }

    /// Whether they make sense.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage): names the option.
    pub fn check(&self) -> Result<()> {
        if !(1..=4096).contains(&self.rank) {
            return Err(Error::usage(format!("rank: expected 1 to 4096, found {}", self.rank)));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::usage(format!("alpha: expected a number above 0, found {}", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::usage(format!("dropout: expected 0 to less than 1, found {}", self.dropout)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_pick_whole_last_parts_and_patterns_whole_names() {
        let names = Targets::Names(vec!["q_proj".to_owned(), "mlp.fc1".to_owned()]);
        assert!(names.pick("model.text_model.layers.0.self_attn.q_proj") && names.pick("q_proj"));
        assert!(names.pick("model.vision_model.encoder.layers.1.mlp.fc1"));
        assert!(!names.pick("model.layers.0.self_attn.faq_proj") && !names.pick("model.fc1"));
        let pattern = Targets::pattern(r".*text_model.*\.(q|v)_proj").expect("a pattern");
        assert!(pattern.pick("model.text_model.layers.11.self_attn.v_proj"));
        assert!(!pattern.pick("model.text_model.layers.11.self_attn.v_proj.more"));
        assert!(!pattern.pick("model.vision_model.encoder.layers.0.self_attn.q_proj"));
        assert!(Targets::pattern("(").is_err());
    }
}
