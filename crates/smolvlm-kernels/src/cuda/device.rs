//! One NVIDIA GPU: found and opened at run time, because the program must also start where there is none.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError, ctx, device, primary_ctx, stream};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::{cublaslt, nvrtc};

use crate::backend::BackendError;

pub(super) type Result<T> = std::result::Result<T, BackendError>;

/// The oldest compute capability whose instructions the kernels use.
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// A library that the backend loads when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Library {
    /// As the linker knows it.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// What provides it.
    pub package: &'static str,
    /// Whether it was found.
    pub present: bool,
}

/// What the system says about a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Counted from 0 in the driver's order.
    pub index: usize,
    /// As the driver calls it.
    pub name: String,
    /// Bytes.
    pub memory: u64,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory as f64 / f64::from(1 << 30);
        let (major, minor) = self.capability;
        write!(f, "{}, {gib:.0} GiB, compute capability {major}.{minor}", self.name)
    }
}

/// Whether there is a driver.
fn has_driver() -> bool {
    // Safety: this only tries to open a library by its well-known names.
    unsafe { sys::is_culib_present() }
}

/// The libraries that computing on a GPU needs, and whether they are there.
pub fn libraries() -> [Library; 3] {
    // Safety: as above.
    let present = unsafe { [has_driver(), nvrtc::sys::is_culib_present(), cublaslt::sys::is_culib_present()] };
    [
        Library {
            name: "libcuda.so.1",
            purpose: "the driver",
            package: "the NVIDIA driver (nvidia-driver-570 or newer; in a container: the NVIDIA container toolkit)",
            present: present[0],
        },
        Library {
            name: "libnvrtc.so",
            purpose: "compiles the kernels once",
            package: "the CUDA toolkit (cuda-nvrtc-12-8 or newer), or the Python package nvidia-cuda-nvrtc with its folder in LD_LIBRARY_PATH",
            present: present[1],
        },
        Library {
            name: "libcublasLt.so",
            purpose: "large matrix products",
            package: "the CUDA toolkit (libcublas-12-8 or newer), or the Python package nvidia-cublas with its folder in LD_LIBRARY_PATH",
            present: present[2],
        },
    ]
}

/// The GPUs that the driver knows; none where there is no driver.
///
/// # Errors
/// When there is a driver that does not work.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    if !has_driver() {
        return Ok(Vec::new());
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        Err(error) => return Err(failed("starting the driver", error)),
    }
    let count = device::get_count().map_err(|error| failed("counting devices", error))?;
    (0..count).map(|index| describe(index).map_err(|error| failed("asking for a device's properties", error))).collect()
}

