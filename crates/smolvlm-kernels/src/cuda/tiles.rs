//! Tiles as bytes on the device, copied while earlier ones are computed.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use super::event::Event;
use super::memory::Buffer;
use crate::backend::TileBatch;

/// The tiles of a step, and room for the next step's.
pub(super) struct Tiles {
    device: Arc<Device>,
    /// Pixels on a side.
    pub(super) size: usize,
    pub(super) count: usize,
    /// Used in turns.
    buffers: [TileBuffer; 2],
    turn: usize,
    /// What each value of each channel means, on the device and as it was given.
    values: Buffer,
    given: Vec<[f32; 256]>,
}

/// Memory for tiles, and when it may be read and written.
struct TileBuffer {
    pixels: Buffer,
    copied: Event,
    read: Event,
}

impl Tiles {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        let buffer =
            || TileBuffer { pixels: Buffer::new(device, 0), copied: Event::new(device), read: Event::new(device) };
        Self {
            device: device.clone(),
            size: 0,
            count: 0,
            buffers: [buffer(), buffer()],
            turn: 0,
            values: Buffer::new(device, 3 * 256 * size_of::<f32>()),
            given: Vec::new(),
        }
    }

    /// Starts copying a batch.
    pub(super) fn fill(&mut self, batch: TileBatch<'_>) {
        (self.size, self.count) = (batch.size, batch.tiles.len());
        self.turn = 1 - self.turn;
        let buffer = &mut self.buffers[self.turn];
        let bytes = batch.tiles.iter().map(|tile| tile.len()).sum();
        if buffer.pixels.bytes() < bytes {
            self.device.synchronise("making room for tiles");
            buffer.pixels = Buffer::new(&self.device, bytes);
        }
        if self.given != batch.pixel_values {
            self.given = batch.pixel_values.to_vec();
            self.values.write(batch.pixel_values);
        }
        if buffer.pixels.bytes() < bytes {
            return;
        }
        self.device.bind();
        buffer.read.wait(self.device.copies);
        let mut at = buffer.pixels.pointer();
        for tile in batch.tiles {
            // Safety: the buffer has room for all tiles; memory that is not pinned has been read when this returns.
            self.device.check("copying tiles", unsafe { result::memcpy_htod_async(at, tile, self.device.copies) });
            at += tile.len() as u64;
        }
        buffer.copied.record(self.device.copies);
    }

    /// Hands pixels and the meaning of their values to `read`, which starts what reads them.
    pub(super) fn read(&self, read: impl FnOnce(CUdeviceptr, CUdeviceptr)) {
        let buffer = &self.buffers[self.turn];
        buffer.copied.wait(self.device.stream);
        read(buffer.pixels.pointer(), self.values.pointer());
        buffer.read.record(self.device.stream);
    }
}
