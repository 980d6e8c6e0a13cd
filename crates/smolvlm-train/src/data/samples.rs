//! All samples of a mixture, by number.

use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use super::drawn::{OpenDrawing, Sample, no_drawing};
use super::mixture::{Mixture, Share};
use super::source::GroupCache;
use crate::{Error, Result};

/// Row groups of parquet files are kept in so many bytes, unless told otherwise.
pub const DEFAULT_CACHE: u64 = 1 << 30;

/// Which of the selected samples of every entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// All but what is held out.
    Rest(HoldOut),
    /// What is held out. Of drawn samples there is none.
    Held(HoldOut),
}

/// A share of the samples of every entry that a model is measured with and does not learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOut {
    /// How many.
    pub share: Share,
    /// What they are chosen by.
    pub seed: u64,
}

/// One sample: which entry of the mixture, and which of its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleRef {
    /// Index into [`Samples::datasets`].
    pub dataset: u32,
    /// Index into that dataset; of drawn ones, the number that is drawn.
    pub sample: u32,
}

/// The samples of a mixture. Only their places are in memory: 16 bytes for each record of JSON, none for parquet.
#[derive(Debug)]
pub struct Samples {
    datasets: Vec<Dataset>,
    cache: GroupCache,
    samples_per_epoch: Option<u64>,
    digest: [u8; 32],
}

impl Samples {
    /// Indexes the files of a mixture. `cache` bounds the row groups of parquet files that are kept, in bytes.
    ///
    /// # Errors
    /// An input error that names the entry and file: missing, empty, cut off, of another kind; or with nothing selected.
    pub fn open(mixture: &Mixture, cache: u64) -> Result<Self> {
        Self::open_with(mixture, cache, &no_drawing, Part::All)
    }

    /// As [`open`](Self::open); entries with `scenes` are opened by `drawing`, and of files a part is taken.
    ///
    /// # Errors
    /// As [`open`](Self::open), and whatever `drawing` returns.
    pub fn open_with(mixture: &Mixture, cache: u64, drawing: OpenDrawing<'_>, part: Part) -> Result<Self> {
        let mut datasets = Vec::with_capacity(mixture.datasets.len());
        let mut hash = Sha256::new();
        for (index, entry) in mixture.datasets.iter().enumerate() {
            let here = |error: Error| error.at(format!("datasets[{index}] ({})", entry.title()));
            let dataset = Dataset::open(mixture, index, drawing, part).map_err(here)?;
            dataset.add_to(&mut hash);
            datasets.push(dataset);
        }
        hash.update(format!("{:?}", mixture.samples_per_epoch));
        let digest = hash.finalize().into();
        Ok(Self { datasets, cache: GroupCache::new(cache), samples_per_epoch: mixture.samples_per_epoch, digest })
    }

    /// The entries of the mixture, in its order.
    pub fn datasets(&self) -> &[Dataset] {
        &self.datasets
    }

    /// Samples in all; of drawn ones, as many as an epoch has.
    pub fn len(&self) -> usize {
        self.datasets.iter().map(Dataset::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples of one epoch.
    pub fn epoch_len(&self) -> usize {
        self.samples_per_epoch.and_then(|samples| usize::try_from(samples).ok()).unwrap_or_else(|| self.len())
    }

    /// What to call a sample in messages.
    pub fn name(&self, sample: SampleRef) -> String {
        self.datasets[sample.dataset as usize].sample_name(sample.sample as usize)
    }

    /// The conversation of a sample. Its media are named, or drawn, and not opened.
    ///
    /// # Errors
    /// An input error that names the sample and the place in it.
    pub fn read(&self, sample: SampleRef) -> Result<Sample> {
        self.datasets[sample.dataset as usize].read(sample.sample as usize, &self.cache)
    }

    /// Every sample, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = SampleRef> {
        self.datasets.iter().enumerate().flat_map(|(dataset, samples)| {
            (0..samples.len()).map(move |sample| SampleRef { dataset: dataset as u32, sample: sample as u32 })
        })
    }

    /// A digest of which samples there are: what a saved place in their order depends on.
    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}
