//! The batches of a step, taken from the loader while the device is still at work on the step before.

use super::RunSettings;
use crate::data::{Cursor, Loader, Skipped};
use crate::{Example, Result, Weighting};

/// Hands out what each step learns from, in order.
pub(super) struct Ahead {
    loader: Loader,
    /// Batches of a step.
    accumulation: usize,
    weighting: Weighting,
    next: Option<Result<StepBatches>>,
}

/// What one step learns from.
pub(super) struct StepBatches {
    /// Of the last batch, from 0.
    pub(super) epoch: u64,
    /// The examples of each batch; none after the last step.
    pub(super) parts: Vec<Vec<Example>>,
    /// Samples left out of them.
    pub(super) skipped: Vec<Skipped>,
    /// The place after them.
    pub(super) cursor: Cursor,
}

impl Ahead {
    pub(super) fn new(loader: Loader, settings: &RunSettings) -> Self {
        let RunSettings { accumulation, weighting, .. } = *settings;
        Self { loader, accumulation, weighting, next: None }
    }

    /// The batches of the next step; waits for them.
    pub(super) fn take(&mut self) -> Result<StepBatches> {
        self.next.take().unwrap_or_else(|| self.collect())
    }

    /// Waits for those of the step after, so that they are there when it begins. What fails is told then.
    pub(super) fn prepare(&mut self) {
        self.next = Some(self.take());
    }

    fn collect(&mut self) -> Result<StepBatches> {
        let (mut epoch, mut parts, mut skipped) = (0, Vec::new(), Vec::new());
        while parts.len() < self.accumulation {
            let Some(batch) = self.loader.next_batch()? else { break };
            epoch = batch.epoch;
            skipped.extend(batch.skipped);
            parts.push(batch.examples.into_iter().map(|made| Example::weighted(made, self.weighting)).collect());
        }
        Ok(StepBatches { epoch, parts, skipped, cursor: self.loader.cursor().clone() })
    }
}
