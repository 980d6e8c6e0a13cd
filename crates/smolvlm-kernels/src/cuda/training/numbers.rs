//! Masters, gradients, moments; the copies of masters that products read; the optimizer.

use cudarc::driver::result;

use super::{Apart, CudaBackend};
use crate::cuda::launch::{Argument, Module, Shape};
use crate::cuda::memory::Buffer;
use crate::cuda::tensor::{Element, Tensor, Vector, Weight};
use crate::packed::Arrangement;
use crate::training::AdamWPart;

/// f32 numbers on the device.
pub struct Floats {
    numbers: Buffer,
    len: usize,
}

impl Floats {
    pub(super) fn of(backend: &CudaBackend, values: &[f32]) -> Self {
        Self { numbers: Buffer::of(&backend.device, values), len: values.len() }
    }

    pub(super) fn zeros(backend: &CudaBackend, len: usize) -> Self {
        let floats = Self { numbers: Buffer::new(&backend.device, len * size_of::<f32>()), len };
        zero(backend, floats.pointer(), floats.numbers.bytes());
        floats
    }

    pub(super) fn read(&self, backend: &CudaBackend) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len);
        backend.read_bytes(self.pointer(), self.len * size_of::<f32>(), |bytes| {
            values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        });
        // What a failure left out.
        values.resize(self.len, 0.0);
        values
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn pointer(&self) -> u64 {
        self.numbers.pointer()
    }
}

/// Starts a kernel of `training_numbers.cu` with a thread for each of `count`.
///
/// # Safety
/// As for [`Device::launch`](crate::cuda::device::Device::launch).
unsafe fn each(backend: &CudaBackend, what: &str, kernel: &str, count: usize, arguments: &[Argument]) {
    // Safety: the caller's word.
    unsafe { backend.start(what, Module::TrainingNumbers, kernel, Shape::each(count as u64), arguments) };
}

/// Sets bytes to zero.
pub(super) fn zero(backend: &CudaBackend, pointer: u64, bytes: usize) {
    if bytes > 0 && !backend.device.has_failed() {
        backend.device.bind();
        // Safety: the memory is that long, and everything that uses it is started in one order.
        let done = unsafe { result::memset_d8_async(pointer, 0, bytes, backend.device.stream) };
        backend.device.check("clearing memory", done);
    }
}

/// Of a weight that is packed, as `training_numbers.cu` has them.
const NUMBERS_A_THREAD: usize = 4;

pub(super) fn repack(
    backend: &CudaBackend,
    weight: &Weight,
    apart: Option<&Apart>,
    arrangement: Arrangement,
    master: &Floats,
) {
    let count = weight.outputs * weight.inputs;
    assert_eq!(count, master.len, "a weight is as large as its master");
    let arguments = [
        master.pointer().into(),
        weight.data.pointer().into(),
        apart.and_then(|apart| apart.0.as_ref()).map_or(0, Buffer::pointer).into(),
        count.into(),
        (weight.outputs as u32).into(),
        (weight.inputs as u32).into(),
        u32::from(arrangement == Arrangement::GateUp).into(),
    ];
    let (name, threads) = (format!("repack_{}", weight.element.name()), count.div_ceil(NUMBERS_A_THREAD));
    // Safety: all three have that many numbers.
    unsafe { each(backend, "packing a weight", &name, threads, &arguments) };
}

pub(super) fn apart(backend: &CudaBackend, weight: &Weight, arrangement: Arrangement) -> Apart {
    if arrangement != Arrangement::GateUp {
        return Apart(None);
    }
    let count = weight.outputs * weight.inputs;
    let buffer = Buffer::new(&backend.device, count * weight.element.bytes());
    let arguments = [
        weight.data.pointer().into(),
        buffer.pointer().into(),
        count.into(),
        (weight.outputs as u32).into(),
        (weight.inputs as u32).into(),
    ];
    // Safety: both have that many numbers.
    unsafe { each(backend, "packing a weight", &format!("separate_{}", weight.element.name()), count, &arguments) };
    Apart(Some(buffer))
}

impl Apart {
    /// The numbers of a weight as its gradients stand.
    pub(super) fn numbers(&self, weight: &Weight) -> u64 {
        self.0.as_ref().map_or(weight.data.pointer(), Buffer::pointer)
    }
}

pub(super) fn repack_vector(backend: &CudaBackend, vector: &Vector, master: &Floats) {
    let arguments =
        [master.pointer().into(), vector.f32.pointer().into(), vector.bf16.pointer().into(), master.len.into()];
    // Safety: all three have that many numbers.
    unsafe { each(backend, "packing a vector", "repack_vector", master.len, &arguments) };
}

pub(super) fn repack_tensor(backend: &CudaBackend, tensor: &Tensor, master: &Floats) {
    assert!(tensor.element == Element::F32 && tensor.numbers() == master.len, "activations as large as their master");
    copy(backend, tensor.pointer(), master.pointer(), master.numbers.bytes());
}

