//! What the GPU can do at most, measured: large bf16 products and large copies, as a stage's share of the peak is counted.

use std::time::Instant;

use cudarc::driver::result;

use super::CudaBackend;
use super::matmul::Product;
use super::memory::Buffer;
use super::tensor::{Element, Memory, Tensor, Weight};

/// Rows, inputs and outputs of the product.
const SIDE: usize = 8192;
/// Bytes of the copy: more than any cache.
const COPY_BYTES: usize = 1 << 30;
/// Of each, after as many that are not timed.
const REPEATS: u32 = 10;

/// Measured ceilings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// bf16 products with f32 sums, operations per second.
    pub bf16: f64,
    /// Bytes read and written per second by a copy inside the device.
    pub memory: f64,
}

impl CudaBackend {
    /// Measures it in about a second.
    ///
    /// # Errors
    /// When the device fails or has too little memory for it.
    pub fn measure_peak(&self) -> Result<Peak, crate::BackendError> {
        let operations = 2.0 * (SIDE as f64).powi(3);
        let bf16 = operations / self.measure_product();
        let memory = 2.0 * COPY_BYTES as f64 / self.measure_copy();
        self.device.take_failure()?;
        Ok(Peak { bf16, memory })
    }

    fn measure_product(&self) -> f64 {
        // Numbers like those of real activations: a product of zeros is faster.
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0).to_bits()
        };
        let numbers: Vec<u16> = (0..SIDE * SIDE).map(|_| random()).collect();
        let matrix = || Buffer::of(&self.device, &numbers);
        let tensor = |buffer| Tensor { rows: SIDE, width: SIDE, element: Element::Bf16, memory: Memory::Own(buffer) };
        let (x, out) = (tensor(matrix()), tensor(Buffer::new(&self.device, SIDE * SIDE * 2)));
        let weight = Weight { outputs: SIDE, inputs: SIDE, element: Element::Bf16, data: matrix() };
        let product = Product { x: &x, weight: &weight, out: &out, residual: None, bias: None, gelu: false };
        self.time(|| self.matmul.product(&product))
    }

    fn measure_copy(&self) -> f64 {
        let (from, to) = (Buffer::new(&self.device, COPY_BYTES), Buffer::new(&self.device, COPY_BYTES));
        if self.device.has_failed() {
            return f64::INFINITY;
        }
        self.time(|| {
            // Safety: both are that long.
            let copied =
                unsafe { result::memcpy_dtod_async(to.pointer(), from.pointer(), COPY_BYTES, self.device.stream) };
            self.device.check("copying", copied);
        })
    }

    /// Seconds of one `work`.
    fn time(&self, work: impl Fn()) -> f64 {
        (0..REPEATS).for_each(|_| work());
        self.device.synchronise("measuring");
        let started = Instant::now();
        (0..REPEATS).for_each(|_| work());
        self.device.synchronise("measuring");
        started.elapsed().as_secs_f64() / f64::from(REPEATS)
    }
}
