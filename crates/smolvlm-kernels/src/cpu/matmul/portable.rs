//! Tile products in plain Rust: for any machine, and the text to read first.

use super::{Kernel, PANEL, Product, STEP, TILE_ROWS, TileKernels, nothing};

pub(super) fn kernels() -> TileKernels {
    let kernel =
        |multiply| Kernel { rows: TILE_ROWS, row_step: 1, few_rows: 0, few_panels: 1, chunks: usize::MAX, multiply };
    TileKernels {
        f32: kernel(multiply::<F32>),
        bf16: kernel(multiply::<Bf16>),
        u8i8: kernel(multiply::<U8I8>),
        q4: None,
        enter: nothing,
        leave: nothing,
    }
}

/// What four bytes of a row add to an accumulator.
trait Step {
    fn add(sum: f32, row: [u8; STEP], output: [u8; STEP]) -> f32;
}

struct F32;
struct Bf16;
struct U8I8;

impl Step for F32 {
    fn add(sum: f32, row: [u8; STEP], output: [u8; STEP]) -> f32 {
        sum + f32::from_le_bytes(row) * f32::from_le_bytes(output)
    }
}

impl Step for Bf16 {
    fn add(sum: f32, row: [u8; STEP], output: [u8; STEP]) -> f32 {
        let wide = |[a, b, c, d]: [u8; STEP]| [f32::from_le_bytes([0, 0, a, b]), f32::from_le_bytes([0, 0, c, d])];
        let ([x0, x1], [w0, w1]) = (wide(row), wide(output));
        sum + (x0 * w0 + x1 * w1)
    }
}

impl Step for U8I8 {
    fn add(sum: f32, row: [u8; STEP], output: [u8; STEP]) -> f32 {
        let products = (0..STEP).map(|i| i32::from(row[i]) * i32::from(output[i].cast_signed()));
        let sum = sum.to_bits().cast_signed().wrapping_add(products.sum());
        f32::from_bits(sum.cast_unsigned())
    }
}

/// # Safety
/// The product's addresses hold what they promise.
unsafe fn multiply<S: Step>(product: &Product) {
    // SAFETY: the product has a panel, and so a tile.
    let tile = unsafe { &mut (*product.tiles).0 };
    for (row, sums) in tile.iter_mut().enumerate().take(product.row_count) {
        if !product.add {
            *sums = [0.0; PANEL];
        }
        for step in 0..product.steps {
            // SAFETY: `row < row_count`, `step < steps`.
            let x = unsafe { product.rows.add(row * product.row_stride + step * STEP).cast::<[u8; STEP]>().read() };
            // SAFETY: `step < steps`.
            let outputs = unsafe { &*product.panels.add(step * PANEL * STEP).cast::<[[u8; STEP]; PANEL]>() };
            for (sum, output) in sums.iter_mut().zip(outputs) {
                *sum = S::add(*sum, x, *output);
            }
        }
    }
}
