//! In which order an epoch shows its samples: a function of the data, a seed and the epoch's number.
//!
//! Each entry of the mixture is an endless sequence of passes over its samples, every pass in a new order; an epoch takes the
//! next so many of each, and mixes them evenly. Without weights that is every sample once. Drawn samples never come again.

use std::ops::Range;

use super::random::{generator, shuffle};
use super::samples::{SampleRef, Samples};
use crate::{Error, Result};

/// Row groups whose rows are shuffled together: as many as should fit the cache, as few as keep reading cheap.
const GROUPS_TOGETHER: usize = 8;

/// Most samples of one epoch: their order takes 12 bytes each while it is made.
const MAX_EPOCH: usize = 1 << 28;

/// How epochs are drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    shuffled: bool,
    /// Samples of one epoch, by dataset.
    shares: Vec<usize>,
}

impl Order {
    /// The order that `seed` gives; not `shuffled`: that of the files, entry after entry.
    ///
    /// # Errors
    /// An input error for a mixture without samples, for a weighted entry without, or for an epoch of more than 2²⁸.
    pub fn new(samples: &Samples, seed: u64, shuffled: bool) -> Result<Self> {
        let (datasets, total) = (samples.datasets(), samples.epoch_len());
        if total == 0 || total > MAX_EPOCH {
            return Err(Error::input(format!("an epoch of {total} samples; expected 1 to {MAX_EPOCH}")));
        }
        let weights: Option<Vec<f64>> = datasets.iter().map(|dataset| dataset.weight()).collect();
        let shares = match weights {
            None => datasets.iter().map(|dataset| dataset.len()).collect(),
            Some(weights) => {
                if let Some(empty) = datasets.iter().find(|dataset| dataset.is_empty()) {
                    return Err(Error::input(format!(
                        "{}: no samples are selected, and it has a weight",
                        empty.name()
                    )));
                }
                apportion(total, &weights)
            }
        };
        Ok(Self { seed, shuffled, shares })
    }

    /// Samples of one epoch, by dataset.
    pub fn shares(&self) -> &[usize] {
        &self.shares
    }

    /// The samples of an epoch, in order: 8 bytes each.
    pub fn epoch(&self, samples: &Samples, epoch: u64) -> Vec<SampleRef> {
        let mut drawn: Vec<std::vec::IntoIter<u32>> = Vec::with_capacity(self.shares.len());
        for dataset in 0..self.shares.len() {
            drawn.push(self.draw(samples, dataset, epoch).into_iter());
        }
        let turns = self.shares.iter().enumerate();
        let mut turns: Vec<u32> = turns.flat_map(|(set, share)| std::iter::repeat_n(set as u32, *share)).collect();
        if self.shuffled {
            shuffle(&mut generator(self.seed, "turns", &[epoch]), &mut turns);
        }
        let next = |dataset: u32| drawn[dataset as usize].next().map(|sample| SampleRef { dataset, sample });
        turns.into_iter().filter_map(next).collect()
    }

    /// What an epoch takes of one dataset. Of drawn samples it takes new ones, which are in no order already; their numbers
    /// start over after 2³².
    fn draw(&self, samples: &Samples, dataset: usize, epoch: u64) -> Vec<u32> {
        if samples.datasets()[dataset].is_drawn() {
            let share = self.shares[dataset] as u64;
            return (0..share).map(|at| epoch.wrapping_mul(share).wrapping_add(at) as u32).collect();
        }
        let (share, len) = (self.shares[dataset] as u64, samples.datasets()[dataset].len() as u64);
        let mut drawn = Vec::with_capacity(self.shares[dataset]);
        let mut at = u128::from(epoch) * u128::from(share);
        while drawn.len() < self.shares[dataset] {
            let (pass, start) = ((at / u128::from(len)) as u64, (at % u128::from(len)) as usize);
            let order = self.pass(samples, dataset, pass);
            let end = order.len().min(start + self.shares[dataset] - drawn.len());
            drawn.extend(&order[start..end]);
            at += (end - start) as u128;
        }
        drawn
    }

    /// One pass over all samples of a dataset. Groups come in any order, so many at a time, with their samples mixed: of files
    /// that are one group, every order is as likely.
    fn pass(&self, samples: &Samples, dataset: usize, pass: u64) -> Vec<u32> {
        let set = &samples.datasets()[dataset];
        let mut rng = generator(self.seed, "pass", &[dataset as u64, pass]);
        let mut groups: Vec<Range<usize>> = set.groups();
        if self.shuffled {
            shuffle(&mut rng, &mut groups);
        }
        let mut order = Vec::with_capacity(set.len());
        for together in groups.chunks(GROUPS_TOGETHER) {
            let start = order.len();
            order.extend(together.iter().cloned().flatten().map(|sample| sample as u32));
            if self.shuffled {
                shuffle(&mut rng, &mut order[start..]);
            }
        }
        order
    }
}

/// `total` in proportion to the weights: whole numbers that sum to it (largest remainders, the earlier first).
fn apportion(total: usize, weights: &[f64]) -> Vec<usize> {
    // Only proportions matter, and no sum of finite weights overflows after this.
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / largest / sum * total as f64).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
    let given: usize = shares.iter().sum();
    for index in by_remainder.into_iter().cycle().take(total.saturating_sub(given)) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_the_epoch_and_follow_the_weights() {
        assert_eq!(apportion(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(apportion(1000, &[17.4, 82.6]), [174, 826]);
        assert_eq!(apportion(3, &[f64::MAX, f64::MAX]), [2, 1]);
        assert_eq!(apportion(7, &[1e-300, 1.0]), [0, 7]);
        for total in [1, 17, 99_999] {
            assert_eq!(apportion(total, &[0.3, 6.8, 20.2, 1.9, 0.7]).iter().sum::<usize>(), total);
        }
    }
}
