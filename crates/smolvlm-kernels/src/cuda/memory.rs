//! Device memory: blocks that are allocated one by one, ranges that grow in place, and the arena of a step.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdeviceptr};

use super::device::{Device, Result, failed};
use super::places::{Place, Places};

/// What every allocation is aligned to.
const ALIGNMENT: u64 = 256;

/// Memory that is freed when dropped.
pub(super) struct Buffer {
    device: Arc<Device>,
    pointer: CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// Uninitialised memory. A failure is kept by the device, and the buffer is empty.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Self {
        device.bind();
        // Safety: memory is only reached through its owner.
        let pointer = device.check(&format!("allocating {} MiB", bytes.div_ceil(1 << 20)), unsafe {
            result::malloc_sync(bytes.max(1))
        });
        let bytes = if pointer.is_some() { bytes } else { 0 };
        device.count(bytes as u64);
        Self { device: device.clone(), pointer: pointer.unwrap_or(0), bytes }
    }

    /// A copy of `values`.
    pub(super) fn of<T: Copy>(device: &Arc<Device>, values: &[T]) -> Self {
        let buffer = Self::new(device, size_of_val(values));
        buffer.write(values);
        buffer
    }

    /// Copies `values` to its beginning.
    pub(super) fn write<T: Copy>(&self, values: &[T]) {
        if size_of_val(values) <= self.bytes && !values.is_empty() {
            // Safety: the range lies inside the buffer; the copy has ended when this returns.
            self.device.check("copying to the device", unsafe {
                result::memcpy_htod_async(self.pointer, values, self.device.stream)
            });
            self.device.synchronise("copying to the device");
        }
    }

    pub(super) fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.uncount(self.bytes as u64);
        if self.pointer != 0 {
            self.device.bind();
            // What was started on it ends first: freeing waits.
            // Safety: the pointer came from `malloc_sync`.
            self.device.check("freeing memory", unsafe { result::free_sync(self.pointer) });
        }
    }
}

/// A range of addresses whose first part has memory: it grows in place, so pointers into it stay valid.
pub(super) struct GrowingRange {
    device: Arc<Device>,
    base: CUdeviceptr,
    reserved: u64,
    granularity: u64,
    mapped: Vec<(sys::CUmemGenericAllocationHandle, u64)>,
    bytes: u64,
}

impl GrowingRange {
    /// Addresses for `bytes`; no memory yet.
    pub(super) fn reserve(device: &Arc<Device>, bytes: u64) -> Self {
        device.bind();
        let property = property(device);
        let mut granularity = 0;
        // Safety: `granularity` is written by the driver.
        device.check("asking for the size of memory pages", unsafe {
            let flag = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
            sys::cuMemGetAllocationGranularity(&raw mut granularity, &raw const property, flag).result()
        });
        let granularity = (granularity as u64).max(1 << 21);
        let reserved = bytes.max(1).next_multiple_of(granularity);
        let mut base = 0;
        // Safety: as above.
        device.check("reserving addresses", unsafe {
            sys::cuMemAddressReserve(&raw mut base, reserved as usize, 0, 0, 0).result()
        });
        Self { device: device.clone(), base, reserved, granularity, mapped: Vec::new(), bytes: 0 }
    }

    pub(super) fn base(&self) -> CUdeviceptr {
        self.base
    }

    /// Gives the first `bytes` memory.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let more = (bytes - self.bytes).next_multiple_of(self.granularity);
        if self.base == 0 || self.bytes + more > self.reserved {
            return Err(super::device::error(format!("CUDA: {} bytes are more than were reserved", bytes)));
        }
        self.map(more).map_err(|error| failed(&format!("allocating {} MiB", more >> 20), error))
    }

    fn map(&mut self, bytes: u64) -> std::result::Result<(), result::DriverError> {
        self.device.bind();
        let property = property(&self.device);
        let access = sys::CUmemAccessDesc {
            location: property.location,
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        let (at, size) = (self.base + self.bytes, bytes as usize);
        // Safety: the range is reserved and not yet mapped; the handle is released in `drop`.
        unsafe {
            let mut handle = 0;
            sys::cuMemCreate(&raw mut handle, size, &raw const property, 0).result()?;
            let mapped = sys::cuMemMap(at, size, 0, handle, 0).result();
            let mapped = mapped.and_then(|()| sys::cuMemSetAccess(at, size, &raw const access, 1).result());
            if let Err(error) = mapped {
                let _ = sys::cuMemRelease(handle).result();
                return Err(error);
            }
            self.mapped.push((handle, bytes));
        }
        self.bytes += bytes;
        self.device.count(bytes);
        Ok(())
    }
}

