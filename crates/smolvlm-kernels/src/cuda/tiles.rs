//! Tiles as bytes on the device, copied while earlier ones are computed.

use std::sync::Arc;

use cudarc::driver::result::{self, event, stream};
use cudarc::driver::sys::{self, CUdeviceptr};

use super::device::Device;
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

/// A place in a stream that another can wait for.
struct Event {
    device: Arc<Device>,
    event: Option<sys::CUevent>,
}

// Safety: the driver's handle may be used from any thread.
unsafe impl Send for Event {}
unsafe impl Sync for Event {}

impl Event {
    fn new(device: &Arc<Device>) -> Self {
        device.bind();
        let event = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Self { device: device.clone(), event: device.check("creating an event", event) }
    }

    fn record(&self, stream: sys::CUstream) {
        if let Some(event) = self.event {
            // Safety: both live as long as the device.
            self.device.check("marking a stream", unsafe { event::record(event, stream) });
        }
    }

    /// What follows in `stream` waits until all before the last mark has ended.
    fn wait(&self, stream: sys::CUstream) {
        if let Some(event) = self.event {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // Safety: as above.
            self.device.check("waiting for a stream", unsafe { stream::wait_event(stream, event, flags) });
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(event) = self.event {
            self.device.bind();
            // Safety: created once.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
