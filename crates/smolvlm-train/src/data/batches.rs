//! Which samples of an epoch make a batch.
//!
//! Samples of a batch never see each other: attention runs inside each sequence of a ragged batch. So packing is only a matter
//! of how many tokens a batch holds.

use serde::{Deserialize, Serialize};

use super::check::Lengths;
use super::random::{generator, shuffle};
use super::samples::SampleRef;
use crate::{Error, Result};

/// How an epoch is cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum BatchRule {
    /// So many samples, as they come.
    Count {
        /// Samples of a batch; the last of an epoch may have fewer.
        samples: usize,
    },
    /// So many samples of like length. Needs lengths.
    Grouped {
        /// Samples of a batch; the last of an epoch may have fewer.
        samples: usize,
        /// Batches whose samples are sorted together. More: lengths in a batch differ less, and the order is less random.
        window: usize,
    },
    /// As many samples as fit. Needs lengths. A sample that alone does not fit is a batch of its own.
    Packed {
        /// Most tokens of a batch.
        tokens: usize,
        /// Most tiles of a batch.
        tiles: usize,
        /// Samples that are packed together.
        window: usize,
    },
}

/// The batches of an epoch: positions in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchPlan {
    positions: Vec<u32>,
    ends: Vec<u32>,
}

impl BatchPlan {
    /// Batches.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Positions, in the epoch's order, of the samples of a batch.
    pub fn batch(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.positions[start..self.ends[index] as usize]
    }

    fn push(&mut self, batch: &[u32]) {
        self.positions.extend(batch);
        self.ends.push(self.positions.len() as u32);
    }
}

impl BatchRule {
    /// Whether it needs to know how long samples are.
    pub fn needs_lengths(self) -> bool {
        !matches!(self, Self::Count { .. })
    }

    /// # Errors
    /// A usage error for a batch of nothing.
    pub(super) fn check(self) -> Result<()> {
        let (least, what) = match self {
            Self::Count { samples } => (samples, "samples of a batch"),
            Self::Grouped { samples, window } => (samples.min(window), "samples of a batch and of a window"),
            Self::Packed { tokens, tiles, window } => {
                (tokens.min(tiles).min(window), "tokens, tiles and window of a batch")
            }
        };
        if least == 0 { Err(Error::usage(format!("{what}: expected at least 1, found 0"))) } else { Ok(()) }
    }

    /// The batches of an epoch. Where lengths are known, samples that cannot be used are in none.
    pub fn plan(self, order: &[SampleRef], lengths: Option<&Lengths>, seed: u64, epoch: u64) -> BatchPlan {
        let usable = |sample: &SampleRef| lengths.is_none_or(|lengths| lengths.is_usable(*sample));
        let positions = order.iter().enumerate().filter(|(_, sample)| usable(sample)).map(|(at, _)| at as u32);
        let positions: Vec<u32> = positions.collect();
        let size = |position: u32| {
            let length = lengths.and_then(|lengths| lengths.of(order[position as usize])).unwrap_or_default();
            (length.tokens as usize, length.tiles as usize)
        };
        let mut plan = BatchPlan::default();
        match self {
            Self::Count { samples } => positions.chunks(samples).for_each(|batch| plan.push(batch)),
            Self::Grouped { samples, window } => {
                for (index, window) in positions.chunks(samples.saturating_mul(window)).enumerate() {
                    let mut sorted = window.to_vec();
                    sorted.sort_by_key(|position| size(*position));
                    let mut batches: Vec<_> = sorted.chunks(samples).collect();
                    shuffle(&mut generator(seed, "groups", &[epoch, index as u64]), &mut batches);
                    batches.into_iter().for_each(|batch| plan.push(batch));
                }
            }
            Self::Packed { tokens, tiles, window } => {
                for (index, window) in positions.chunks(window).enumerate() {
                    let mut bins = pack(window, size, (tokens, tiles));
                    shuffle(&mut generator(seed, "packs", &[epoch, index as u64]), &mut bins);
                    bins.iter().for_each(|bin| plan.push(bin));
                }
            }
        }
        plan
    }
}

