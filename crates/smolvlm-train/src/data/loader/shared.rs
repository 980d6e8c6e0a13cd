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
    /// Memory that its turn was given with: that of a drawn sample is not known before it is drawn.
    pub(super) admitted: Option<u64>,
    pub(super) epoch: u64,
    pub(super) batch: u64,
    pub(super) last_of_batch: bool,
    pub(super) last_of_epoch: bool,
    pub(super) sample: SampleRef,
}

/// What a drawn sample is taken to need until it is made: thirteen tiles of 128 pixels a side, and their picture.
const DRAWN_BYTES: u64 = 3 << 19;

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
    /// For workers: there may be room for more.
    room: Condvar,
    /// For the one who takes: what comes next may be ready.
    next_ready: Condvar,
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
    /// Workers that wait to be admitted.
    waiting: usize,
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
            room: Condvar::new(),
            next_ready: Condvar::new(),
            most_bytes: options.bytes,
            most_examples: options.examples as u64,
        }
    }

    /// The next sample's turn, when it may begin; none when there is nothing more to do.
    pub(super) fn next_ticket(&self) -> Option<Ticket> {
        let ticket = self.feed.lock().unwrap_or_else(PoisonError::into_inner).next(self);
        let mut state = self.lock();
        let Ok(mut ticket) = ticket.map_err(|total| state.total = Some(total)) else {
            self.next_ready.notify_all();
            return None;
        };
        state = self.wait_for_room(state, |state| ticket.number >= state.taken + self.most_examples);
        if state.stopped {
            return None;
        }
        drop(state);
        // Drawing is most of the work of a drawn sample: it waits for its turn before that, not after.
        if self.maker.samples().datasets()[ticket.sample.dataset as usize].is_drawn() {
            if !self.admit(&ticket, DRAWN_BYTES) {
                return None;
            }
            ticket.admitted = Some(DRAWN_BYTES);
        }
        Some(ticket)
    }

    /// Waits until what a ticket will take fits, after all tickets before it. False when it is not wanted any more.
    pub(super) fn admit(&self, ticket: &Ticket, bytes: u64) -> bool {
        let waits = |state: &State| {
            let fits = state.bytes == 0 || state.bytes.saturating_add(bytes) <= self.most_bytes;
            state.admitted != ticket.number || !fits
        };
        let mut state = self.lock();
        state.waiting += 1;
        state = self.wait_for_room(state, waits);
        state.waiting -= 1;
        if state.stopped {
            return false;
        }
        state.admitted += 1;
        state.bytes = state.bytes.saturating_add(bytes);
        state.peak = state.peak.max(state.bytes);
        if state.waiting > 0 {
            self.room.notify_all();
        }
        true
    }

    /// Hands over what became of a ticket that was admitted with `admitted` bytes.
    pub(super) fn finish(&self, outcome: Outcome, admitted: u64) {
        let (mut state, kept) = (self.lock(), outcome.bytes);
        state.bytes = state.bytes.saturating_sub(admitted).saturating_add(kept);
        state.peak = state.peak.max(state.bytes);
        let is_next = outcome.ticket.number == state.taken;
        state.ready.insert(outcome.ticket.number, outcome);
        if is_next {
            self.next_ready.notify_all();
        }
        if kept < admitted && state.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Adds the outcomes of the next tickets to `outcomes`, as many as are ready, up to the last of a batch; waits until there
    /// is one. False after the last of all.
    pub(super) fn take(&self, outcomes: &mut Vec<Outcome>) -> Result<bool> {
        let waits = |state: &State| state.total != Some(state.taken) && !state.ready.contains_key(&state.taken);
        let state = self.lock();
        let waited = self.next_ready.wait_while(state, |state| !state.stopped && waits(state));
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let first = state.taken;
        while let next = state.taken
            && let Some(outcome) = state.ready.remove(&next)
        {
            state.taken += 1;
            state.bytes = state.bytes.saturating_sub(outcome.bytes);
            let is_last = outcome.ticket.last_of_batch;
            outcomes.push(outcome);
            if is_last {
                break;
            }
        }
        if state.taken > first {
            self.room.notify_all();
            return Ok(true);
        }
        if state.total == Some(first) { Ok(false) } else { Err(Error::internal("a data worker has ended")) }
    }

    /// Lets everyone who waits go.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.room.notify_all();
        self.next_ready.notify_all();
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.lock().peak
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_room<'a>(&self, state: MutexGuard<'a, State>, waits: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        let waited = self.room.wait_while(state, |state| !state.stopped && waits(state));
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
                admitted: None,
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
