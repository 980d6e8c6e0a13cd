//! Loaded kernels and starting them.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::compile::{Compiler, Source};
use super::device::{Device, Result, failed};

/// Most arguments of a kernel.
const MOST_ARGUMENTS: usize = 16;

/// Kernels of several modules, looked up when they are first asked for.
pub(super) struct Kernels {
    modules: HashMap<Module, Loaded>,
    functions: Mutex<HashMap<Module, HashMap<String, Function>>>,
}

/// Machine code on the device, unloaded when dropped.
pub(super) struct Loaded {
    device: Arc<Device>,
    module: sys::CUmodule,
}

// Safety: a handle of loaded code, which any thread may use.
unsafe impl Send for Loaded {}
unsafe impl Sync for Loaded {}

/// Kernel files that are compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    /// Operations on rows.
    Rows,
    /// Random tokens.
    Draw,
    /// Products of a handful of rows.
    FewRows,
    /// Products of tens to hundreds of rows.
    SomeRows,
    /// The same on Hopper.
    HopperRows,
    /// Attention for any head size, and decoding's.
    Attention,
    /// Decoding's on Hopper.
    DecodingAttention,
    /// Attention of many queries on matrix units.
    FastAttention,
    /// Training: operations on rows, the loss, the optimizer.
    TrainingNumbers,
    TrainingRows,
    /// Training: attention for any head size.
    TrainingAttention,
    /// Training: attention on matrix units.
    TrainingFastAttention,
}

impl Module {
    /// What answering needs.
    pub(super) const INFERENCE: [Self; 8] = [
        Self::Rows,
        Self::Draw,
        Self::FewRows,
        Self::SomeRows,
        Self::HopperRows,
        Self::Attention,
        Self::DecodingAttention,
        Self::FastAttention,
    ];

    /// What learning needs beside it.
    pub(super) const TRAINING: [Self; 4] =
        [Self::TrainingNumbers, Self::TrainingRows, Self::TrainingAttention, Self::TrainingFastAttention];

    fn source(self) -> Source {
        match self {
            Self::Rows => Source { name: "rows", files: &[include_str!("kernels/rows.cu")] },
            Self::Draw => Source { name: "draw", files: &[include_str!("kernels/draw.cu")] },
            Self::FewRows => Source {
                name: "few_rows",
                files: &[include_str!("kernels/product.cuh"), include_str!("kernels/few_rows.cu")],
            },
            Self::SomeRows => Source {
                name: "some_rows",
                files: &[
                    include_str!("kernels/product.cuh"),
                    include_str!("kernels/tensor_core.cuh"),
                    include_str!("kernels/some_rows.cu"),
                ],
            },
            Self::HopperRows => Source {
                name: "hopper_rows",
                files: &[
                    include_str!("kernels/product.cuh"),
                    include_str!("kernels/tensor_core.cuh"),
                    include_str!("kernels/hopper_rows.cu"),
                ],
            },
            Self::Attention => Source { name: "attention", files: &[include_str!("kernels/attention.cu")] },
            Self::DecodingAttention => Source {
                name: "decoding_attention",
                files: &[include_str!("kernels/tensor_core.cuh"), include_str!("kernels/decoding_attention.cu")],
            },
            Self::FastAttention => Source {
                name: "fast_attention",
                files: &[
                    include_str!("kernels/tensor_core.cuh"),
                    include_str!("kernels/attention_common.cuh"),
                    include_str!("kernels/tile_attention.cu"),
                    include_str!("kernels/paged_attention.cu"),
                    include_str!("kernels/attention_entries.cu"),
                ],
            },
            Self::TrainingNumbers => Source {
                name: "training_numbers",
                files: &[include_str!("kernels/training_common.cuh"), include_str!("kernels/training_numbers.cu")],
            },
            Self::TrainingRows => Source {
                name: "training_rows",
                files: &[include_str!("kernels/training_common.cuh"), include_str!("kernels/training_rows.cu")],
            },
            Self::TrainingAttention => {
                Source { name: "training_attention", files: &[include_str!("kernels/training_attention.cu")] }
            }
            Self::TrainingFastAttention => Source {
                name: "training_fast_attention",
                files: &[
                    include_str!("kernels/tensor_core.cuh"),
                    include_str!("kernels/attention_common.cuh"),
                    include_str!("kernels/training_fast_attention.cu"),
                ],
            },
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);

// Safety: handles of loaded code, which any thread may start.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

impl Kernels {
    /// Compiles and loads modules.
    ///
    /// # Errors
    /// When one does not compile or load.
    pub(super) fn load(device: &Arc<Device>, compiler: &Compiler, modules: &[Module]) -> Result<Self> {
        let load = |module: &Module| Ok((*module, Loaded::new(device, compiler, module.source(), &[])?));
        Ok(Self { modules: modules.iter().map(load).collect::<Result<_>>()?, functions: Mutex::default() })
    }

    /// A kernel by name; a failure is kept by the device.
    pub(super) fn get(&self, module: Module, name: &str) -> Option<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = functions.entry(module).or_default();
        if let Some(function) = known.get(name) {
            return Some(*function);
        }
        let function = self.modules.get(&module)?.function(name)?;
        known.insert(name.to_owned(), function);
        Some(function)
    }
}

impl Loaded {
    /// Compiles and loads `source` with `defines` (`NAME=value`).
    ///
    /// # Errors
    /// When it does not compile or load.
    pub(super) fn new(device: &Arc<Device>, compiler: &Compiler, source: Source, defines: &[String]) -> Result<Self> {
        device.bind();
        let image = compiler.image(source, defines)?;
        // Safety: the image is whole machine code; the driver copies it.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let module = module.map_err(|error| failed(&format!("loading {}.cu", source.name), error))?;
        Ok(Self { device: device.clone(), module })
    }

