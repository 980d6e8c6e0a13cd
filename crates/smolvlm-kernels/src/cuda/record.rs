//! Steps that are recorded once and replayed: what decodes one token of each sequence is the same work every time.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::result::{graph, stream};
use cudarc::driver::sys;

use super::device::Device;
use super::memory::Arena;
use super::places::Place;
use super::tensor::{Element, Memory, Tensor};

/// What decides which kernels a step starts, with which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) rows: usize,
    pub(super) parts: usize,
    pub(super) plan: u64,
    pub(super) cache: u64,
}

/// The recorded steps of a backend.
#[derive(Default)]
pub(super) struct Recordings {
    steps: HashMap<Key, State>,
}

/// A step is run once, so that memory has grown and kernels are loaded, recorded the next time, and replayed from then on.
pub(super) enum State {
    Seen,
    Recorded(Recording),
}

/// A recorded step and where its result lies.
pub(super) struct Recording {
    device: Arc<Device>,
    graph: sys::CUgraphExec,
    rows: usize,
    width: usize,
    element: Element,
    result: Place,
}

// Safety: the graph is started under the backend's lock.
unsafe impl Send for Recording {}

impl Recordings {
    pub(super) fn get(&self, key: &Key) -> Option<&State> {
        self.steps.get(key)
    }

    pub(super) fn insert(&mut self, key: Key, state: State) {
        self.steps.insert(key, state);
    }
}

impl Recording {
    /// Records what `body` starts. None when something failed, which the device then knows.
    pub(super) fn of(device: &Arc<Device>, body: impl FnOnce() -> Tensor) -> Option<Self> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let what = "recording a step";
        // Safety: between the two calls only kernels are started on this stream; the graph is destroyed once.
        unsafe {
            device.check(what, stream::begin_capture(device.stream, mode))?;
            let result = body();
            let captured = device.check(what, stream::end_capture(device.stream))?;
            if device.has_failed() {
                // What was started before the failure is not the step.
                let _ = graph::destroy(captured);
                return None;
            }
            let instantiated = graph::instantiate(captured, std::mem::zeroed());
            let _ = graph::destroy(captured);
            let graph = device.check(what, instantiated)?;
            let (rows, width, element) = (result.rows, result.width, result.element);
            let Memory::Step(block) = &result.memory else { return None };
            Some(Self { device: device.clone(), graph, rows, width, element, result: block.place() })
        }
    }

    /// Starts it and returns the first `rows` rows of its result. Nothing of the arena may be in use.
    pub(super) fn replay(&self, arena: &Arc<Arena>, rows: usize) -> Tensor {
        // Safety: what the graph reads and writes is alive: its key holds the plan's and the cache's addresses.
        self.device.check("replaying a step", unsafe { graph::launch(self.graph, self.device.stream) });
        assert!(rows <= self.rows, "rows of a recorded step");
        let memory = Memory::Step(arena.take_again(self.result));
        Tensor { rows, width: self.width, element: self.element, memory, choice: None }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.device.bind();
        self.device.synchronise("forgetting a recorded step");
        // Safety: instantiated once.
        let _ = unsafe { graph::exec_destroy(self.graph) };
    }
}
