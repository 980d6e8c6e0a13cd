//! Every operation, on every instruction set that this machine has, against the scalar reference.
//!
//! Sets that this machine lacks are named in the output of `every_instruction_set_of_this_machine_is_tested`.

#![allow(clippy::print_stdout, reason = "a test says what it did not check")]

mod attention;
mod draws;
mod products;
mod rows;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rand::{Rng, RngExt};
use smolvlm_kernels::cpu::InstructionSet;
use smolvlm_kernels::{Backend, CpuBackend, CudaBackend, Elements, Format, LinearArgs, MatrixView, ReferenceBackend};

/// Sums of up to 3,000 products of numbers around one, in f32, in any order.
const F32_TOLERANCE: f32 = 2e-5;
/// The products are the same as the reference's; hardware may flush denormals and rounds pairs.
const BF16_TOLERANCE: f32 = 1e-4;
/// Two roundings to eight bits.
const GPU_BF16_TOLERANCE: f32 = 1.2e-2;
/// Set it to run every case on the first GPU too.
const ASK_FOR_GPU: &str = "SMOLVLM_TEST_CUDA";

const FORMATS: [Format; 4] = [Format::F32, Format::Bf16, Format::Q8, Format::Q4];

const SHAPES: [(usize, usize, usize); 10] = [
    (0, 64, 64),
    (70, 3200, 100),
    (1, 64, 64),
    (1, 576, 576),
    (2, 33, 65),
    (5, 130, 49),
    (6, 64, 7),
    (7, 96, 200),
    (97, 48, 144),
    (200, 588, 72),
];

fn backends() -> Vec<CpuBackend> {
    let sets = InstructionSet::available();
    sets.into_iter().map(|set| CpuBackend::with_instruction_set(2, set).expect("threads start")).collect()
}

fn numbers(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
}

/// Numbers as the bytes of a file.
struct Stored {
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Stored {
    fn random(rng: &mut impl Rng, rows: usize, cols: usize) -> Self {
        let bytes = numbers(rng, rows * cols).iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { rows, cols, bytes }
    }

    fn view(&self) -> MatrixView<'_> {
        MatrixView::new(self.rows, self.cols, Elements::F32(&self.bytes))
    }
}

/// Compares relative to the largest number expected.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let scale = expected.iter().fold(1e-6_f32, |max, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "{what}: number {i} is {found}, expected {expected}");
    }
}

fn tolerance(format: Format) -> f32 {
    match format {
        Format::F32 => F32_TOLERANCE,
        Format::Bf16 => BF16_TOLERANCE,
        // Sums of integers are exact; an activation between two of them may fall to either side.
        Format::Q8 | Format::Q4 => 1e-2,
    }
}

/// The GPU, where one is asked for. One test at a time uses it.
fn gpu() -> Option<MutexGuard<'static, CudaBackend>> {
    static GPU: OnceLock<Option<Mutex<CudaBackend>>> = OnceLock::new();
    let asked = || std::env::var_os(ASK_FOR_GPU).is_some();
    let backend = GPU.get_or_init(|| asked().then(|| Mutex::new(CudaBackend::new(0, None).expect("a GPU"))));
    backend.as_ref().map(|backend| backend.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `case` on the reference, on every CPU backend and on the GPU, if there is one, and compares.
fn conforms(what: &str, tolerance: f32, case: impl Case) {
    let expected = case.run(&ReferenceBackend);
    for backend in backends() {
        let what = format!("{what} on {}", backend.instruction_set().name);
        assert_close(&what, &case.run(&backend), &expected, tolerance);
    }
    let on_gpu = match case.format() {
        Format::F32 => tolerance,
        // Results and what lies between operations are stored in bfloat16.
        Format::Bf16 => tolerance.max(GPU_BF16_TOLERANCE),
        Format::Q8 | Format::Q4 => return,
    };
    if let Some(backend) = gpu() {
        let found = case.run(&*backend);
        backend.failure().expect("the GPU works");
        assert_close(&format!("{what} on {}", backend.info().name), &found, &expected, on_gpu);
    }
}

/// One operation with its inputs, for any backend.
trait Case {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32>;
    /// How its weights, or what stands for them, are stored.
    fn format(&self) -> Format;
}

/// `numbers` as a linear layer of a format leaves them: a product by one.
fn as_stored<B: Backend>(backend: &B, rows: usize, width: usize, numbers: &[f32], format: Format) -> B::Tensor {
    let one: Vec<u8> = (0..width * width).flat_map(|i| f32::from(i % (width + 1) == 0).to_le_bytes()).collect();
    let one = backend.pack(&[MatrixView::new(width, width, Elements::F32(&one))], format);
    backend.linear(LinearArgs::new(&backend.upload(rows, width, numbers), &one))
}

#[test]
fn every_instruction_set_of_this_machine_is_tested() {
    let names: Vec<_> = InstructionSet::available().iter().map(|set| set.name).collect();
    for name in InstructionSet::NAMES {
        println!("{name}: {}", if names.contains(&name) { "tested" } else { "absent on this machine" });
    }
    assert!(names.contains(&"portable"));
}