fn describe(index: i32) -> std::result::Result<DeviceInfo, DriverError> {
    let handle = device::get(index)?;
    // Safety: the handle comes from the driver.
    let attribute = |which| unsafe { device::get_attribute(handle, which) }.map(|value| value as u32);
    Ok(DeviceInfo {
        index: index as usize,
        name: device::get_name(handle)?,
        memory: unsafe { device::total_mem(handle) }? as u64,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

/// An opened GPU with the one stream on which everything runs, in order.
pub(super) struct Device {
    pub(super) info: DeviceInfo,
    pub(super) handle: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    /// Where tiles are copied while others are computed.
    pub(super) copies: sys::CUstream,
    /// Most bytes of shared memory of a block.
    pub(super) shared_memory: usize,
    /// The first failure that nobody has asked for.
    failure: Mutex<Option<BackendError>>,
    allocated: AtomicU64,
    most_allocated: AtomicU64,
}

// Safety: the driver's handles may be used from every thread whose current context is this one; `bind` sees to that.
unsafe impl Send for Device {}
unsafe impl Sync for Device {}

impl Device {
    /// Opens GPU `index`.
    ///
    /// # Errors
    /// When a library, the GPU or its compute capability is missing: says what to do.
    pub(super) fn open(index: usize) -> Result<Arc<Self>> {
        if let Some(missing) = libraries().iter().find(|library| !library.present) {
            let Library { name, purpose, package, .. } = missing;
            return Err(error(format!("no {name} ({purpose}); it comes with {package}")));
        }
        let devices = devices()?;
        let Some(info) = devices.get(index).cloned() else {
            return Err(error(format!("no CUDA device {index}: the driver knows {}", devices.len())));
        };
        if info.capability < OLDEST_CAPABILITY {
            let ((major, minor), (oldest_major, oldest_minor)) = (info.capability, OLDEST_CAPABILITY);
            return Err(error(format!(
                "{} has compute capability {major}.{minor}; {oldest_major}.{oldest_minor} or newer is needed",
                info.name
            )));
        }
        let what = "opening the device";
        let handle = device::get(index as i32).map_err(|error| failed(what, error))?;
        // Safety: the handle comes from the driver; the context is given back in `drop`.
        let context = unsafe { primary_ctx::retain(handle) }.map_err(|error| failed(what, error))?;
        unsafe { ctx::set_current(context) }.map_err(|error| failed(what, error))?;
        let stream = stream::create(stream::StreamKind::NonBlocking).map_err(|error| failed(what, error))?;
        let copies = stream::create(stream::StreamKind::NonBlocking).map_err(|error| failed(what, error))?;
        let shared_memory = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // Safety: the handle comes from the driver.
        let shared_memory =
            unsafe { device::get_attribute(handle, shared_memory) }.map_err(|error| failed(what, error))?;
        let shared_memory = shared_memory as usize;
        let (failure, allocated, most_allocated) = Default::default();
        Ok(Arc::new(Self { info, handle, context, stream, copies, shared_memory, failure, allocated, most_allocated }))
    }

    /// Makes this device the calling thread's.
    pub(super) fn bind(&self) {
        // Safety: the context lives as long as `self`.
        self.check("choosing the device", unsafe { ctx::set_current(self.context) });
    }

    /// Waits for everything that was started.
    pub(super) fn synchronise(&self, what: &str) {
        // Safety: the stream lives as long as `self`.
        self.check(what, unsafe { stream::synchronize(self.stream) });
    }

    /// Whether everything that was started has ended; none after a failure.
    pub(super) fn has_ended(&self, what: &str) -> Option<bool> {
        // Safety: the stream lives as long as `self`.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Some(false),
            result => self.check(what, result.result()).map(|()| true),
        }
    }

    /// Keeps a failure until `take_failure`; whether there was none.
    pub(super) fn check<T>(&self, what: &str, result: std::result::Result<T, DriverError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(failed(what, error));
                None
            }
        }
    }

    /// Keeps the first failure.
    pub(super) fn fail(&self, error: BackendError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Whether something failed that nobody has asked for: what follows would compute on rubbish.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The first failure since it was last asked for.
    pub(super) fn take_failure(&self) -> Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Bytes that the device has left.
    pub(super) fn free_memory(&self) -> Option<u64> {
        self.bind();
        self.check("asking for free memory", result::mem_get_info()).map(|(free, _)| free as u64)
    }

    /// Counts what was allocated.
    pub(super) fn count(&self, bytes: u64) {
        let now = self.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most_allocated.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts what was given back.
    pub(super) fn uncount(&self, bytes: u64) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes allocated now, and at most so far.
    pub(super) fn allocated(&self) -> (u64, u64) {
        (self.allocated.load(Ordering::Relaxed), self.most_allocated.load(Ordering::Relaxed))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.bind();
        self.synchronise("closing the device");
        // Safety: nothing uses the stream or the context any more.
        unsafe {
            let _ = stream::destroy(self.stream);
            let _ = stream::destroy(self.copies);
            let _ = primary_ctx::release(self.handle);
        }
    }
}

/// An error of the backend's own.
pub(super) fn error(message: impl Into<String>) -> BackendError {
    BackendError::new(message)
}

/// What the driver said about an operation.
pub(super) fn failed(what: &str, error: DriverError) -> BackendError {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown error".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    BackendError {
        message: format!("CUDA: {what}: {} ({})", text(error.error_string()), text(error.error_name())),
        out_of_memory: error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    }
}
