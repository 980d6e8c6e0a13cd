//! What the workers and the one who takes from them have in common.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::LoaderOptions;
use crate::data::cursor::{Cursor, Epoch, Schedule};
use crate::data::example::{Example, ExampleMaker};
use crate::data::samples::SampleRef;
use crate::{Error, Result};

/// A sample's turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// Counted from 0 since the loader started, without gaps.
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) batch: u64,
    pub(super) last_of_batch: bool,
    pub(super) last_of_epoch: bool,
    pub(super) sample: SampleRef,
}

/// What became of a ticket.
pub(super) struct Outcome {
    pub(super) ticket: Ticket,
    pub(super) made: Result<Example>,
    /// Memory accounted for.
    pub(super) bytes: u64,
}

pub(super) struct Shared {
    pub(super) maker: ExampleMaker,
    schedule: Schedule,
    feed: Mutex<Feed>,
    state: Mutex<State>,
    changed: Condvar,
    most_bytes: u64,
    most_examples: u64,
}

/// Where the next ticket comes from.
struct Feed {
    epoch: u64,
    current: Option<Epoch>,
    batch: usize,
    within: usize,
    number: u64,
}

#[derive(Default)]
struct State {
    /// The next ticket to be admitted.
    admitted: u64,
    /// The next ticket to be taken.
    taken: u64,
    /// Tickets in all, once that is known.
    total: Option<u64>,
    bytes: u64,
    peak: u64,
    ready: BTreeMap<u64, Outcome>,
    stopped: bool,
}

impl Shared {
    pub(super) fn new(maker: ExampleMaker, schedule: Schedule, cursor: &Cursor, options: &LoaderOptions) -> Self {
        let batch = usize::try_from(cursor.batch).unwrap_or(usize::MAX);
        let feed = Feed { epoch: cursor.epoch, current: None, batch, within: 0, number: 0 };
        Self {
            maker,
            schedule,
            feed: Mutex::new(feed),
            state: Mutex::default(),
            changed: Condvar::new(),
            most_bytes: options.bytes,
            most_examples: options.examples as u64,
        }
    }

    /// The next sample's turn, when it may begin; none when there is nothing more to do.
    pub(super) fn next_ticket(&self) -> Option<Ticket> {
        let ticket = self.feed.lock().unwrap_or_else(PoisonError::into_inner).next(self);
        let mut state = self.lock();
        let Ok(ticket) = ticket.map_err(|total| state.total = Some(total)) else {
            self.changed.notify_all();
            return None;
        };
        state = self.wait_while(state, |state| ticket.number >= state.taken + self.most_examples);
        (!state.stopped).then_some(ticket)
    }

    /// Waits until what a ticket will take fits, after all tickets before it. False when it is not wanted any more.
    pub(super) fn admit(&self, ticket: &Ticket, bytes: u64) -> bool {
        let waits = |state: &State| {
            let fits = state.bytes == 0 || state.bytes.saturating_add(bytes) <= self.most_bytes;
            state.admitted != ticket.number || !fits
        };
        let mut state = self.wait_while(self.lock(), waits);
        if state.stopped {
            return false;
        }
        state.admitted += 1;
        state.bytes = state.bytes.saturating_add(bytes);
        state.peak = state.peak.max(state.bytes);
        self.changed.notify_all();
        true
    }

    /// Hands over what became of a ticket that was admitted with `admitted` bytes.
    pub(super) fn finish(&self, outcome: Outcome, admitted: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(admitted).saturating_add(outcome.bytes);
        state.peak = state.peak.max(state.bytes);
        state.ready.insert(outcome.ticket.number, outcome);
        self.changed.notify_all();
    }

    /// The outcome of the next ticket; none after the last.
    pub(super) fn take(&self) -> Result<Option<Outcome>> {
        let waits = |state: &State| state.total != Some(state.taken) && !state.ready.contains_key(&state.taken);
        let mut state = self.wait_while(self.lock(), waits);
        let next = state.taken;
        let Some(outcome) = state.ready.remove(&next) else {
            return if state.total == Some(next) { Ok(None) } else { Err(Error::internal("a data worker has ended")) };
        };
        state.taken += 1;
        state.bytes = state.bytes.saturating_sub(outcome.bytes);
        self.changed.notify_all();
        Ok(Some(outcome))
    }

    /// Lets everyone who waits go.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.lock().peak
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(&self, state: MutexGuard<'a, State>, waits: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_while(state, |state| !state.stopped && waits(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// The next ticket, or how many there were.
    fn next(&mut self, shared: &Shared) -> Result<Ticket, u64> {
        loop {
            if self.epoch >= shared.schedule.epochs {
                return Err(self.number);
            }
            let samples = shared.maker.samples();
            let Epoch { order, plan } = self.current.get_or_insert_with(|| shared.schedule.epoch(samples, self.epoch));
            if plan.is_empty() {
                return Err(self.number);
            }
            if self.batch >= plan.len() {
                (self.epoch, self.current, self.batch, self.within) = (self.epoch + 1, None, 0, 0);
                continue;
            }
            let batch = plan.batch(self.batch);
            let last_of_batch = self.within + 1 == batch.len();
            let ticket = Ticket {
                number: self.number,
                epoch: self.epoch,
                batch: self.batch as u64,
                last_of_batch,
                last_of_epoch: last_of_batch && self.batch + 1 == plan.len(),
                sample: order[batch[self.within] as usize],
            };
            self.number += 1;
            (self.batch, self.within) = if last_of_batch { (self.batch + 1, 0) } else { (self.batch, self.within + 1) };
            return Ok(ticket);
        }
    }
}
