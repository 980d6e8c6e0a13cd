//! From logits to a token: the likeliest, or a random one (`generation/logits_process.py`).

/// Which tokens may be drawn. The order of the rules is the reference's: temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawRules {
    /// Logits are divided by this. Above 0.
    pub temperature: f32,
    /// Only the `k` likeliest stay (ties at the threshold all stay). 0: off.
    pub top_k: usize,
    /// Only the likeliest whose probabilities reach `p` together stay. 1: off.
    pub top_p: f32,
    /// Only tokens at least `min_p` times as likely as the likeliest stay. 0: off.
    pub min_p: f32,
}

/// A token to be drawn from a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Which row.
    pub row: usize,
    /// Who may be drawn.
    pub rules: DrawRules,
    /// In [0, 1): the token at which the running sum of probabilities, likeliest first, passes this.
    pub uniform: f64,
}

/// The lowest index of the largest number.
pub fn largest(numbers: &[f32]) -> u32 {
    // Lane by lane, which the compiler turns into vectors.
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane = larger(*lane, *number));
    }
    let best = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    numbers.iter().position(|number| *number == best).unwrap_or_default() as u32
}

/// The tokens that survive the rules with their probabilities, likeliest first; equal ones by id.
pub fn candidates(logits: &[f32], rules: &DrawRules) -> Vec<(u32, f32)> {
    let scores = logits.iter().map(|logit| logit / rules.temperature);
    let mut kept: Vec<(u32, f32)> = (0..).zip(scores).collect();
    keep_top_k(&mut kept, rules.top_k);
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    keep_top_p(&mut kept, rules.top_p);
    keep_min_p(&mut kept, rules.min_p);
    softmax(&kept)
}

/// The token that `uniform` draws from a row of logits.
pub fn drawn(logits: &[f32], rules: &DrawRules, uniform: f64) -> u32 {
    let probabilities = candidates(logits, rules);
    let mut sum = 0.0;
    for (id, probability) in &probabilities {
        sum += f64::from(*probability);
        if uniform < sum {
            return *id;
        }
    }
    probabilities.last().map_or(0, |(id, _)| *id)
}

/// `TopKLogitsWarper`: scores below the k-th largest go.
fn keep_top_k(kept: &mut Vec<(u32, f32)>, k: usize) {
    if k == 0 || k >= kept.len() {
        return;
    }
    let (_, threshold, _) = kept.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
    let threshold = threshold.1;
    kept.retain(|(_, score)| *score >= threshold);
}

/// `TopPLogitsWarper`: walking up from the unlikeliest, tokens go while their sum is at most 1 − p; one always stays.
fn keep_top_p(kept: &mut Vec<(u32, f32)>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let mut sum = 0.0;
    let probabilities = softmax(kept);
    let gone = probabilities.iter().rev().take_while(|(_, probability)| {
        sum += f64::from(*probability);
        sum <= f64::from(1.0 - p)
    });
    let gone = gone.count().min(kept.len() - 1);
    kept.truncate(kept.len() - gone);
}

/// `MinPLogitsWarper`: tokens less than `min_p` times as likely as the likeliest go.
fn keep_min_p(kept: &mut Vec<(u32, f32)>, min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let probabilities = softmax(kept);
    let threshold = min_p * probabilities[0].1;
    let stay = probabilities.iter().take_while(|(_, probability)| *probability >= threshold).count();
    kept.truncate(stay.max(1));
}

/// Probabilities of scores that come largest first.
fn softmax(scores: &[(u32, f32)]) -> Vec<(u32, f32)> {
    let Some((_, max)) = scores.first() else { return Vec::new() };
    let weights: Vec<f32> = scores.iter().map(|(_, score)| (score - max).exp()).collect();
    // A long tail is not lost.
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    scores.iter().zip(weights).map(|((id, _), weight)| (*id, weight / total as f32)).collect()
}
