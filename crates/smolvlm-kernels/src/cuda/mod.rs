//! The CUDA backend: NVIDIA GPUs, found when the program starts and driven through libraries that are loaded then.
//!
//! Everything runs on one stream, in order. Operations do not fail where they are called: the device keeps the first
//! failure, starts nothing more, and [`step`](Backend::step) or [`failure`](Backend::failure) reports it.

mod attention;
mod cache;
mod compile;
mod decode;
mod device;
mod download;
mod draw;
mod event;
mod hopper_products;
mod launch;
mod linear;
mod matmul;
mod memory;
mod peak;
mod places;
mod plan;
mod record;
mod rows;
mod small_products;
mod tensor;
mod tensor_map;
mod tiles;
mod training;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use cache::Cache;
pub use decode::Decoder;
pub use device::{DeviceInfo, Library, OLDEST_CAPABILITY, devices, libraries};
pub use plan::Plan;
pub use tensor::{Table, Tensor, Vector, Weight};
pub use training::{Apart, Floats, Saved};

use crate::backend::{
    Appetite, Backend, BackendError, CacheShape, Ceilings, DecoderWeights, LinearArgs, Norm, PatchArgs, RopeTable,
    TileBatch, TokenBatch,
};
use crate::choose::Draw;
use crate::packed::PackedMatrix;
use crate::view::{Format, MatrixView};
use compile::Compiler;
use cudarc::driver::result;
use device::Device;
use download::Downloads;
use launch::{Function, Kernels, Module};
use matmul::Matmul;
use memory::{Arena, Buffer};
use plan::{recorded_parts, recorded_rows};
use record::{Key, Recording, Recordings, State};
use tensor::{Element, Memory};

/// Bytes that are set aside for what lies between the operations of a step, and for what is kept: more than the largest published model needs
/// for as much work as it takes at once.
const STEP_MEMORY: u64 = 1 << 30;

/// Most bytes of what is kept beyond its step, image features: those of 110,000 image tokens of the smallest model. More of them wait on the host.
const KEPT_MEMORY: u64 = 128 << 20;

/// Computes on an NVIDIA GPU.
pub struct CudaBackend {
    /// Steps so far that were not a decoder's.
    steps: AtomicU64,
    recordings: Mutex<Recordings>,
    downloads: Mutex<Downloads>,
    arena: Arc<Arena>,
    /// Of what outlasts steps.
    kept: Arc<Arena>,
    matmul: Matmul,
    kernels: Kernels,
    /// Loaded when something first learns; none when that failed.
    training_kernels: OnceLock<Option<Kernels>>,
    compiler: Compiler,
    device: Arc<Device>,
}

impl CudaBackend {
    /// A backend on GPU `index` that keeps compiled kernels in the folder `kernels`.
    ///
    /// # Errors
    /// When a library, the GPU or its compute capability is missing, or a kernel does not compile: says what to do.
    pub fn new(index: usize, kernels: Option<PathBuf>) -> Result<Self, BackendError> {
        let device = Device::open(index)?;
        let compiler = Compiler::new(device.info.capability, kernels);
        let kernels = Kernels::load(&device, &compiler, &Module::INFERENCE)?;
        let matmul = Matmul::new(&device)?;
        let (arena, kept) = (Arena::new(&device), Arena::new(&device));
        let downloads = Mutex::new(Downloads::new(&device));
        device.take_failure()?;
        let (steps, recordings) = (AtomicU64::new(0), Mutex::default());
        let training_kernels = OnceLock::new();
        Ok(Self { steps, recordings, downloads, arena, kept, matmul, kernels, training_kernels, compiler, device })
    }