    /// A kernel by name; a failure is kept by the device. Its blocks may ask for as much shared memory as there is.
    pub(super) fn function(&self, name: &str) -> Option<Function> {
        use sys::CUfunction_attribute_enum as Attribute;
        let declared = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // Safety: the module is loaded.
        unsafe {
            let function = result::module::get_function(self.module, CString::new(name).ok()?);
            let function = self.device.check(&format!("finding kernel {name}"), function)?;
            let declared = result::function::get_function_attribute(function, declared).unwrap_or(0);
            let left = self.device.shared_memory as i32 - declared;
            let _ = result::function::set_function_attribute(function, most, left);
            Some(Function(function))
        }
    }

    /// A number that the source declares; a failure is kept by the device.
    pub(super) fn constant(&self, name: &str) -> Option<u32> {
        let mut value = [0_u32];
        // Safety: the module is loaded, and the global is one number.
        unsafe {
            let global = result::module::get_global(self.module, CString::new(name).ok()?);
            let (pointer, _) = self.device.check(&format!("finding {name}"), global)?;
            self.device.check(&format!("reading {name}"), result::memcpy_dtoh_sync(&mut value, pointer))?;
        }
        Some(value[0])
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.device.bind();
        self.device.synchronise("unloading kernels");
        // Safety: loaded once, and nothing runs any more.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// Blocks, threads in each, and shared memory that is sized at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: (u32, u32, u32),
    pub(super) threads: u32,
    pub(super) shared: u32,
    pub(super) start: Start,
}

/// When a kernel's blocks may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// After the kernel before it.
    InOrder,
    /// Beside the end of the kernel before it: it waits by itself (`await_previous`).
    Early,
}

impl Shape {
    pub(super) fn new(grid: (u32, u32, u32), threads: u32) -> Self {
        Self { grid, threads, shared: 0, start: Start::InOrder }
    }

    /// The same for a kernel that waits by itself.
    pub(super) fn early(self) -> Self {
        Self { start: Start::Early, ..self }
    }

    /// The same for one that waits by itself in some cases.
    pub(super) fn early_if(self, waits: bool) -> Self {
        if waits { self.early() } else { self }
    }

    /// A warp for each of `count` rows, as in `rows.cu`.
    pub(super) fn rows(count: usize) -> Self {
        const WARPS: u32 = 4;
        Self::new(((count as u32).div_ceil(WARPS), 1, 1), 32 * WARPS)
    }

    /// One thread for each of `count`.
    pub(super) fn each(count: u64) -> Self {
        Self::new((count.div_ceil(256) as u32, 1, 1), 256)
    }
}

/// A kernel's argument: a number, or an address on the device, as it is passed.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "the driver reads it through a pointer")]
pub(super) struct Argument(u64);

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self(u64::from(value))
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self(value as u64)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self(u64::from(value.to_bits()))
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Device {
    /// Starts a kernel. Nothing is started once something has failed.
    ///
    /// # Safety
    /// `arguments` are what the kernel declares, in number, type and order, and every address is good for what it reads
    /// and writes.
    pub(super) unsafe fn launch(&self, what: &str, kernel: Option<Function>, shape: Shape, arguments: &[Argument]) {
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for (pointer, argument) in pointers.iter_mut().zip(arguments) {
            *pointer = std::ptr::from_ref(argument).cast_mut().cast();
        }
        assert!(arguments.len() <= MOST_ARGUMENTS, "arguments of a kernel");
        // Safety: `pointers` outlives the call; the rest is the caller's word.
        unsafe { self.launch_with(what, kernel, shape, &mut pointers) };
    }

    /// Starts a kernel with one argument, a structure.
    ///
    /// # Safety
    /// As for `launch`; `structure` is laid out as the kernel declares it.
    pub(super) unsafe fn launch_struct<T>(&self, what: &str, kernel: Option<Function>, shape: Shape, structure: &T) {
        let mut pointers = [std::ptr::from_ref(structure).cast_mut().cast::<c_void>()];
        // Safety: as above.
        unsafe { self.launch_with(what, kernel, shape, &mut pointers) };
    }

    unsafe fn launch_with(&self, what: &str, kernel: Option<Function>, shape: Shape, arguments: &mut [*mut c_void]) {
        let Some(kernel) = kernel else { return };
        let (x, y, z) = shape.grid;
        if x == 0 || y == 0 || z == 0 || self.has_failed() {
            return;
        }
        type Id = sys::CUlaunchAttributeID;
        type Value = sys::CUlaunchAttributeValue;
        let (id, value) = match shape.start {
            Start::Early if self.info.capability >= (9, 0) => (
                Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                Value { programmaticStreamSerializationAllowed: 1 },
            ),
            Start::Early | Start::InOrder => (Id::CU_LAUNCH_ATTRIBUTE_IGNORE, Value { cooperative: 0 }),
        };
        let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // Safety: the caller's word; the configuration outlives the call.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&raw const config, kernel.0, arguments.as_mut_ptr(), std::ptr::null_mut()) };
        self.check(what, launched.result());
    }
}
