//! Looks at every sample before training starts: what is missing or broken, how much there is, how long each is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use smolvlm::messages::{Content, Message, Messages};

use super::dataset::Dataset;
use super::drawn::Sample;
use super::example::{ExampleMaker, Size};
use super::samples::{SampleRef, Samples};
use super::table::{Modality, Table, Totals};
use crate::{Error, Result};

/// Samples that a thread takes at a time; neighbours share a row group.
const CHUNK: usize = 32;

/// How a mixture is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Threads.
    pub threads: usize,
    /// Problems that are kept; the rest are counted.
    pub listed: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, listed: 10_000 }
    }
}

/// A sample that cannot be learned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub sample: SampleRef,
    /// Its name, and everything that is wrong with it: file, expected, found.
    pub messages: Vec<String>,
}

/// How long an example is. As JSON `[tokens, tiles]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct Length {
    /// Tokens; 0 for a sample that cannot be used.
    pub tokens: u32,
    /// Tiles.
    pub tiles: u32,
}

/// How long every example is: 8 bytes for each sample. May be saved beside a cursor, so that a run goes on without another
/// check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lengths(Vec<Vec<Length>>);

impl From<(u32, u32)> for Length {
    fn from((tokens, tiles): (u32, u32)) -> Self {
        Self { tokens, tiles }
    }
}

impl From<Length> for (u32, u32) {
    fn from(length: Length) -> Self {
        (length.tokens, length.tiles)
    }
}

impl From<Vec<Vec<Length>>> for Lengths {
    /// The lengths of every sample of every dataset, in order.
    fn from(lengths: Vec<Vec<Length>>) -> Self {
        Self(lengths)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Samples that cannot be used: the first of them, in the order of the files.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problem_count: usize,
    /// What the usable ones hold.
    pub table: Table,
    /// How long each is.
    pub lengths: Lengths,
}

impl Lengths {
    /// The length of a sample: of one that cannot be used, 0 tokens; none of drawn ones, which are not known before.
    pub fn of(&self, sample: SampleRef) -> Option<Length> {
        self.0[sample.dataset as usize].get(sample.sample as usize).copied()
    }

    /// Whether a sample may be used, as far as is known.
    pub(super) fn is_usable(&self, sample: SampleRef) -> bool {
        self.of(sample).is_none_or(|length| length.tokens > 0)
    }

    /// Whether these are the lengths of these samples.
    pub(super) fn fit(&self, samples: &Samples) -> bool {
        self.0.len() == samples.datasets().len()
            && self.0.iter().zip(samples.datasets()).all(|(lengths, dataset)| lengths.len() == known(dataset))
    }

    /// All of them, for a digest.
    pub(super) fn iter(&self) -> impl Iterator<Item = Length> {
        self.0.iter().flatten().copied()
    }
}

/// Samples whose lengths are told.
fn known(dataset: &Dataset) -> usize {
    if dataset.is_drawn() { 0 } else { dataset.len() }
}

/// Looks at every sample of a mixture, and at the first of drawn ones: reads its record, opens the headers of its media, writes
/// its prompt. Pixels are not decoded. `progress` is called with samples done and in all, by any thread.
///
/// What is found does not depend on the number of threads.
pub fn check(maker: &ExampleMaker, options: &CheckOptions, progress: &(dyn Fn(usize, usize) + Sync)) -> Report {
    let samples = maker.samples();
    let (next, done, total) = (AtomicUsize::new(0), AtomicUsize::new(0), looked_at(samples));
    let work = || {
        let mut found = Found::new(samples, options.listed);
        loop {
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= total {
                return found;
            }
            let end = total.min(start + CHUNK);
            for number in start..end {
                found.look(maker, numbered(samples, number));
            }
            progress(done.fetch_add(end - start, Ordering::Relaxed) + end - start, total);
        }
    };
    let threads = options.threads.clamp(1, 256);
    let parts: Vec<Found> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        // A thread that panics nonetheless takes what it found along; `look` keeps it from doing so.
        std::iter::once(own).chain(spawned.into_iter().filter_map(|thread| thread.join().ok())).collect()
    });
    Found::report(parts, samples, options.listed)
}

