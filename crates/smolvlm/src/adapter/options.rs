//! Low-rank adaptation (Hu et al. 2021): options, the matrices, and the files that PEFT reads and writes.

mod files;

use regex::Regex;

pub use files::AdapterFile;

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
        Self { rank: 8, alpha: 16.0, dropout: 0.0, rank_stabilised: false, targets, seed: 0 }
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
    text: String,
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

    /// The first `A` of a module, `[rank, inputs]`: uniform up to `1 / √inputs`, as PEFT draws it
    /// (`kaiming_uniform_` with `a = √5`). (The first `B` is zero.)
    pub(crate) fn first_matrix(&self, module: &str, inputs: usize) -> Vec<f32> {
        let mut state = module.bytes().fold(self.seed, |state, byte| mixed(state ^ u64::from(byte)));
        let bound = (inputs as f64).powf(-0.5);
        let mut draw = || {
            state = mixed(state);
            let unit = (state >> 11) as f64 / (1_u64 << 53) as f64;
            ((2.0 * unit - 1.0) * bound) as f32
        };
        (0..self.rank * inputs).map(|_| draw()).collect()
    }
}

/// A step of splitmix64.
fn mixed(state: u64) -> u64 {
    let x = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A tensor's module: its name without `.weight`.
pub(crate) fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The adapter of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraMatrices {
    /// `model.text_model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Rows of `a`, columns of `b`.
    pub rank: usize,
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
}

impl LoraMatrices {
    /// Of the matrix that it adapts: outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.b.len() / self.rank, self.a.len() / self.rank]
    }

    /// Adds `scaling · B · A` to `[outputs, inputs]` numbers.
    pub(crate) fn add_to(&self, numbers: &mut [f32], scaling: f64) {
        let inputs = self.a.len() / self.rank;
        let mut sums = vec![0.0_f64; inputs];
        for (numbers, b) in numbers.chunks_mut(inputs).zip(self.b.chunks(self.rank)) {
            sums.fill(0.0);
            for (b, a) in b.iter().zip(self.a.chunks(inputs)) {
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
            }
            numbers.iter_mut().zip(&sums).for_each(|(x, sum)| *x = (f64::from(*x) + scaling * sum) as f32);
        }
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

    #[test]
    fn the_first_matrix_is_uniform_and_the_seeds() {
        let options = LoraOptions { rank: 64, ..LoraOptions::default() };
        let first = options.first_matrix("a.q_proj", 100);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let deviation = (first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32).sqrt();
        assert!(first.iter().all(|x| x.abs() <= 0.1) && mean.abs() < 2e-3, "{mean}");
        assert!((deviation - 0.1 / 3.0_f32.sqrt()).abs() < 2e-3, "{deviation}");
        assert_eq!(first, options.first_matrix("a.q_proj", 100));
        assert_ne!(first, options.first_matrix("a.v_proj", 100));
        assert_ne!(first, LoraOptions { seed: 1, ..options }.first_matrix("a.q_proj", 100));
    }
}
