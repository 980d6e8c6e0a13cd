//! The inputs of a step on the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use super::memory::{Buffer, Pinned};
use crate::backend::{PAGE_TOKENS, TileBatch, TokenBatch};

/// Rows that a plan has room for at first.
const FIRST_ROWS: usize = 1024;
/// Most rows of a step that is recorded.
pub(super) const MOST_RECORDED_ROWS: usize = 512;

/// The page that rows nobody asked for are written to; a sequence's page `p` is page `p + 1` on the device.
const SPARE_PAGE: u32 = 0;

/// What one step works on.
pub struct Plan {
    device: Arc<Device>,
    pub(super) batch: TokenBatch,
    /// How many rows the step computes: those of the batch, or more when it is recorded.
    rows: AtomicUsize,
    arrays: Arrays,
    staging: Pinned,
    memory: Buffer,
    /// Where the cache of its pages lies.
    pub(super) cache: CUdeviceptr,
    /// Keys that the row with the longest past meets.
    pub(super) most_keys: usize,
    pub(super) tiles: Tiles,
}

/// Where each array begins, in numbers of 32 bits, with room for `rows` and `pages`.
#[derive(Debug, Clone, Copy)]
struct Arrays {
    rows: usize,
    pages: usize,
}

impl Arrays {
    // ids, positions, first pages, feature rows, feature indices, outputs: one number for each row, then the pages.
    fn len(self) -> usize {
        6 * self.rows + self.pages
    }
}

/// Tiles as bytes, and what each byte means.
pub(super) struct Tiles {
    pub(super) size: usize,
    pub(super) count: usize,
    pub(super) pixels: Buffer,
    pub(super) values: Buffer,
}

impl Plan {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        let arrays = Arrays { rows: FIRST_ROWS, pages: FIRST_ROWS };
        Self {
            device: device.clone(),
            batch: TokenBatch::default(),
            rows: AtomicUsize::new(0),
            arrays,
            staging: Pinned::new(device, arrays.len() * 4),
            memory: Buffer::new(device, arrays.len() * 4),
            cache: 0,
            most_keys: 0,
            tiles: Tiles {
                size: 0,
                count: 0,
                pixels: Buffer::new(device, 0),
                values: Buffer::new(device, 3 * 256 * size_of::<f32>()),
            },
        }
    }

    /// Takes a batch over. Rows after the batch's last, up to the next size that is recorded, are made harmless.
    pub(super) fn fill_tokens(&mut self, batch: &TokenBatch) {
        self.batch.copy_from(batch);
        self.set_rows(self.tokens());
        self.make_room(batch);
        let Arrays { rows: room, .. } = self.arrays;
        // What was staged before has been read: every step ends with a download.
        if self.staging.bytes().is_empty() {
            return;
        }
        let [ids, positions, first_pages, feature_rows, feature_indices, outputs] = std::array::from_fn(|i| i * room);
        let count = self.tokens();
        let words = words(self.staging.bytes_mut());
        words[ids..][..batch.ids.len()].copy_from_slice(&batch.ids);
        self.most_keys = 0;
        for segment in &batch.segments {
            for (position, row) in (segment.start..).zip(segment.rows.clone()) {
                words[positions + row] = position as u32;
                words[first_pages + row] = 1 + segment.pages.start as u32;
            }
            self.most_keys = self.most_keys.max(segment.start + segment.rows.len());
        }
        for row in count..recorded_rows(count).min(room) {
            words[ids + row] = 0;
            words[positions + row] = 0;
            words[first_pages + row] = 0;
            words[outputs + row] = row as u32;
        }
        for (i, feature) in batch.features.iter().enumerate() {
            words[feature_rows + i] = feature.row;
            words[feature_indices + i] = feature.index;
        }
        words[outputs..][..batch.outputs.len()].copy_from_slice(&batch.outputs);
        let pages = &mut words[6 * room..];
        pages[0] = SPARE_PAGE;
        pages[1..].iter_mut().zip(&batch.pages).for_each(|(to, page)| *to = page + 1);
        self.upload(6 * room + 1 + batch.pages.len());
    }

    /// Copies the first `words` numbers to the device.
    fn upload(&self, words: usize) {
        self.device.bind();
        // Safety: both are that long, and the staging memory is not written before the step has ended.
        self.device.check("copying a step's inputs", unsafe {
            result::memcpy_htod_async(self.memory.pointer(), &self.staging.bytes()[..words * 4], self.device.stream)
        });
    }

    fn make_room(&mut self, batch: &TokenBatch) {
        let rows = recorded_rows(self.tokens()).max(batch.features.len()).max(batch.outputs.len());
        let pages = batch.pages.len() + 1;
        if rows <= self.arrays.rows && pages <= self.arrays.pages {
            return;
        }
        let room = |needed: usize, now: usize| if needed > now { needed.next_power_of_two() } else { now };
        self.arrays = Arrays { rows: room(rows, self.arrays.rows), pages: room(pages, self.arrays.pages) };
        self.device.synchronise("growing a plan");
        self.staging = Pinned::new(&self.device, self.arrays.len() * 4);
        self.memory = Buffer::new(&self.device, self.arrays.len() * 4);
    }

    pub(super) fn fill_tiles(&mut self, batch: TileBatch<'_>) {
        let bytes = batch.tiles.iter().map(|tile| tile.len()).sum();
        if self.tiles.pixels.bytes() < bytes {
            self.device.synchronise("growing a plan");
            self.tiles.pixels = Buffer::new(&self.device, bytes);
        }
        (self.tiles.size, self.tiles.count) = (batch.size, batch.tiles.len());
        if self.tiles.pixels.bytes() < bytes {
            return;
        }
        let mut at = self.tiles.pixels.pointer();
        for tile in batch.tiles {
            // Safety: the buffer has room for all tiles; memory that is not pinned has been read when this returns.
            self.device.check("copying tiles", unsafe { result::memcpy_htod_async(at, tile, self.device.stream) });
            at += tile.len() as u64;
        }
        self.tiles.values.write(batch.pixel_values);
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

    /// Where the plan lies: tells plans apart, and one before and after it grew.
    pub(super) fn address(&self) -> u64 {
        self.memory.pointer()
    }

    pub(super) fn ids(&self) -> CUdeviceptr {
        self.array(0)
    }

    pub(super) fn positions(&self) -> CUdeviceptr {
        self.array(1)
    }

    pub(super) fn first_pages(&self) -> CUdeviceptr {
        self.array(2)
    }

    pub(super) fn feature_rows(&self) -> CUdeviceptr {
        self.array(3)
    }

    pub(super) fn feature_indices(&self) -> CUdeviceptr {
        self.array(4)
    }

    pub(super) fn outputs(&self) -> CUdeviceptr {
        self.array(5)
    }

    pub(super) fn pages(&self) -> CUdeviceptr {
        self.array(6)
    }

    fn array(&self, index: usize) -> CUdeviceptr {
        self.memory.pointer() + (index * self.arrays.rows * 4) as u64
    }

    /// Most pages that the device's cache needs for this step.
    pub(super) fn pages_needed(&self) -> usize {
        self.batch.pages.iter().max().map_or(1, |page| *page as usize + 2)
    }
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

fn words(bytes: &mut [u8]) -> &mut [u32] {
    // Safety: any bytes are numbers; the parts that are not aligned are left out, and pinned memory has none.
    unsafe { bytes.align_to_mut().1 }
}

const _: () = assert!(PAGE_TOKENS == 64, "the kernels' page");
