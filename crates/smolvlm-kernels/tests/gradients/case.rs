//! An operation with its inputs, and the ways in which its backward is checked.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::cpu::InstructionSet;
use smolvlm_kernels::{
    CpuBackend, CudaBackend, Elements, Format, LinearArgs, MatrixView, ReferenceBackend, TrainBackend,
};

/// A step of the differences: their error grows with its fourth power, that of f32 results with its inverse.
const STEP: f32 = 1.0 / 32.0;
/// What is left of both, relative to the largest gradient of the input.
const DIFFERENCE_TOLERANCE: f64 = 1e-3;
/// Sums of up to 3,000 products in f32, in any order, relative to the largest gradient of the input.
const F32_TOLERANCE: f32 = 3e-5;
/// The same products as the reference's, whose operands may have fallen to the other side of a rounding.
const BF16_TOLERANCE: f32 = 5e-3;
/// A GPU sums in an order of its own.
const GPU_F32_TOLERANCE: f32 = 1e-4;
/// It stores what lies between the parts of an operation in bfloat16 too.
const GPU_BF16_TOLERANCE: f32 = 2e-2;
/// Set it to check every case on the first GPU too.
const ASK_FOR_GPU: &str = "SMOLVLM_TEST_CUDA";

/// Numbers by name.
pub(crate) type Named = Vec<(&'static str, Vec<f32>)>;

/// One operation and its inputs.
pub(crate) trait Case {
    /// What it depends on.
    fn inputs(&self) -> Named;
    /// Its result.
    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32>;
    /// The gradient of each input for the gradient of the result.
    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>>;
    /// How weights are stored.
    fn format(&self) -> Format {
        Format::F32
    }
}

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(crate) fn numbers(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
}

/// A matrix as it lies in a file.
pub(crate) fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn view(rows: usize, bytes: &[u8]) -> MatrixView<'_> {
    MatrixView::new(rows, bytes.len() / 4 / rows, Elements::F32(bytes))
}

/// The input of that name.
pub(crate) fn of<'a>(inputs: &'a Named, name: &str) -> &'a [f32] {
    inputs.iter().find(|(known, _)| *known == name).map(|(_, numbers)| numbers.as_slice()).expect("an input")
}

/// The reference's gradients against differences of its results, number by number.
pub(crate) fn check_by_differences(what: &str, case: &impl Case) {
    let (backend, mut inputs) = (ReferenceBackend, case.inputs());
    let dy = numbers(&mut rng(77), case.forward(&backend, &inputs).len());
    let gradients = case.backward(&backend, &inputs, &dy);
    let loss = |inputs: &Named| -> f64 {
        case.forward(&backend, inputs).iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
    };
    assert_eq!(gradients.len(), inputs.len(), "{what}: a gradient for each input");
    for (which, gradient) in gradients.iter().enumerate() {
        let name = inputs[which].0;
        assert_eq!(gradient.len(), inputs[which].1.len(), "{what}: {name}");
        let largest = gradient.iter().fold(1e-2_f64, |max, x| max.max(f64::from(x.abs())));
        for (i, gradient) in gradient.iter().enumerate() {
            let value = inputs[which].1[i];
            let mut at = |step: f32| {
                inputs[which].1[i] = value + step;
                loss(&inputs)
            };
            let (near, far) = (at(STEP) - at(-STEP), at(2.0 * STEP) - at(-2.0 * STEP));
            inputs[which].1[i] = value;
            let expected = (8.0 * near - far) / (12.0 * f64::from(STEP));
            let error = (f64::from(*gradient) - expected).abs();
            assert!(
                error <= DIFFERENCE_TOLERANCE * largest,
                "{what}: gradient {i} of {name} is {gradient}, differences say {expected}"
            );
        }
    }
}

/// Activations stored as products of a format leave them: the identity's, of numbers that it keeps as they are.
pub(crate) fn stored<B: TrainBackend>(
    backend: &B,
    rows: usize,
    width: usize,
    values: &[f32],
    format: Format,
) -> B::Tensor {
    let x = backend.upload(rows, width, values);
    if format == Format::F32 {
        return x;
    }
    let mut identity = vec![0.0; width * width];
    (0..width).for_each(|i| identity[i * width + i] = 1.0);
    let weight = backend.pack(&[view(width, &bytes(&identity))], format);
    backend.linear(LinearArgs::new(&x, &weight))
}

/// Numbers as bfloat16 keeps them, cut off.
pub(crate) fn short(numbers: Vec<f32>, format: Format) -> Vec<f32> {
    let mask = if format == Format::F32 { u32::MAX } else { 0xFFFF_0000 };
    numbers.into_iter().map(|value| f32::from_bits(value.to_bits() & mask)).collect()
}

/// The first GPU, if it is asked for.
pub(crate) fn gpu() -> Option<MutexGuard<'static, CudaBackend>> {
    static GPU: OnceLock<Mutex<CudaBackend>> = OnceLock::new();
    std::env::var_os(ASK_FOR_GPU)?;
    let open = || Mutex::new(CudaBackend::new(0, None).expect("a GPU was asked for"));
    Some(GPU.get_or_init(open).lock().unwrap_or_else(PoisonError::into_inner))
}

/// Results and gradients of the GPU against the reference's, if it is asked for.
pub(crate) fn check_on_the_gpu(what: &str, case: &impl Case) {
    let Some(gpu) = gpu() else { return };
    let inputs = case.inputs();
    let expected = case.forward(&ReferenceBackend, &inputs);
    // What another case left behind is not this one's.
    let _ = smolvlm_kernels::Backend::failure(&*gpu);
    let tolerance = if case.format() == Format::F32 { GPU_F32_TOLERANCE } else { GPU_BF16_TOLERANCE };
    assert_close(&format!("{what} on the GPU"), &case.forward(&*gpu, &inputs), &expected, tolerance);
    let dy = numbers(&mut rng(78), expected.len());
    let (expected, found) = (case.backward(&ReferenceBackend, &inputs, &dy), case.backward(&*gpu, &inputs, &dy));
    for ((found, expected), (name, _)) in found.iter().zip(&expected).zip(&inputs) {
        assert_close(&format!("{what} on the GPU: {name}"), found, expected, tolerance);
    }
    smolvlm_kernels::Backend::failure(&*gpu).expect("no failure");
}

/// Gradients of every instruction set against the reference's; on one and on three threads, bit for bit the same.
pub(crate) fn check_on_the_processor(what: &str, case: &impl Case) {
    let inputs = case.inputs();
    let dy = numbers(&mut rng(78), case.forward(&ReferenceBackend, &inputs).len());
    let expected = case.backward(&ReferenceBackend, &inputs, &dy);
    let tolerance = if case.format() == Format::F32 { F32_TOLERANCE } else { BF16_TOLERANCE };
    for set in InstructionSet::available() {
        let backend = |threads| CpuBackend::with_instruction_set(threads, set).expect("threads start");
        let found = case.backward(&backend(1), &inputs, &dy);
        assert!(found == case.backward(&backend(3), &inputs, &dy), "{what} on {}: threads change bits", set.name);
        for ((found, expected), (name, _)) in found.iter().zip(&expected).zip(&inputs) {
            assert_close(&format!("{what} on {}: {name}", set.name), found, expected, tolerance);
        }
    }
    check_on_the_gpu(what, case);
}

pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let scale = expected.iter().fold(1e-6_f32, |max, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "{what}: number {i} is {found}, expected {expected}");
    }
}