impl Drop for GrowingRange {
    fn drop(&mut self) {
        self.device.bind();
        self.device.synchronise("freeing memory");
        self.device.uncount(self.bytes);
        let mut at = self.base;
        // Safety: exactly what `map` mapped and `reserve` reserved, and nothing runs any more.
        unsafe {
            for (handle, bytes) in &self.mapped {
                let _ = sys::cuMemUnmap(at, *bytes as usize).result();
                let _ = sys::cuMemRelease(*handle).result();
                at += bytes;
            }
            if self.base != 0 {
                let _ = sys::cuMemAddressFree(self.base, self.reserved as usize).result();
            }
        }
    }
}

fn property(device: &Device) -> sys::CUmemAllocationProp {
    // Safety: a plain structure for which zeros mean nothing special.
    let mut property: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    property.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    property.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    property.location.id = device.info.index as i32;
    property
}

/// Memory of a step's activations. Blocks are handed out at the lowest address that fits and may be used again as soon as they are dropped, because
/// everything runs in one order; so the same operations get the same addresses in every step, and a recorded step can be replayed.
pub(super) struct Arena {
    device: Arc<Device>,
    state: Mutex<ArenaState>,
}

struct ArenaState {
    range: GrowingRange,
    places: Places,
}

/// The lowest place for `bytes`.
fn first_place(places: &Places, bytes: usize) -> Place {
    places.first((bytes.max(1) as u64).next_multiple_of(ALIGNMENT))
}

/// Part of an arena, given back when dropped.
pub(super) struct Block {
    arena: Arc<Arena>,
    offset: u64,
    pointer: CUdeviceptr,
}

impl Arena {
    /// An empty arena that may grow to as much as the device has.
    pub(super) fn new(device: &Arc<Device>) -> Arc<Self> {
        let range = GrowingRange::reserve(device, device.info.memory);
        Arc::new(Self { device: device.clone(), state: Mutex::new(ArenaState { range, places: Places::default() }) })
    }

    /// `bytes` of it. A failure is kept by the device; the block must then not be used.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Block {
        let mut state = self.lock();
        let place = first_place(&state.places, bytes);
        if let Err(error) = state.range.grow(place.end()) {
            self.device.fail(error);
        }
        self.block(&mut state, place)
    }

    /// `bytes` among its first `limit` bytes; none when there is no such place, or no memory for it.
    pub(super) fn take_within(self: &Arc<Self>, bytes: usize, limit: u64) -> Option<Block> {
        let mut state = self.lock();
        let place = first_place(&state.places, bytes);
        let end = place.end();
        (end <= limit && state.range.grow(end).is_ok()).then(|| self.block(&mut state, place))
    }

    fn block(self: &Arc<Self>, state: &mut ArenaState, place: Place) -> Block {
        state.places.take(place);
        Block { arena: self.clone(), offset: place.offset, pointer: state.range.base() + place.offset }
    }

    /// A block that was taken before, at a time when nothing of the arena is in use.
    pub(super) fn take_again(self: &Arc<Self>, place: Place) -> Block {
        let mut state = self.lock();
        self.block(&mut state, place)
    }

    /// Whether nothing of it is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().places.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, ArenaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Block {
    pub(super) fn place(&self) -> Place {
        self.arena.lock().places.at(self.offset).unwrap_or(Place { offset: self.offset, bytes: 0 })
    }

    pub(super) fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.lock().places.give_back(self.offset);
    }
}

/// Host memory that the device reads and writes by itself.
pub(super) struct Pinned {
    device: Arc<Device>,
    pointer: *mut u8,
    bytes: usize,
}

// Safety: the memory is owned.
unsafe impl Send for Pinned {}
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeroed memory. A failure is kept by the device, and there is none.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Self {
        device.bind();
        // Safety: freed in `drop`, zeroed before anything reads it.
        let pointer = device.check("allocating host memory", unsafe { result::malloc_host(bytes.max(1), 0) });
        let bytes = if pointer.is_some() { bytes } else { 0 };
        let pointer =
            pointer.map_or(std::ptr::NonNull::<AtomicU64>::dangling().as_ptr().cast(), |pointer| pointer.cast::<u8>());
        unsafe { std::ptr::write_bytes(pointer, 0, bytes) };
        Self { device: device.clone(), pointer, bytes }
    }

    /// Where the device finds it.
    pub(super) fn pointer(&self) -> CUdeviceptr {
        self.pointer as CUdeviceptr
    }

    /// The same as words that the device may write meanwhile.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // Safety: `pointer` owns that many initialised bytes, on a boundary of more than a word.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes / size_of::<u64>()) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // Safety: `pointer` owns that many initialised bytes.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // Safety: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.device.bind();
            // Safety: it came from `malloc_host`; nothing reads it any more.
            unsafe {
                self.device.synchronise("freeing host memory");
                let _ = result::free_host(self.pointer.cast());
            }
        }
    }
}
