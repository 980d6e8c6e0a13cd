//! Marks in streams.

use std::sync::Arc;

use cudarc::driver::result::{event, stream};
use cudarc::driver::sys;

use super::device::Device;

/// A place in a stream that another, or the host, can wait for.
pub(super) struct Event {
    device: Arc<Device>,
    event: Option<sys::CUevent>,
}

// Safety: the driver's handle may be used from any thread.
unsafe impl Send for Event {}
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        device.bind();
        let event = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Self { device: device.clone(), event: device.check("creating an event", event) }
    }

    pub(super) fn record(&self, stream: sys::CUstream) {
        if let Some(event) = self.event {
            // Safety: both live as long as the device.
            self.device.check("marking a stream", unsafe { event::record(event, stream) });
        }
    }

    /// Waits until all before the last mark has ended.
    pub(super) fn synchronise(&self, what: &str) {
        if let Some(event) = self.event {
            // Safety: as above.
            self.device.check(what, unsafe { event::synchronize(event) });
        }
    }

    /// What follows in `stream` waits until all before the last mark has ended.
    pub(super) fn wait(&self, stream: sys::CUstream) {
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
