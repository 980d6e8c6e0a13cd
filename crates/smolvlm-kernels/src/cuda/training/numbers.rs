//! Masters, gradients, moments; the copies of masters that products read; the optimizer.

use cudarc::driver::result;

use super::{Apart, CudaBackend};
use crate::cuda::launch::{Module, Shape};
use crate::cuda::memory::Buffer;
use crate::cuda::tensor::{Element, Tensor, Vector, Weight};
use crate::packed::Arrangement;
use crate::training::AdamW;

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
        floats.clear(backend);
        floats
    }

    pub(super) fn clear(&self, backend: &CudaBackend) {
        zero(backend, self.pointer(), self.numbers.bytes());
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

/// Sets bytes to zero.
pub(super) fn zero(backend: &CudaBackend, pointer: u64, bytes: usize) {
    if bytes > 0 && !backend.device.has_failed() {
        backend.device.bind();
        // Safety: the memory is that long, and everything that uses it is started in one order.
        let done = unsafe { result::memset_d8_async(pointer, 0, bytes, backend.device.stream) };
        backend.device.check("clearing memory", done);
    }
}

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
    // Safety: all three have that many numbers.
    unsafe { backend.each("packing a weight", &format!("repack_{}", weight.element.name()), count, &arguments) };
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
    unsafe { backend.each("packing a weight", &format!("separate_{}", weight.element.name()), count, &arguments) };
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
    unsafe { backend.each("packing a vector", "repack_vector", master.len, &arguments) };
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

/// Threads of a block that adds up squares, as `training_rows.cu` has them, and most blocks.
const NORM_THREADS: usize = 256;
const NORM_BLOCKS: usize = 1024;

pub(super) fn norm_of_all(backend: &CudaBackend, parts: &[&Floats]) -> f64 {
    let total = backend.tensor(1, 2, Element::F32);
    zero(backend, total.pointer(), size_of::<f64>());
    for part in parts {
        let blocks = part.len.div_ceil(NORM_THREADS).min(NORM_BLOCKS);
        let shape = Shape::new((blocks as u32, 1, 1), NORM_THREADS as u32);
        let arguments = [part.pointer().into(), part.len.into(), total.pointer().into()];
        // Safety: the part has that many numbers; the total is one f64.
        unsafe { backend.start("the norm of gradients", Module::TrainingRows, "add_squares", shape, &arguments) };
    }
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
    unsafe { backend.each("multiplying", "multiply", to.len, &arguments) };
}

/// As `training_rows.cu` declares it.
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

pub(super) fn adamw(
    backend: &CudaBackend,
    step: &AdamW,
    master: &Floats,
    gradient: &Floats,
    first: &Floats,
    second: &Floats,
) {
    let len = master.len;
    assert!([gradient.len, first.len, second.len] == [len; 3], "an optimizer's numbers are as many as the master's");
    let power = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let structure = AdamWArguments {
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
    };
    let kernel = backend.training_kernel(Module::TrainingRows, "adamw");
    // Safety: all four have that many numbers.
    unsafe { backend.device.launch_struct("the optimizer", kernel, Shape::each(len as u64), &structure) };
}
