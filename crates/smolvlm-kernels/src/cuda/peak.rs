//! What the GPU can do at most, measured by large products and large copies.

use std::time::Instant;

use cudarc::driver::result;

use super::CudaBackend;
use super::matmul::Product;
use super::memory::Buffer;
use super::tensor::{Memory, Tensor, Weight};
use crate::backend::Ceilings;
use crate::view::{Elements, Format, MatrixView};

/// Rows, inputs and outputs of the product.
const SIDE: usize = 8192;
/// Bytes of the copy: more than any cache.
const COPY_BYTES: usize = 1 << 30;
/// Of each, after as many that are not timed.
const REPEATS: u32 = 10;

impl CudaBackend {
    /// Measures what products in a format and copies reach. A failure is kept by the device.
    pub(super) fn measure_peak(&self, format: Format) -> Ceilings {
        let operations = 2.0 * (SIDE as f64).powi(3);
        let products = operations / self.measure_product(format);
        let memory = 2.0 * COPY_BYTES as f64 / self.measure_copy();
        Ceilings { matrices: products, attention: products, memory }
    }

    fn measure_product(&self, format: Format) -> f64 {
        // Numbers like those of real activations: a product of zeros is faster.
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let numbers: Vec<u8> = (0..SIDE * SIDE).flat_map(|_| random().to_le_bytes()).collect();
        let matrix = || Weight::stacked(&self.device, &[MatrixView::new(SIDE, SIDE, Elements::F32(&numbers))], format);
        let (weight, x) = (matrix(), matrix());
        let element = weight.element;
        let tensor = |data| Tensor { rows: SIDE, width: SIDE, element, memory: Memory::Own(data), choice: None };
        let (x, out) = (tensor(x.data), tensor(Buffer::new(&self.device, SIDE * SIDE * element.bytes())));
        let product =
            Product { x: &x, weight: &weight, out: &out, residual: None, bias: None, gelu: false, before: None };
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