/// Copies bytes on the device.
pub(super) fn copy(backend: &CudaBackend, to: u64, from: u64, bytes: usize) {
    if bytes > 0 && !backend.device.has_failed() {
        backend.device.bind();
        // Safety: both are that long, and everything that uses them is started in one order.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, backend.device.stream) };
        backend.device.check("copying on the device", done);
    }
}

/// Threads of a block that takes numbers of one of many parts, and how many it takes, as `training_numbers.cu` has them.
const PART_THREADS: u32 = 256;
const PART_NUMBERS: usize = 8192;

/// A part as `training_numbers.cu` declares it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Placed<T: Copy> {
    first_block: u64,
    part: T,
}

/// As `training_numbers.cu` declares it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Numbers {
    at: u64,
    count: u64,
}

impl Numbers {
    fn of(floats: &Floats) -> (usize, Self) {
        (floats.len, Self { at: floats.pointer(), count: floats.len as u64 })
    }
}

/// Starts one kernel for the numbers of many parts, each given with how many it has.
fn over_parts<T: Copy>(
    backend: &CudaBackend,
    what: &str,
    kernel: &str,
    parts: impl Iterator<Item = (usize, T)>,
    total: Option<&Tensor>,
) {
    let mut blocks = 0;
    let place = |(len, part): (usize, T)| {
        let first_block = blocks;
        blocks += len.div_ceil(PART_NUMBERS) as u64;
        Placed { first_block, part }
    };
    let placed: Vec<Placed<T>> = parts.map(place).collect();
    let table = backend.uploaded(&placed);
    let arguments = [table.pointer().into(), (placed.len() as u32).into(), total.map_or(0, Tensor::pointer).into()];
    let asked = if total.is_some() { &arguments[..] } else { &arguments[..2] };
    let shape = Shape::new((blocks as u32, 1, 1), PART_THREADS);
    // Safety: every part has as many numbers as it says, and blocks for them.
    unsafe { backend.start(what, Module::TrainingNumbers, kernel, shape, asked) };
}

pub(super) fn clear(backend: &CudaBackend, parts: &[&mut Floats]) {
    over_parts(backend, "clearing gradients", "clear_all", parts.iter().map(|part| Numbers::of(part)), None);
}

pub(super) fn norm_of_all(backend: &CudaBackend, parts: &[&Floats]) -> f64 {
    let total = backend.tensor(1, 2, Element::F32);
    zero(backend, total.pointer(), size_of::<f64>());
    let numbers = parts.iter().map(|part| Numbers::of(part));
    over_parts(backend, "the norm of gradients", "add_squares", numbers, Some(&total));
    let mut sum = f64::NAN;
    backend.read_bytes(total.pointer(), size_of::<f64>(), |bytes| {
        if let Some(bytes) = bytes.first_chunk() {
            sum = f64::from_le_bytes(*bytes);
        }
    });
    sum.sqrt()
}

pub(super) fn multiply(backend: &CudaBackend, to: &Floats, by: &Floats) {
    assert_eq!(to.len, by.len, "numbers to multiply");
    let arguments = [to.pointer().into(), by.pointer().into(), to.len.into()];
    // Safety: both have that many numbers.
    unsafe { each(backend, "multiplying", "multiply", to.len, &arguments) };
}

/// As `training_numbers.cu` declares it.
#[derive(Clone, Copy)]
#[repr(C)]
struct AdamWArguments {
    master: u64,
    gradient: u64,
    first: u64,
    second: u64,
    count: u64,
    gradient_scale: f32,
    kept: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate1: f32,
    root2: f32,
    eps: f32,
}

impl AdamWArguments {
    fn of(part: &AdamWPart<'_, CudaBackend>) -> Self {
        let AdamWPart { step, master, gradient, first, second } = part;
        let len = master.len;
        assert!(
            [gradient.len, first.len, second.len] == [len; 3],
            "an optimizer's numbers are as many as the master's"
        );
        let power = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Self {
            master: master.pointer(),
            gradient: gradient.pointer(),
            first: first.pointer(),
            second: second.pointer(),
            count: len as u64,
            gradient_scale: step.gradient_scale as f32,
            kept: (1.0 - step.rate * step.decay) as f32,
            beta1: step.beta1 as f32,
            rest1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            rest2: (1.0 - step.beta2) as f32,
            rate1: (step.rate / power(step.beta1)) as f32,
            root2: (1.0 / power(step.beta2).sqrt()) as f32,
            eps: step.eps as f32,
        }
    }
}

pub(super) fn adamw(backend: &CudaBackend, parts: &[AdamWPart<'_, CudaBackend>]) {
    let numbers = parts.iter().map(|part| (part.master.len, AdamWArguments::of(part)));
    over_parts(backend, "the optimizer", "adamw", numbers, None);
}