/// First-fit decreasing: the longest first, each into the first batch with room for it.
fn pack(
    positions: &[u32],
    size: impl Fn(u32) -> (usize, usize),
    (most_tokens, most_tiles): (usize, usize),
) -> Vec<Vec<u32>> {
    let mut sorted = positions.to_vec();
    sorted.sort_by_key(|position| std::cmp::Reverse(size(*position)));
    let mut bins: Vec<(usize, usize, Vec<u32>)> = Vec::new();
    for position in sorted {
        let (tokens, tiles) = size(position);
        let fits = |(t, v, _): &&mut (usize, usize, Vec<u32>)| t + tokens <= most_tokens && v + tiles <= most_tiles;
        match bins.iter_mut().find(fits) {
            Some((bin_tokens, bin_tiles, bin)) => {
                *bin_tokens += tokens;
                *bin_tiles += tiles;
                bin.push(position);
            }
            None => bins.push((tokens, tiles, vec![position])),
        }
    }
    bins.into_iter().map(|(_, _, bin)| bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::check::Length;

    fn samples(lengths: &[(u32, u32)]) -> (Vec<SampleRef>, Lengths) {
        let order = (0..lengths.len()).map(|sample| SampleRef { dataset: 0, sample: sample as u32 }).collect();
        let lengths = lengths.iter().map(|(tokens, tiles)| Length { tokens: *tokens, tiles: *tiles }).collect();
        (order, Lengths::from(vec![lengths]))
    }

    fn batches(plan: &BatchPlan) -> Vec<Vec<u32>> {
        (0..plan.len()).map(|index| plan.batch(index).to_vec()).collect()
    }

    /// Lengths that look random, and 10 samples that cannot be used.
    fn many() -> (Vec<SampleRef>, Lengths) {
        let length = |at: u32| (if at % 50 == 7 { 0 } else { 10 + at * 7919 % 1000 }, at * 31 % 17);
        samples(&(0..500).map(length).collect::<Vec<_>>())
    }

    #[test]
    fn batches_by_count_keep_the_order() {
        let (order, _) = samples(&[(1, 0); 5]);
        assert_eq!(
            batches(&BatchRule::Count { samples: 2 }.plan(&order, None, 0, 0)),
            [vec![0, 1], vec![2, 3], vec![4]]
        );
    }

    #[test]
    fn every_rule_shows_each_usable_sample_once() {
        let (order, lengths) = many();
        for rule in [
            BatchRule::Count { samples: 7 },
            BatchRule::Grouped { samples: 8, window: 5 },
            BatchRule::Packed { tokens: 3000, tiles: 40, window: 100 },
        ] {
            let mut seen: Vec<u32> = batches(&rule.plan(&order, Some(&lengths), 1, 2)).concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..500).filter(|at| at % 50 != 7).collect::<Vec<_>>(), "{rule:?}");
        }
    }

    #[test]
    fn groups_hold_samples_of_like_length_in_an_order_that_the_seed_draws() {
        let (order, lengths) = many();
        let rule = BatchRule::Grouped { samples: 8, window: 20 };
        let spread = |plan: &BatchPlan| -> u32 {
            let tokens = |at: &u32| lengths.of(order[*at as usize]).map_or(0, |length| length.tokens);
            let spread =
                |batch: &Vec<u32>| batch.iter().map(tokens).max().unwrap() - batch.iter().map(tokens).min().unwrap();
            batches(plan).iter().map(spread).sum()
        };
        let (grouped, plain) = (rule.plan(&order, Some(&lengths), 1, 0), BatchRule::Count { samples: 8 });
        assert!(spread(&grouped) * 8 < spread(&plain.plan(&order, Some(&lengths), 1, 0)));
        assert_eq!(grouped, rule.plan(&order, Some(&lengths), 1, 0));
        assert_ne!(grouped, rule.plan(&order, Some(&lengths), 2, 0));
        assert_ne!(grouped, rule.plan(&order, Some(&lengths), 1, 1));
    }

    #[test]
    fn packs_fit_and_are_nearly_full() {
        let (order, lengths) = many();
        let plan = BatchRule::Packed { tokens: 4000, tiles: 1000, window: 500 }.plan(&order, Some(&lengths), 1, 0);
        let tokens = |batch: &[u32]| {
            batch.iter().map(|at| lengths.of(order[*at as usize]).map_or(0, |length| length.tokens)).sum::<u32>()
        };
        let total: u32 = (0..plan.len()).map(|index| tokens(plan.batch(index))).sum();
        assert!((0..plan.len()).all(|index| tokens(plan.batch(index)) <= 4000));
        assert!(plan.len() as u32 <= total / 4000 + 2, "{} batches for {total} tokens", plan.len());
    }

    #[test]
    fn a_sample_that_does_not_fit_is_alone() {
        let (order, lengths) = samples(&[(50, 1), (500, 1), (50, 9), (50, 1)]);
        let plan = BatchRule::Packed { tokens: 100, tiles: 4, window: 9 }.plan(&order, Some(&lengths), 0, 0);
        let mut found = batches(&plan);
        found.sort();
        assert_eq!(found, [vec![0, 3], vec![1], vec![2]]);
    }
}
