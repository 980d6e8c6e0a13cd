//! Examples made on worker threads ahead of the device, handed out in the order of the schedule.
//!
//! Workers take samples in order and may finish in any. Each is admitted, in order again, once what it will take fits the
//! memory allowed; the oldest is always admitted, so nothing waits for what comes after it. The batches are the same whatever the
//! number of threads.

mod shared;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;

use self::shared::{Outcome, Shared, Ticket};
use super::cursor::{Cursor, Schedule};
use super::example::{Example, ExampleMaker};
use crate::{Error, Result};

/// Names of skipped samples that are kept; the rest are counted.
const MAX_NAMED: usize = 1000;

/// How far ahead, and by how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Worker threads.
    pub threads: usize,
    /// Most memory of examples that are being made or wait, in bytes: pixels as they are decoded, tiles, ids. One example that
    /// alone takes more is made alone. Encoded files, while their headers are read, come on top, one for each thread.
    pub bytes: u64,
    /// Most examples that are being made or wait.
    pub examples: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, bytes: 1 << 30, examples: 1024 }
    }
}

/// A sample that was left out of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Why: names sample, file, expected, found.
    pub message: String,
}

/// The examples of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Its number in the epoch, from 0.
    pub index: u64,
    /// At least one.
    pub examples: Vec<Example>,
    /// Samples left out since the last batch.
    pub skipped: Vec<Skipped>,
}

/// The batches of a schedule from some place on. Dropping it ends its threads: each finishes the sample it is at.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    cursor: Cursor,
    skipped: Vec<Skipped>,
    useful_in_epoch: bool,
}

impl Loader {
    /// Starts the workers at a place of the schedule.
    ///
    /// # Errors
    /// A usage error when the place is another schedule's, or nothing may be ahead; an internal one when no thread can be
    /// started.
    pub fn start(maker: ExampleMaker, schedule: Schedule, cursor: Cursor, options: &LoaderOptions) -> Result<Self> {
        schedule.check(&cursor)?;
        if options.threads == 0 || options.examples == 0 {
            return Err(Error::usage("worker threads and examples ahead: expected at least 1 of each, found 0"));
        }
        let shared = Arc::new(Shared::new(maker, schedule, &cursor, options));
        // An epoch that was begun has shown its useful samples already.
        let useful_in_epoch = cursor.batch > 0;
        let mut loader = Self { shared, workers: Vec::new(), cursor, skipped: Vec::new(), useful_in_epoch };
        for number in 0..options.threads.min(256) {
            let shared = loader.shared.clone();
            let thread = std::thread::Builder::new().name(format!("data {number}"));
            let started = thread.spawn(move || worker::work(&shared));
            let started = started.map_err(|error| Error::internal("cannot start a worker thread").caused_by(error))?;
            loader.workers.push(started);
        }
        Ok(loader)
    }

    /// The next batch; none after the last epoch. Waits for the workers. A batch all of whose samples are broken is passed
    /// over; what was skipped is told with the next.
    ///
    /// # Errors
    /// An input error when not one sample of a whole epoch can be used.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let mut skipped = Vec::new();
        while let Some(mut batch) = self.collect()? {
            skipped.append(&mut batch.skipped);
            skipped.truncate(MAX_NAMED);
            if !batch.examples.is_empty() {
                batch.skipped = skipped;
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The place after the batches handed out so far: where another loader would go on with the same batches.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The first thousand samples skipped by this loader; [`Cursor::skipped`] counts all, those before a restart included.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Most memory that examples have taken at once, as accounted for, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.shared.peak_bytes()
    }

    /// One batch of the schedule, whatever has become of its samples; moves the cursor over it.
    fn collect(&mut self) -> Result<Option<Batch>> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        while outcomes.last().is_none_or(|outcome| !outcome.ticket.last_of_batch) {
            if !self.shared.take(&mut outcomes)? {
                return Ok(None);
            }
        }
        let (mut examples, mut skipped, mut last) = (Vec::with_capacity(outcomes.len()), Vec::new(), None);
        for Outcome { ticket, made, .. } in outcomes {
            match made {
                Ok(example) => examples.push(example),
                Err(error) => skipped.push(Skipped { message: error.to_string() }),
            }
            last = Some(ticket);
        }
        let Some(last) = last else { return Ok(None) };
        self.useful_in_epoch |= !examples.is_empty();
        self.count(&last, examples.len(), &skipped);
        if last.last_of_epoch && !std::mem::take(&mut self.useful_in_epoch) {
            return Err(self.nothing_useful(last.epoch));
        }
        Ok(Some(Batch { epoch: last.epoch, index: last.batch, examples, skipped }))
    }

    fn count(&mut self, last: &Ticket, examples: usize, skipped: &[Skipped]) {
        let cursor = &mut self.cursor;
        cursor.samples += examples as u64;
        cursor.skipped += skipped.len() as u64;
        (cursor.epoch, cursor.batch) =
            if last.last_of_epoch { (last.epoch + 1, 0) } else { (last.epoch, last.batch + 1) };
        let room = MAX_NAMED - self.skipped.len();
        self.skipped.extend(skipped.iter().take(room).cloned());
    }

    fn nothing_useful(&self, epoch: u64) -> Error {
        let first = self.skipped.first().map_or(String::new(), |first| format!("; the first: {}", first.message));
        Error::input(format!("not one sample of epoch {epoch} can be used{first}"))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker catches what its samples do; should it panic itself, there is nothing to be done about it here.
            let _ = worker.join();
        }
    }
}
