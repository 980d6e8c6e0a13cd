//! The files of one entry of a mixture, and which of their records are used.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use smolvlm::messages::Messages;

use super::forms::{self, Form};
use super::mixture::{Entry, Mixture, Selection};
use super::root::MediaRoot;
use super::samples::{HoldOut, Part};
use super::source::{GroupCache, MAX_RECORDS, RecordFile, data_files};
use crate::{Error, Result};

/// Indexed files. Samples are numbered from 0 in the order of files and records.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    files: Vec<RecordFile>,
    /// For each file the first record after it.
    ends: Vec<usize>,
    selection: Selection,
    form: Option<Form>,
    root: MediaRoot,
}

impl Files {
    /// Indexes the files of entry `index` of a mixture.
    ///
    /// # Errors
    /// An input error for files that are missing or broken.
    pub(super) fn open(mixture: &Mixture, index: usize, part: Part) -> Result<Self> {
        let entry = &mixture.datasets[index];
        let mut paths = Vec::new();
        for path in entry.path.iter() {
            paths.extend(data_files(path)?);
        }
        let files = paths.iter().map(|path| RecordFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut ends = Vec::with_capacity(files.len());
        let mut records = 0_usize;
        for file in &files {
            records = records.saturating_add(file.len());
            ends.push(records);
        }
        let total = u32::try_from(records.min(MAX_RECORDS)).ok().filter(|_| records <= MAX_RECORDS);
        let total = total.ok_or_else(|| Error::input(format!("{records} records, at most {MAX_RECORDS} are read")))?;
        let selection = entry.sampling.select(total, entry.cap, mixture.seed, index as u64);
        let selection = match part {
            Part::All => selection,
            Part::Rest(HoldOut { share, seed }) => selection.part(share, false, seed, index as u64),
            Part::Held(HoldOut { share, seed }) => selection.part(share, true, seed, index as u64),
        };
        let root = media_root(entry, mixture, &paths)?;
        Ok(Self { paths, files, ends, selection, form: entry.form, root })
    }

    /// Samples that are used.
    pub(super) fn len(&self) -> usize {
        self.selection.len()
    }

    /// Records that its files hold.
    pub(super) fn records(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// What to call a sample in messages: its file, and its record in it, counted from 1.
    pub(super) fn sample_name(&self, sample: usize) -> String {
        let (file, record) = self.locate(sample);
        format!("{}: record {}", self.paths[file].display(), record + 1)
    }

    /// The conversation of a sample. Its media are named, not opened.
    ///
    /// # Errors
    /// An input error that names the sample and the place in it.
    pub(super) fn read(&self, sample: usize, cache: &GroupCache) -> Result<Messages> {
        let (file, record) = self.locate(sample);
        let read = self.files[file].with(record, cache, |record| forms::read(record, self.form, &self.root));
        read.map_err(|error| error.at(self.sample_name(sample)))
    }

    /// Runs of samples that are cheap to read together: those of a row group; all of neighbouring JSON files.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<(bool, Range<usize>)> = Vec::new();
        let mut start = 0;
        for (file, end) in self.files.iter().zip(&self.ends) {
            let place = |record: usize| self.selection.before(start + record);
            match (file.groups(), groups.last_mut()) {
                (Some(rows), _) => groups.extend(rows.into_iter().map(|r| (false, place(r.start)..place(r.end)))),
                (None, Some((true, all))) => all.end = place(file.len()),
                (None, _) => groups.push((true, place(0)..place(file.len()))),
            }
            start = *end;
        }
        groups.into_iter().map(|(_, samples)| samples).filter(|samples| !samples.is_empty()).collect()
    }

    /// Adds what the samples are to a digest.
    pub(super) fn add_to(&self, hash: &mut Sha256) {
        hash.update((self.files.len() as u64).to_le_bytes());
        for file in &self.files {
            hash.update(file.digest());
        }
        match &self.selection {
            Selection::Run { start, len } => hash.update([start.to_le_bytes(), len.to_le_bytes()].concat()),
            Selection::Some(records) => {
                for record in records {
                    hash.update(record.to_le_bytes());
                }
            }
        }
        hash.update(format!("{:?}", self.form));
    }

    /// The file of a sample and its record there.
    fn locate(&self, sample: usize) -> (usize, usize) {
        let record = self.selection.record(sample);
        let file = self.ends.partition_point(|end| *end <= record);
        let start = file.checked_sub(1).map_or(0, |before| self.ends[before]);
        (file, record - start)
    }
}

/// The entry's media root, the mixture's, or the folder of its first file; absolute, so that names can be compared with it.
fn media_root(entry: &Entry, mixture: &Mixture, paths: &[PathBuf]) -> Result<MediaRoot> {
    let of_file = || paths.first().and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned();
    let folder = entry.media_root.clone().or_else(|| mixture.media_root.clone()).unwrap_or_else(of_file);
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let here = |error: std::io::Error| Error::input(format!("{}: {error}", folder.display())).caused_by(error);
    Ok(MediaRoot::new(std::path::absolute(&folder).map_err(here)?).trusting_paths(entry.trust_paths))
}
