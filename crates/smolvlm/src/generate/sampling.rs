//! From logits to a token (`generation/logits_process.py`).

use std::collections::HashSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::{DrawRules, drawn, largest};

use super::options::{GenerateOptions, Sampling};

/// A token and its natural-log probability under the model, before any sampling rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What was chosen, and what else was likely.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The chosen token.
    pub chosen: Candidate,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<Candidate>,
}

/// Chooses one sequence's tokens.
pub(super) struct Sampler {
    sampling: Option<Sampling>,
    penalty: f32,
    /// What the penalty is for.
    seen: HashSet<u32>,
    logprobs: Option<usize>,
    rng: ChaCha8Rng,
}

impl Sampler {
    pub(super) fn new(options: &GenerateOptions, prompt: &[u32]) -> Self {
        let seed = options.sampling.as_ref().map_or(0, |sampling| sampling.seed);
        Self {
            sampling: options.sampling.clone(),
            penalty: options.repetition_penalty,
            seen: if options.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() },
            logprobs: options.logprobs,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Whether it always takes the largest logit and reports nothing else: then where that is suffices.
    pub(super) fn takes_the_largest(&self) -> bool {
        self.penalty == 1.0 && self.sampling.is_none() && self.logprobs.is_none()
    }

    /// Whether a draw by its rules is all it asks of a row of logits; then they, and the number that draws.
    pub(super) fn draws(&mut self) -> Option<(DrawRules, f64)> {
        let rules = self.sampling.as_ref().filter(|_| self.penalty == 1.0 && self.logprobs.is_none())?.rules();
        Some((rules, self.rng.random()))
    }

    /// Chooses a token and, if asked for, its log-probability.
    pub(super) fn choose(&mut self, logits: &[f32]) -> (u32, Option<TokenLogprob>) {
        let id = if self.penalty == 1.0 && self.sampling.is_none() {
            largest(logits)
        } else {
            let mut scores = logits.to_vec();
            if self.penalty != 1.0 {
                penalize(&mut scores, &self.seen, self.penalty);
            }
            let id = match &self.sampling {
                None => largest(&scores),
                Some(sampling) => drawn(&scores, &sampling.rules(), self.rng.random()),
            };
            if self.penalty != 1.0 {
                self.seen.insert(id);
            }
            id
        };
        (id, self.logprobs.map(|count| logprob_of(logits, id, count)))
    }
}

/// `RepetitionPenaltyLogitsProcessor`: once per id, whatever its count.
fn penalize(scores: &mut [f32], seen: &HashSet<u32>, penalty: f32) {
    for id in seen {
        if let Some(score) = scores.get_mut(*id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

fn logprob_of(logits: &[f32], id: u32, count: usize) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_total = total.ln() as f32 + max;
    let candidate = |id: u32| Candidate { id, logprob: logits[id as usize] - log_total };
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(order.len());
    if count > 0 {
        order.select_nth_unstable_by(count - 1, by_logit);
    }
    order.truncate(count);
    order.sort_unstable_by(by_logit);
    TokenLogprob { chosen: candidate(id), top: order.into_iter().map(candidate).collect() }
}

#[cfg(test)]
mod tests {
    use smolvlm_kernels::candidates;

    use super::*;

    fn sampler(options: &GenerateOptions) -> Sampler {
        Sampler::new(options, &[1])
    }

    #[test]
    fn greedy_takes_the_first_of_equal_logits() {
        let (id, _) = sampler(&GenerateOptions::default()).choose(&[0.0, 2.0, 2.0]);
        assert_eq!(id, 1);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_of_seen_ids_once() {
        let mut scores = vec![2.0, 2.0, -2.0, 1.0];
        penalize(&mut scores, &HashSet::from([1, 2, 99]), 2.0);
        assert_eq!(scores, [2.0, 1.0, -4.0, 1.0]);
    }

    #[test]
    fn equal_seeds_give_equal_draws_and_other_seeds_other_draws() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let run = |seed| {
            let options = GenerateOptions::default().sampling(Sampling { seed, ..Sampling::default() });
            let mut sampler = sampler(&options);
            (0..20).map(|_| sampler.choose(&logits).0).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0_f32, 1.0, 2.0];
        let options = GenerateOptions::default().sampling(Sampling { seed: 11, ..Sampling::default() });
        let mut sampler = sampler(&options);
        let draws = 20_000;
        let mut counts = [0.0; 3];
        (0..draws).for_each(|_| counts[sampler.choose(&logits).0 as usize] += 1.0 / f64::from(draws));
        for (id, probability) in candidates(&logits, &Sampling::default().rules()) {
            let count = counts[id as usize];
            // Three standard deviations of a frequency over 20,000 draws are at most 0.011.
            assert!((count - f64::from(probability)).abs() < 0.011, "{counts:?}");
        }
    }

    #[test]
    fn logprobs_are_of_the_model_and_sum_to_one() {
        let options = GenerateOptions { logprobs: Some(3), repetition_penalty: 5.0, ..GenerateOptions::default() };
        let (id, logprob) = sampler(&options).choose(&[1.0, 1.5, 0.0]);
        let logprob = logprob.expect("asked for");
        assert_eq!((id, logprob.top[0].id), (0, 1));
        let sum: f32 = logprob.top.iter().map(|candidate| candidate.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    /// `extras/sampling.*` of the goldens: transformers' own processors on logits with a tie.
    #[test]
    fn every_rule_and_their_chain_equal_the_reference() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/tiny/extras/sampling");
        let bytes = std::fs::read(format!("{folder}.safetensors")).expect("the tensors");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let floats = |name: &str| -> Vec<f32> {
            let data = tensors.tensor(name).expect("a tensor").data();
            data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let ids = tensors.tensor("input_ids").expect("ids").data().as_chunks::<8>().0;
        let ids: Vec<u32> = ids.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect();
        let text = std::fs::read_to_string(format!("{folder}.json")).expect("the settings");
        let rules: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let logits = floats("logits");
        for rule in &rules {
            let (index, given) = (&rule["index"], &rule["settings"]);
            let number = |key: &str, default: f64| given[key].as_f64().unwrap_or(default) as f32;
            let sampling = Sampling {
                temperature: number("temperature", 1.0),
                top_k: given["top_k"].as_u64().unwrap_or(0) as usize,
                top_p: number("top_p", 1.0),
                min_p: number("min_p", 0.0),
                seed: 0,
            };
            let expected = floats(&format!("{index}.probabilities"));
            for row in 0..3 {
                let mut scores = logits[row * 64..][..64].to_vec();
                let seen = ids[row * 12..][..12].iter().copied().collect();
                penalize(&mut scores, &seen, number("repetition_penalty", 1.0));
                let mut found = vec![0.0; 64];
                candidates(&scores, &sampling.rules()).iter().for_each(|(id, p)| found[*id as usize] = *p);
                for (found, expected) in found.iter().zip(&expected[row * 64..][..64]) {
                    // Softmax in f32, summed in another order.
                    assert!((found - expected).abs() < 1e-6, "{given}, row {row}: {found} for {expected}");
                    assert_eq!(*found == 0.0, *expected == 0.0, "{given}, row {row}");
                }
            }
        }
        assert!(rules.len() >= 8);
    }
}
