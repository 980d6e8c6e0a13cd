//! Activations brought to the host: through memory that the device writes by itself, one part while the one before is read.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use super::event::Event;
use super::memory::Pinned;

/// Bytes of a part: enough to keep the bus busy, few enough to stay in a processor's cache.
const PART: usize = 1 << 20;

/// Memory for two parts.
pub(super) struct Downloads {
    device: Arc<Device>,
    halves: [Half; 2],
}

struct Half {
    bytes: Pinned,
    written: Event,
}

impl Downloads {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        let half = || Half { bytes: Pinned::new(device, PART), written: Event::new(device) };
        Self { device: device.clone(), halves: [half(), half()] }
    }

    /// Hands `bytes` bytes at `from` to `read`, a part at a time, once what was started has ended. After a failure, which the device
    /// keeps, not all of them come.
    pub(super) fn read(&mut self, from: CUdeviceptr, bytes: usize, mut read: impl FnMut(&[u8])) {
        self.device.bind();
        self.start(from, bytes, 0);
        for part in 0..bytes.div_ceil(PART) {
            self.start(from, bytes, part + 1);
            let half = &self.halves[part % 2];
            half.written.synchronise("copying from the device");
            if self.device.has_failed() {
                return;
            }
            read(half.bytes.bytes().get(..PART.min(bytes - part * PART)).unwrap_or_default());
        }
    }

    /// Starts copying a part, if there is one.
    fn start(&mut self, from: CUdeviceptr, bytes: usize, part: usize) {
        let at = part * PART;
        let half = &mut self.halves[part % 2];
        let Some(to) = half.bytes.bytes_mut().get_mut(..PART.min(bytes.saturating_sub(at))) else { return };
        if to.is_empty() || self.device.has_failed() {
            return;
        }
        // Safety: both are that long; nothing reads this half before `written`.
        self.device.check("copying from the device", unsafe {
            result::memcpy_dtoh_async(to, from + at as u64, self.device.stream)
        });
        half.written.record(self.device.stream);
    }
}