/// Samples that are looked at.
fn looked_at(samples: &Samples) -> usize {
    samples.datasets().iter().map(Dataset::looked_at).sum()
}

/// The sample of this number among those that are looked at, in the order of the files.
fn numbered(samples: &Samples, mut number: usize) -> SampleRef {
    for (dataset, set) in samples.datasets().iter().enumerate() {
        if number < set.looked_at() {
            return SampleRef { dataset: dataset as u32, sample: number as u32 };
        }
        number -= set.looked_at();
    }
    unreachable!("only numbers below the count are asked for")
}

/// What one thread has found.
struct Found {
    problems: Vec<Problem>,
    problem_count: usize,
    listed: usize,
    sums: Vec<[Totals; 4]>,
    lengths: Vec<(SampleRef, Length)>,
}

impl Found {
    fn new(samples: &Samples, listed: usize) -> Self {
        let sums = vec![[Totals::default(); 4]; samples.datasets().len()];
        Self { problems: Vec::new(), problem_count: 0, listed, sums, lengths: Vec::new() }
    }

    fn look(&mut self, maker: &ExampleMaker, sample: SampleRef) {
        let looked = catch_unwind(AssertUnwindSafe(|| look(maker, sample)));
        let looked =
            looked.unwrap_or_else(|_| Err(vec![format!("{}: reading it fails", maker.samples().name(sample))]));
        match looked {
            Ok(size) => {
                self.sums[sample.dataset as usize][Modality::of(size.images, size.videos) as usize].add(&size);
                let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                self.lengths.push((sample, Length { tokens: narrow(size.tokens), tiles: narrow(size.tiles) }));
            }
            Err(messages) => {
                self.problem_count += 1;
                // A thread's samples ascend, so the first problems of all are among the first of each.
                if self.problems.len() < self.listed {
                    self.problems.push(Problem { sample, messages });
                }
            }
        }
    }

    fn report(parts: Vec<Self>, samples: &Samples, listed: usize) -> Report {
        let mut sums = vec![[Totals::default(); 4]; samples.datasets().len()];
        let mut lengths: Vec<_> = samples.datasets().iter().map(|set| vec![Length::default(); known(set)]).collect();
        let (mut problems, mut problem_count) = (Vec::new(), 0);
        for part in parts {
            sums.iter_mut().flatten().zip(part.sums.iter().flatten()).for_each(|(sum, more)| sum.merge(more));
            for (sample, length) in part.lengths {
                if let Some(place) = lengths[sample.dataset as usize].get_mut(sample.sample as usize) {
                    *place = length;
                }
            }
            problems.extend(part.problems);
            problem_count += part.problem_count;
        }
        problems.sort_by_key(|problem: &Problem| problem.sample);
        problems.truncate(listed);
        let names: Vec<_> = samples.datasets().iter().map(|set| set.name().to_owned()).collect();
        Report { problems, problem_count, table: Table::new(&names, &sums), lengths: Lengths(lengths) }
    }
}

/// One sample's size, or everything that is wrong with it.
fn look(maker: &ExampleMaker, sample: SampleRef) -> Result<Size, Vec<String>> {
    let read = maker.samples().read(sample).map_err(|error| vec![error.to_string()])?;
    let name = || maker.samples().name(sample);
    maker.measure(&read).map_err(|error| {
        let broken = broken_media(maker, &read.messages);
        let found = if broken.is_empty() { vec![error] } else { broken };
        found.into_iter().map(|error| error.at(name()).to_string()).collect()
    })
}

/// What is wrong with each medium, looked at alone.
fn broken_media(maker: &ExampleMaker, messages: &Messages) -> Vec<Error> {
    let media = messages.0.iter().flat_map(|message| &message.content);
    let media = media.filter(|content| !matches!(content, Content::Text(_)));
    let alone = |medium: &Content| {
        let message = |role: &str, content| Message { role: role.to_owned(), content };
        let question = message("user", vec![medium.clone()]);
        Sample::from(Messages(vec![question, message("assistant", vec![Content::text("x")])]))
    };
    media.filter_map(|medium| maker.measure(&alone(medium)).err()).collect()
}
