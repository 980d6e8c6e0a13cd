//! The sample table (`stbl`): sizes, chunks, times and sync points, unrolled to one entry per sample.

use super::super::bytes::Fields;
use super::boxes::Boxes;
use super::{MAX_SAMPLES, Sample, descend};
use crate::{Error, Result};

/// All samples of a track in decode order, as far as the tables go and the file reaches. Empty for fragmented files.
pub(super) fn samples(stbl: &[u8], file_len: u64) -> Result<Vec<Sample>> {
    let sizes = Sizes::read(stbl, file_len)?;
    let mut samples = place(stbl, &sizes, file_len);
    time(stbl, &mut samples);
    mark_sync(stbl, &mut samples);
    Ok(samples)
}

/// A table box's fields behind its version and flags.
fn table<'a>(stbl: &'a [u8], kind: &[u8; 4]) -> Option<Fields<'a>> {
    let mut fields = Fields(descend(stbl, &[kind])?);
    fields.skip(4)?;
    Some(fields)
}

/// `stsz` or `stz2`.
enum Sizes<'a> {
    All { size: u32, count: usize },
    Each { bits: usize, table: &'a [u8], count: usize },
}

impl<'a> Sizes<'a> {
    fn read(stbl: &'a [u8], file_len: u64) -> Result<Self> {
        let sizes = Self::read_any(stbl).unwrap_or(Self::All { size: 0, count: 0 });
        let count = match sizes {
            // No table backs this count: the samples themselves must.
            Self::All { size, count } => (count as u64).min(file_len / u64::from(size.max(1))) as usize,
            Self::Each { count, .. } => count,
        };
        if count > MAX_SAMPLES {
            return Err(Error::input(format!("{count} video samples are above the limit of {MAX_SAMPLES}")));
        }
        Ok(sizes.with_count(count))
    }

    fn read_any(stbl: &'a [u8]) -> Option<Self> {
        if let Some(mut fields) = table(stbl, b"stsz") {
            let (size, count) = (fields.u32()?, fields.u32()? as usize);
            return Some(if size == 0 { Self::each(32, fields.0, count) } else { Self::All { size, count } });
        }
        let mut fields = table(stbl, b"stz2")?;
        let bits = fields.u32()? as usize & 0xFF;
        let count = fields.u32()? as usize;
        matches!(bits, 4 | 8 | 16).then(|| Self::each(bits, fields.0, count))
    }

    fn each(bits: usize, table: &'a [u8], count: usize) -> Self {
        Self::Each { bits, table, count: count.min(table.len() * 8 / bits) }
    }

    fn with_count(self, count: usize) -> Self {
        match self {
            Self::All { size, .. } => Self::All { size, count },
            Self::Each { bits, table, .. } => Self::Each { bits, table, count },
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::All { count, .. } | Self::Each { count, .. } => *count,
        }
    }