    /// The GPU.
    pub fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    fn begin_step(&self, plan: &Plan) {
        self.device.bind();
        self.steps.fetch_add(1, Ordering::Relaxed);
        plan.upload();
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Uninitialised activations of a step.
    fn tensor(&self, rows: usize, width: usize, element: Element) -> Tensor {
        let memory = Memory::Step(self.arena.take(rows * width * element.bytes()));
        Tensor { rows, width, element, memory, choice: None }
    }

    /// What a step needs beside its plan, copied to the device.
    fn uploaded<T: Copy>(&self, values: &[T]) -> Tensor {
        let out = self.tensor(1, size_of_val(values).div_ceil(Element::F32.bytes()), Element::F32);
        if !values.is_empty() && !self.device.has_failed() {
            self.device.bind();
            // Safety: both are that long; memory that is not pinned has been read when this returns.
            let copied = unsafe { result::memcpy_htod_async(out.pointer(), values, self.device.stream) };
            self.device.check("copying to the device", copied);
        }
        out
    }

    /// Whether this is the generation whose own matrix instructions the fastest kernels use.
    fn has_wgmma(&self) -> bool {
        self.device.info.capability == (9, 0)
    }

    fn kernel(&self, module: Module, name: &str) -> Option<Function> {
        self.kernels.get(module, name)
    }

    /// The same of what learning needs beside it, compiled when it is first asked for.
    fn training_kernel(&self, module: Module, name: &str) -> Option<Function> {
        let load = || match Kernels::load(&self.device, &self.compiler, &Module::TRAINING) {
            Ok(kernels) => Some(kernels),
            Err(error) => {
                self.device.fail(error);
                None
            }
        };
        self.training_kernels.get_or_init(load).as_ref()?.get(module, name)
    }

    /// Hands the bytes of some rows to `read`, some at a time, all of whole numbers.
    fn read_rows(&self, x: &Tensor, rows: Range<usize>, read: impl FnMut(&[u8])) {
        assert!(rows.end <= x.rows, "rows of a download");
        let row_bytes = x.width * x.element.bytes();
        self.read_bytes(x.pointer() + (rows.start * row_bytes) as u64, rows.len() * row_bytes, read);
    }

    /// Hands bytes on the device to `read`, some at a time, all of whole numbers.
    fn read_bytes(&self, from: u64, count: usize, read: impl FnMut(&[u8])) {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.read(from, count, read);
    }
}

impl Backend for CudaBackend {
    type Tensor = Tensor;
    type Weight = Weight;
    type Table = Table;
    type Vector = Vector;
    type Cache = Cache;
    type Plan = Plan;
    type Decoder = Decoder;

    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Weight {
        Weight::stacked(&self.device, parts, format)
    }

    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Weight {
        Weight::gate_up(&self.device, gate, up, format)
    }

    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Table {
        Weight::stacked(&self.device, &[matrix], format)
    }

    fn packed(&self, matrix: PackedMatrix) -> Weight {
        Weight::unpacked(&self.device, &matrix)
    }

    fn packed_table(&self, table: PackedMatrix) -> Table {
        Weight::unpacked(&self.device, &table)
    }

    fn vector(&self, values: &[f32]) -> Vector {
        Vector::new(&self.device, values)
    }

    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Tensor {
        assert_eq!(values.len(), rows * width, "an upload of {rows} × {width}");
        Tensor {
            rows,
            width,
            element: Element::F32,
            memory: Memory::Own(Buffer::of(&self.device, values)),
            choice: None,
        }
    }

    fn rows(&self, x: &Tensor) -> usize {
        x.rows
    }

