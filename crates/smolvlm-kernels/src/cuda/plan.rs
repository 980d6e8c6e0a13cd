//! The inputs of a step on the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use super::event::Event;
use super::memory::{Buffer, Pinned};
use super::tiles::Tiles;
use crate::backend::{PAGE_TOKENS, TokenBatch};

/// Most rows of a step that is recorded: those have arrays of their own, which never move.
pub(super) const MOST_RECORDED_ROWS: usize = 512;
/// Queries that one block of attention over pages takes.
pub(super) const QUERIES_PER_BLOCK: usize = 64;

/// The page that rows nobody asked for are written to; a sequence's page `p` is page `p + 1` on the device.
const SPARE_PAGE: u32 = 0;

/// What one step works on.
pub struct Plan {
    device: Arc<Device>,
    pub(super) batch: TokenBatch,
    /// How many rows the step computes: those of the batch, or more when it is recorded.
    rows: AtomicUsize,
    /// Numbers that the device does not have yet.
    staged: AtomicUsize,
    /// Of few rows, and of many.
    regions: [Region; 2],
    /// Which of them is in use.
    region: usize,
    /// Tells plans apart, and one before and after the arrays of recorded steps moved.
    pub(super) id: u64,
    /// Tells the caches of its pages apart.
    pub(super) cache: u64,
    /// Keys that the row with the longest past meets.
    pub(super) most_keys: usize,
    /// Blocks of attention over pages.
    pub(super) work_items: usize,
    pub(super) tiles: Tiles,
}

/// A step's arrays of 32-bit numbers, on the host and on the device.
struct Region {
    /// Room for as many rows, and pages.
    rows: usize,
    pages: usize,
    staging: Pinned,
    memory: Buffer,
    /// After which the staging memory may be written again.
    copied: Event,
}

/// The arrays in the order in which they lie. All have room for as many numbers as there are rows, but for `Pages` and `Work`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Array {
    Ids,
    Positions,
    /// Where each row's pages begin in `Pages`.
    FirstPages,
    Outputs,
    /// The last one that decoding needs.
    Pages,
    FeatureRows,
    FeatureIndices,
    SegmentRow,
    SegmentRows,
    SegmentStart,
    SegmentFirstPage,
    /// Two numbers for each block: its segment, and its first row inside it.
    Work,
}

impl Region {
    fn new(device: &Arc<Device>, rows: usize, pages: usize) -> Self {
        // One number a row for all arrays but two.
        let bytes = 4 * ((Array::Work as usize - 1 + 2) * rows + pages);
        let (staging, memory) = (Pinned::new(device, bytes), Buffer::new(device, bytes));
        Self { rows, pages, staging, memory, copied: Event::new(device) }
    }

    /// Where an array begins, in numbers.
    fn offset(&self, array: Array) -> usize {
        let before = array as usize;
        if array <= Array::Pages { before * self.rows } else { (before - 1) * self.rows + self.pages }
    }

    /// Makes room; whether the arrays moved for it.
    fn make_room(&mut self, device: &Arc<Device>, rows: usize, pages: usize) -> bool {
        if rows <= self.rows && pages <= self.pages {
            return false;
        }
        device.synchronise("growing a plan");
        let room = |needed: usize, now: usize| if needed > now { needed.next_power_of_two() } else { now };
        *self = Self::new(device, room(rows, self.rows), room(pages, self.pages));
        true
    }

    /// An array on the host, to be written.
    fn array_mut(&mut self, array: Array) -> &mut [u32] {
        let offset = self.offset(array);
        // Safety: any bytes are numbers, and pinned memory is aligned for them.
        let words: &mut [u32] = unsafe { self.staging.bytes_mut().align_to_mut().1 };
        words.get_mut(offset..).unwrap_or_default()
    }

    /// Writes the beginning of an array.
    fn write(&mut self, array: Array, numbers: impl IntoIterator<Item = u32>) {
        self.array_mut(array).iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
    }
}