    fn get(&self, index: usize) -> Option<u32> {
        match *self {
            Self::All { size, count } => (index < count).then_some(size),
            Self::Each { count, .. } if index >= count => None,
            Self::Each { bits: 4, table, .. } => {
                table.get(index / 2).map(|&b| u32::from(b >> (4 * (1 - index % 2)) & 15))
            }
            Self::Each { bits, table, .. } => {
                let width = bits / 8;
                let bytes = table.get(index * width..(index + 1) * width)?;
                Some(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
            }
        }
    }
}

/// Lays the samples into the chunks (`stsc`, `stco`, `co64`). Stops at the first sample outside the file.
fn place(stbl: &[u8], sizes: &Sizes<'_>, file_len: u64) -> Vec<Sample> {
    let mut samples = Vec::new();
    let chunks = chunk_offsets(stbl);
    let mut per_chunk = SamplesPerChunk::read(stbl);
    for (chunk, mut offset) in chunks.enumerate() {
        for _ in 0..per_chunk.of(chunk) {
            let Some(size) = sizes.get(samples.len()) else { return samples };
            let end = offset.saturating_add(u64::from(size));
            if end > file_len {
                return samples;
            }
            samples.push(Sample { offset, size, dts: 0, cts: 0, duration: 0, sync: false });
            offset = end;
        }
        if samples.len() == sizes.count() {
            break;
        }
    }
    samples
}

/// Where each chunk begins.
fn chunk_offsets(stbl: &[u8]) -> impl Iterator<Item = u64> {
    let (kind, mut fields) = match (table(stbl, b"stco"), table(stbl, b"co64")) {
        (Some(fields), _) => (4, fields),
        (None, Some(fields)) => (8, fields),
        (None, None) => (4, Fields(&[])),
    };
    let count = fields.u32().unwrap_or(0) as usize;
    fields
        .0
        .chunks_exact(kind)
        .take(count)
        .map(|bytes| bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// `stsc`: runs of chunks that hold equally many samples.
struct SamplesPerChunk<'a> {
    runs: Fields<'a>,
    left: u32,
    current: u32,
    /// The first chunk of the next run, from 0.
    next: Option<(usize, u32)>,
}

impl<'a> SamplesPerChunk<'a> {
    fn read(stbl: &'a [u8]) -> Self {
        let mut runs = table(stbl, b"stsc").unwrap_or(Fields(&[]));
        let left = runs.u32().unwrap_or(0);
        let mut this = Self { runs, left, current: 0, next: None };
        this.next = this.read_run();
        this
    }

    fn read_run(&mut self) -> Option<(usize, u32)> {
        self.left = self.left.checked_sub(1)?;
        let (first, samples) = (self.runs.u32()?, self.runs.u32()?);
        self.runs.skip(4)?;
        Some((first.saturating_sub(1) as usize, samples))
    }

    /// Samples in this chunk. Chunks are asked for in order.
    fn of(&mut self, chunk: usize) -> u32 {
        while let Some((first, samples)) = self.next
            && first <= chunk
        {
            self.current = samples;
            self.next = self.read_run();
        }
        self.current
    }
}

/// `stts` and `ctts`: runs of (count, value). Past the end, durations repeat the last and offsets are 0, as in mov.c.
fn time(stbl: &[u8], samples: &mut [Sample]) {
    let mut durations = Runs::read(stbl, b"stts");
    let mut offsets = Runs::read(stbl, b"ctts");
    let mut dts = 0_i64;
    for sample in samples {
        // mov.c mends a negative step to 1, so that decode times ascend.
        let duration = durations.next_or_last().try_into().unwrap_or(1);
        (sample.dts, sample.duration, sample.cts) = (dts, duration, offsets.next().unwrap_or(0));
        dts = dts.saturating_add(i64::from(duration));
    }
}

struct Runs<'a> {
    runs: Fields<'a>,
    left: u32,
    repeat: u32,
    value: i32,
}

impl<'a> Runs<'a> {
    fn read(stbl: &'a [u8], kind: &[u8; 4]) -> Self {
        let mut runs = table(stbl, kind).unwrap_or(Fields(&[]));
        let left = runs.u32().unwrap_or(0);
        Self { runs, left, repeat: 0, value: 0 }
    }

    fn next_or_last(&mut self) -> i32 {
        self.next().unwrap_or(self.value)
    }
}

impl Iterator for Runs<'_> {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        while self.repeat == 0 {
            self.left = self.left.checked_sub(1)?;
            (self.repeat, self.value) = (self.runs.u32()?, self.runs.i32()?);
        }
        self.repeat -= 1;
        Some(self.value)
    }
}

/// `stss`: the numbers of the sync samples, from 1. Without the box, every sample is one.
fn mark_sync(stbl: &[u8], samples: &mut [Sample]) {
    if !Boxes(stbl).any(|(kind, _)| &kind == b"stss") {
        samples.iter_mut().for_each(|sample| sample.sync = true);
        return;
    }
    let mut fields = table(stbl, b"stss").unwrap_or(Fields(&[]));
    for _ in 0..fields.u32().unwrap_or(0) {
        let Some(number) = fields.u32() else { break };
        if let Some(sample) = (number as usize).checked_sub(1).and_then(|at| samples.get_mut(at)) {
            sample.sync = true;
        }
    }
}
