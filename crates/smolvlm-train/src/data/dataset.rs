//! One entry of a mixture: files with some of their records, or samples that are drawn.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::drawn::{Drawing, OpenDrawing, Sample};
use super::files::Files;
use super::mixture::Mixture;
use super::samples::Part;
use super::source::GroupCache;
use crate::{Error, Result};

/// Drawn samples of an epoch, where neither weights nor a cap say how many.
const DRAWN: u64 = 100_000;

/// Drawn samples that are looked at before training starts.
const LOOKED_AT: usize = 256;

/// An entry of a mixture, open.
#[derive(Debug)]
pub struct Dataset {
    name: String,
    content: Content,
    weight: Option<f64>,
}

#[derive(Debug)]
enum Content {
    Files(Files),
    /// So many in an epoch.
    Drawn(Arc<dyn Drawing>, usize),
}

impl Dataset {
    /// Opens entry `index` of a mixture.
    ///
    /// # Errors
    /// An input error for files that are missing or broken; whatever `drawing` returns.
    pub(super) fn open(mixture: &Mixture, index: usize, drawing: OpenDrawing<'_>, part: Part) -> Result<Self> {
        let entry = &mixture.datasets[index];
        let content = match &entry.scenes {
            None => Content::Files(Files::open(mixture, index, part)?),
            Some(_) if matches!(part, Part::Held(_)) => {
                return Err(Error::usage(
                    "of drawn samples (`scenes`) no share can be held out: expected data of their own",
                ));
            }
            Some(settings) => {
                let epoch = u32::try_from(entry.cap.unwrap_or(DRAWN));
                let epoch = epoch.map_err(|_| Error::input(format!("`cap`: expected at most {}", u32::MAX)))?;
                Content::Drawn(drawing(settings)?, epoch as usize)
            }
        };
        Ok(Self { name: entry.title(), content, weight: entry.weight })
    }

    /// What to call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Samples that are used; of drawn ones, as many as an epoch has.
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Files(files) => files.len(),
            Content::Drawn(_, epoch) => *epoch,
        }
    }

    /// Whether no sample is used.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether samples are drawn: there are always new ones, and none is known before.
    pub fn is_drawn(&self) -> bool {
        matches!(self.content, Content::Drawn(..))
    }

    /// Records that its files hold; of drawn samples, as many as an epoch has.
    pub fn records(&self) -> usize {
        match &self.content {
            Content::Files(files) => files.records(),
            Content::Drawn(_, epoch) => *epoch,
        }
    }

    /// Samples, from the first on, that are looked at before training starts: all of files, some of drawn ones.
    pub(super) fn looked_at(&self) -> usize {
        if self.is_drawn() { self.len().min(LOOKED_AT) } else { self.len() }
    }

    /// Share of an epoch, where the mixture has weights.
    pub fn weight(&self) -> Option<f64> {
        self.weight
    }

    /// What to call a sample in messages: its file, and its record in it, counted from 1; or the number that is drawn.
    pub fn sample_name(&self, sample: usize) -> String {
        match &self.content {
            Content::Files(files) => files.sample_name(sample),
            Content::Drawn(..) => format!("{}: sample {sample}", self.name),
        }
    }

    /// The conversation of a sample. Its media are named, or drawn, and not opened.
    ///
    /// # Errors
    /// An input error that names the sample and the place in it.
    pub(super) fn read(&self, sample: usize, cache: &GroupCache) -> Result<Sample> {
        match &self.content {
            Content::Files(files) => files.read(sample, cache).map(Sample::from),
            Content::Drawn(drawing, _) => {
                drawing.sample(sample as u64).map_err(|error| error.at(self.sample_name(sample)))
            }
        }
    }

    /// Runs of samples that are cheap to read together.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        match &self.content {
            Content::Files(files) => files.groups(),
            Content::Drawn(_, epoch) => std::iter::once(0..*epoch).collect(),
        }
    }

    /// Adds what the samples are to a digest.
    pub(super) fn add_to(&self, hash: &mut Sha256) {
        match &self.content {
            Content::Files(files) => files.add_to(hash),
            Content::Drawn(drawing, epoch) => hash.update(format!("{} {epoch}", drawing.identity())),
        }
        hash.update(format!("{:?}", self.weight));
    }
}
