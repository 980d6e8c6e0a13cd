//! A place in the sequence of batches, to be saved and gone on from.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::batches::{BatchPlan, BatchRule};
use super::check::Lengths;
use super::dataset::Dataset;
use super::example::ExampleMaker;
use super::order::Order;
use super::samples::{SampleRef, Samples};
use crate::{Error, Result};

/// Which batch comes next. Everything random is drawn anew from seed and epoch, so this is all there is to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch in it, from 0.
    pub batch: u64,
    /// Samples handed out so far.
    pub samples: u64,
    /// Samples skipped so far.
    pub skipped: u64,
    /// A digest of everything that the batches depend on: data, order, rules.
    pub fingerprint: String,
}

/// All batches of all epochs, as a function of seed and epoch.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(super) order: Order,
    pub(super) rule: BatchRule,
    pub(super) lengths: Option<Lengths>,
    pub(super) seed: u64,
    /// Epochs in all.
    pub(super) epochs: u64,
    fingerprint: String,
}

/// What a schedule is made of.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// What all random choice of the order comes from.
    pub seed: u64,
    /// Whether samples are shuffled; else they come in the order of the files.
    pub shuffled: bool,
    /// How an epoch is cut into batches.
    pub rule: BatchRule,
    /// Epochs in all.
    pub epochs: u64,
    /// How long samples are, from [`check`](super::check()); samples that cannot be used are then left out from the start.
    pub lengths: Option<Lengths>,
}

/// One epoch.
pub(super) struct Epoch {
    pub(super) order: Vec<SampleRef>,
    pub(super) plan: BatchPlan,
}

impl Schedule {
    /// The schedule of these examples.
    ///
    /// # Errors
    /// A usage error for a batch of nothing, or a rule that needs lengths where there are none or those of other data; as
    /// [`Order::new`].
    pub fn new(maker: &ExampleMaker, options: ScheduleOptions) -> Result<Self> {
        let ScheduleOptions { seed, shuffled, rule, epochs, lengths } = options;
        let samples = maker.samples();
        rule.check()?;
        if rule.needs_lengths() && lengths.is_none() {
            return Err(Error::usage("grouping and packing need the lengths of samples: check the data first"));
        }
        if lengths.as_ref().is_some_and(|lengths| !lengths.fit(samples)) {
            return Err(Error::usage("the lengths are those of other data"));
        }
        let has_drawn = samples.datasets().iter().any(Dataset::is_drawn);
        if has_drawn && rule.needs_lengths() {
            return Err(Error::usage(
                "grouping and packing need the lengths of samples, which drawn ones (`scenes`) have none of: expected batches by count",
            ));
        }
        if !has_drawn && lengths.as_ref().is_some_and(|lengths| lengths.iter().all(|length| length.tokens == 0)) {
            return Err(Error::input("not one sample can be used: see what the check has found"));
        }
        let order = Order::new(samples, seed, shuffled)?;
        let mut hash = Sha256::new();
        hash.update(samples.digest());
        hash.update(format!("{order:?} {rule:?} {:?}", maker.rules()));
        for length in lengths.iter().flat_map(Lengths::iter) {
            hash.update([length.tokens.to_le_bytes(), length.tiles.to_le_bytes()].concat());
        }
        let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { order, rule, lengths, seed, epochs, fingerprint })
    }

    /// The place before the first batch.
    pub fn start(&self) -> Cursor {
        Cursor { epoch: 0, batch: 0, samples: 0, skipped: 0, fingerprint: self.fingerprint.clone() }
    }

    /// Whether a saved place is one of this schedule's.
    ///
    /// # Errors
    /// A usage error when data, order or rules have changed since it was saved.
    pub fn check(&self, cursor: &Cursor) -> Result<()> {
        if cursor.fingerprint == self.fingerprint {
            return Ok(());
        }
        Err(Error::usage(
            "the saved place does not fit: data, mixture, seed, batch rule or token limit are not those it was saved with",
        ))
    }

    /// Batches of an epoch, those included all of whose samples turn out to be broken.
    pub fn batches(&self, samples: &Samples, epoch: u64) -> usize {
        self.epoch(samples, epoch).plan.len()
    }

    /// Batches of all epochs, counted up to `most`.
    pub fn batches_up_to(&self, samples: &Samples, most: u64) -> u64 {
        let mut all = 0_u64;
        for epoch in 0..self.epochs {
            let batches = self.batches(samples, epoch) as u64;
            all = all.saturating_add(batches);
            if all >= most || batches == 0 {
                break;
            }
        }
        all.min(most)
    }

    pub(super) fn epoch(&self, samples: &Samples, epoch: u64) -> Epoch {
        let order = self.order.epoch(samples, epoch);
        let plan = self.rule.plan(&order, self.lengths.as_ref(), self.seed, epoch);
        Epoch { order, plan }
    }
}