    fn download_rows(&self, x: &Tensor, rows: Range<usize>, values: &mut Vec<f32>) {
        values.clear();
        values.reserve(rows.len() * x.width);
        let wanted = rows.len() * x.width;
        self.read_rows(x, rows, |bytes| match x.element {
            Element::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Element::Bf16 => {
                let numbers = bytes.as_chunks::<2>().0.iter();
                values.extend(numbers.map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)));
            }
        });
        // What a failure left out.
        values.resize(wanted, 0.0);
    }

    fn largest_into(&self, x: &Tensor, choices: &mut Vec<u32>) {
        if let Some(choice) = &x.choice {
            choices.clear();
            choices.push(choice.wait(self.steps()));
            return;
        }
        choices.clear();
        self.read_rows(&rows::largest(self, x), 0..x.rows, |bytes| {
            choices.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        });
        // What a failure left out.
        choices.resize(x.rows, 0);
    }

    fn keep(&self, x: &Tensor) -> Option<Tensor> {
        let bytes = x.numbers() * x.element.bytes();
        let block = self.kept.take_within(bytes, KEPT_MEMORY)?;
        if !self.device.has_failed() {
            self.device.bind();
            // Safety: both are that long; whatever used the block before was started before.
            let copied = unsafe { result::memcpy_dtod_async(block.pointer(), x.pointer(), bytes, self.device.stream) };
            self.device.check("keeping a result", copied);
        }
        Some(Tensor { memory: Memory::Step(block), choice: None, ..*x })
    }

    fn wait(&self) -> Result<(), BackendError> {
        self.device.bind();
        self.device.synchronise("waiting for the device");
        self.device.take_failure()
    }

    fn draw_into(&self, x: &Tensor, draws: &[Draw], choices: &mut Vec<u32>) {
        choices.clear();
        self.read_rows(&draw::draw(self, x, draws), 0..draws.len(), |bytes| {
            choices.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        });
        choices.resize(draws.len(), 0);
    }

    fn failure(&self) -> Result<(), BackendError> {
        self.device.take_failure()
    }

    fn appetite(&self) -> Appetite {
        Appetite { tiles: 11, first_tiles: 4, tokens: 8192 }
    }

    fn measure_ceilings(&self, format: Format) -> Ceilings {
        self.measure_peak(format)
    }

    fn most_memory(&self) -> Option<u64> {
        Some(self.device.allocated().1)
    }

    fn memory_left(&self) -> Option<u64> {
        let free = self.device.free_memory()?;
        Some(free - STEP_MEMORY.min(free / 2))
    }

    fn cache(&self, shape: CacheShape) -> Cache {
        Cache::new(&self.device, shape)
    }

    fn release_pages(&self, _cache: &mut Cache, _pages: &[u32]) {}

    fn plan(&self) -> Plan {
        Plan::new(&self.device)
    }

    fn fill_tokens(&self, plan: &mut Plan, cache: &mut Cache, batch: &TokenBatch) {
        plan.fill_tokens(batch);
        plan.cache = cache.id;
        if let Err(error) = cache.grow(plan.pages_needed()) {
            self.device.fail(error);
        }
    }

    fn fill_tiles(&self, plan: &mut Plan, batch: TileBatch<'_>) {
        plan.tiles.fill(batch);
    }

    fn step(&self, plan: &Plan, body: impl FnOnce() -> Tensor + Send) -> Result<Tensor, BackendError> {
        self.begin_step(plan);
        plan.set_rows(plan.tokens());
        let result = body();
        self.device.take_failure().map(|()| result)
    }

    fn repeated_step(&self, plan: &Plan, body: impl FnOnce() -> Tensor + Send) -> Result<Tensor, BackendError> {
        if !plan.is_decoding() || !self.arena.is_empty() {
            return self.step(plan, body);
        }
        self.begin_step(plan);
        let wanted = plan.rows();
        let key = Key {
            rows: recorded_rows(wanted),
            parts: recorded_parts(plan.most_keys, attention::DECODE_PART),
            plan: plan.id,
            cache: plan.cache,
        };
        plan.set_rows(key.rows);
        let mut recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match recordings.get(&key) {
            Some(State::Recorded(recording)) => Some(recording.replay(&self.arena, wanted)),
            Some(State::Seen) => Recording::of(&self.device, body).map(|recording| {
                let result = recording.replay(&self.arena, wanted);
                recordings.insert(key, State::Recorded(recording));
                result
            }),
            None => {
                recordings.insert(key, State::Seen);
                Some(Tensor { rows: wanted, ..body() })
            }
        };
        self.device.take_failure()?;
        result.ok_or_else(|| device::error("CUDA: a step was not recorded"))
    }

    fn decoder(&self, text: &DecoderWeights<'_, Self>) -> Option<Decoder> {
        // A model for whose sizes the kernel does not compile is decoded as many sequences are.
        Decoder::new(&self.device, &self.compiler, text).ok().flatten()
    }

    fn decode(&self, plan: &Plan, decoder: &Decoder, cache: &mut Cache) -> Option<Result<Tensor, BackendError>> {
        if plan.tokens() != 1 || !plan.is_decoding() {
            return None;
        }
        let logits = decoder.run(plan, cache, self.steps());
        Some(self.device.take_failure().map(|()| logits))
    }

    fn embed(&self, plan: &Plan, table: &Table) -> Tensor {
        rows::embed(self, plan, table)
    }

    fn scatter_features(&self, plan: &Plan, x: Tensor, sources: &[&Tensor]) -> Tensor {
        rows::scatter(self, plan, &x, sources);
        x
    }

    fn patch_embed(&self, plan: &Plan, args: PatchArgs<'_, Self>) -> Tensor {
        linear::patch_embed(self, plan, &args)
    }

    fn linear(&self, args: LinearArgs<'_, Self>) -> Tensor {
        linear::linear(self, &args)
    }

    fn norm(&self, x: &Tensor, norm: Norm<'_, Self>) -> Tensor {
        linear::norm(self, x, &norm, x.element)
    }

    fn tile_attention(&self, qkv: &Tensor, tile_rows: usize, heads: usize) -> Tensor {
        attention::tiles(self, qkv, tile_rows, heads)
    }

    fn cached_attention(
        &self,
        plan: &Plan,
        qkv: Tensor,
        cache: &mut Cache,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Tensor {
        attention::cached(self, plan, &qkv, cache, layer, rope)
    }

    fn pixel_shuffle(&self, x: &Tensor, side: usize, scale: usize) -> Tensor {
        rows::pixel_shuffle(self, x, side, scale)
    }

    fn gather_outputs(&self, plan: &Plan, x: &Tensor) -> Tensor {
        rows::gather(self, plan, x)
    }
}