impl Plan {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        Self {
            device: device.clone(),
            batch: TokenBatch::default(),
            rows: AtomicUsize::new(0),
            staged: AtomicUsize::new(0),
            regions: [MOST_RECORDED_ROWS, 0].map(|rows| Region::new(device, rows, rows)),
            region: 0,
            id: next_id(),
            cache: 0,
            most_keys: 0,
            work_items: 0,
            tiles: Tiles::new(device),
        }
    }

    /// Takes a batch over. Rows after the batch's last, up to the next size that is recorded, are made harmless.
    pub(super) fn fill_tokens(&mut self, batch: &TokenBatch) {
        self.fill(batch, |plan| !plan.is_decoding());
    }

    /// The same of whole sequences that use no cache.
    pub(super) fn fill_sequences(&mut self, batch: &TokenBatch) {
        self.fill(batch, |_| true);
    }

    fn fill(&mut self, batch: &TokenBatch, needs_segments: impl FnOnce(&Self) -> bool) {
        self.batch.copy_from(batch);
        self.set_rows(self.tokens());
        self.most_keys = batch.segments.iter().map(|segment| segment.start + segment.rows.len()).max().unwrap_or(0);
        let rows = recorded_rows(self.tokens()).max(batch.features.len()).max(batch.outputs.len());
        self.region = usize::from(rows > MOST_RECORDED_ROWS);
        if self.regions[self.region].make_room(&self.device, rows, batch.pages.len() + 1) {
            self.id = next_id();
        }
        self.regions[self.region].copied.synchronise("copying a step's inputs");
        self.stage_rows();
        let words = if needs_segments(self) {
            self.stage_segments();
            self.regions[self.region].offset(Array::Work) + 2 * self.work_items
        } else {
            self.regions[self.region].offset(Array::Pages) + batch.pages.len() + 1
        };
        self.staged = AtomicUsize::new(words);
    }

    /// What every step needs.
    fn stage_rows(&mut self) {
        let (count, batch) = (self.tokens(), &self.batch);
        let spare = count..recorded_rows(count);
        let region = &mut self.regions[self.region];
        region.write(Array::Ids, batch.ids.iter().copied().chain(spare.clone().map(|_| 0)));
        for segment in &batch.segments {
            let (rows, first_page) = (segment.rows.clone(), 1 + segment.pages.start as u32);
            let positions = (segment.start..).take(rows.len()).map(|position| position as u32);
            let to = region.array_mut(Array::Positions).iter_mut().skip(rows.start);
            to.zip(positions).for_each(|(to, position)| *to = position);
            let to = region.array_mut(Array::FirstPages).iter_mut().skip(rows.start);
            to.take(rows.len()).for_each(|to| *to = first_page);
        }
        region.write(Array::Outputs, batch.outputs.iter().copied());
        for row in spare {
            for (array, number) in [(Array::Positions, 0), (Array::FirstPages, 0), (Array::Outputs, row as u32)] {
                if let Some(to) = region.array_mut(array).get_mut(row) {
                    *to = number;
                }
            }
        }
        region.write(Array::Pages, std::iter::once(SPARE_PAGE).chain(batch.pages.iter().map(|page| page + 1)));
    }

    /// What steps with prompts need beside it.
    fn stage_segments(&mut self) {
        let (batch, region) = (&self.batch, &mut self.regions[self.region]);
        region.write(Array::FeatureRows, batch.features.iter().map(|feature| feature.row));
        region.write(Array::FeatureIndices, batch.features.iter().map(|feature| feature.index));
        region.write(Array::SegmentRow, batch.segments.iter().map(|segment| segment.rows.start as u32));
        region.write(Array::SegmentRows, batch.segments.iter().map(|segment| segment.rows.len() as u32));
        region.write(Array::SegmentStart, batch.segments.iter().map(|segment| segment.start as u32));
        region.write(Array::SegmentFirstPage, batch.segments.iter().map(|segment| 1 + segment.pages.start as u32));
        // The longest first, so that none of them is still running when all others have ended.
        let mut work: Vec<(usize, u32, u32)> = Vec::new();
        for (i, segment) in batch.segments.iter().enumerate() {
            let firsts = (0..segment.rows.len()).step_by(QUERIES_PER_BLOCK);
            work.extend(firsts.map(|first| (segment.start + first, i as u32, first as u32)));
        }
        work.sort_unstable_by_key(|(past, _, _)| std::cmp::Reverse(*past));
        region.write(Array::Work, work.iter().flat_map(|(_, segment, first)| [*segment, *first]));
        self.work_items = work.len();
    }

    /// Copies what was staged to the device, once: a decoder needs none of it.
    pub(super) fn upload(&self) {
        let words = self.staged.swap(0, Ordering::Relaxed);
        if words == 0 {
            return;
        }
        let Region { staging, memory, copied, .. } = &self.regions[self.region];
        let Some(bytes) = staging.bytes().get(..words * 4) else { return };
        self.device.bind();
        // Safety: both are that long, and the staging memory is not written before `copied`.
        self.device.check("copying a step's inputs", unsafe {
            result::memcpy_htod_async(memory.pointer(), bytes, self.device.stream)
        });
        copied.record(self.device.stream);
    }

    /// Rows of the batch.
    pub(super) fn tokens(&self) -> usize {
        let last = self.batch.segments.last().map_or(0, |segment| segment.rows.end);
        last.max(self.batch.ids.len())
    }

    /// Rows that the step computes.
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows whose logits the step computes.
    pub(super) fn output_rows(&self) -> usize {
        if self.rows() == self.tokens() { self.batch.outputs.len() } else { self.rows() }
    }

    /// The step computes `rows` rows.
    pub(super) fn set_rows(&self, rows: usize) {
        self.rows.store(rows, Ordering::Relaxed);
    }

    /// Whether every sequence computes one token, and its logits: what is done again and again.
    pub(super) fn is_decoding(&self) -> bool {
        let count = self.tokens();
        let each = self.batch.outputs.iter().enumerate().all(|(i, row)| i == *row as usize);
        count > 0
            && count <= MOST_RECORDED_ROWS
            && self.batch.segments.len() == count
            && self.batch.outputs.len() == count
            && each
            && self.batch.features.is_empty()
    }

    /// Where an array lies on the device, which has it when this returns.
    pub(super) fn array(&self, array: Array) -> CUdeviceptr {
        self.upload();
        let region = &self.regions[self.region];
        region.memory.pointer() + 4 * region.offset(array) as u64
    }

    /// Most pages that the device's cache needs for this step.
    pub(super) fn pages_needed(&self) -> usize {
        self.batch.pages.iter().max().map_or(1, |page| *page as usize + 2)
    }
}

/// A number that was not given before.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How many rows are recorded for a step of `rows`: few different numbers, little waste.
pub(super) fn recorded_rows(rows: usize) -> usize {
    match rows {
        0..=4 => rows,
        5..=16 => rows.next_multiple_of(4),
        17..=64 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(64),
    }
}

/// Parts of `part` keys that a step is recorded for: few different numbers.
pub(super) fn recorded_parts(keys: usize, part: usize) -> usize {
    keys.max(1).div_ceil(part).next_power_of_two()
}

const _: () = assert!(PAGE_TOKENS == 64, "the kernels' page");
