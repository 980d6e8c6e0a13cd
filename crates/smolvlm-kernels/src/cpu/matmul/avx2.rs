//! Tile products for AVX2 and FMA: two passes over a panel, each 16 outputs wide with 12 accumulators of 8.

#![allow(clippy::needless_range_loop, reason = "rows and halves address accumulators and memory alike")]

use std::arch::x86_64::*;

// Closures (as `array::from_fn` takes them) would not be inlined: the standard library's functions around them are not
// compiled for these instructions. So arrays are filled by loops here.
use super::{Kernel, PANEL, Product, STEP, TileKernels, nothing};

/// Bytes of a register.
const WIDTH: usize = 32;
/// Bytes of a step of a panel, and of one pass's part of it.
const PANEL_STEP: usize = PANEL * STEP;
const PASS: usize = 2 * WIDTH;
const ROWS: usize = 6;

pub(super) fn kernels() -> TileKernels {
    let kernel =
        |multiply| Kernel { rows: ROWS, row_step: 1, few_rows: 0, few_panels: 1, chunks: usize::MAX, multiply };
    TileKernels {
        f32: kernel(f32::multiply),
        bf16: kernel(bf16::multiply),
        u8i8: kernel(u8i8::multiply),
        q4: None,
        enter: nothing,
        leave: nothing,
    }
}

pub(super) fn vnni_kernels() -> TileKernels {
    let u8i8 = Kernel { multiply: vnni::multiply, ..kernels().u8i8 };
    TileKernels { u8i8, ..kernels() }
}

/// Stamps the kernel for one kind of product: `$row(step of a row)` and `$output(step of 8 outputs)` prepare what
/// `$dot(sums, row, output)` multiplies.
macro_rules! stamp {
    ($module:ident, $features:literal, $row:expr, $output:expr, $dot:expr) => {
        mod $module {
            use super::*;

            /// # Safety
            /// The machine has the instructions, and the product's addresses hold what they promise.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize>(product: &Product) {
                for pass in 0..PANEL_STEP / PASS {
                    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
                    // SAFETY: every row index is below `ROWS`, `step < steps`; a tile's row has 32 numbers.
                    unsafe {
                        if product.add {
                            for row in 0..ROWS {
                                for half in 0..2 {
                                    sums[row][half] = _mm256_loadu_si256(sum(product, row, pass, half));
                                }
                            }
                        }
                        for step in 0..product.steps {
                            let place = product.panels.add(step * PANEL_STEP + pass * PASS);
                            let w = [
                                $output(_mm256_loadu_si256(place.cast())),
                                $output(_mm256_loadu_si256(place.add(WIDTH).cast())),
                            ];
                            for row in 0..ROWS {
                                let x = product.rows.add(row * product.row_stride + step * STEP);
                                let x = $row(_mm256_set1_epi32(x.cast::<i32>().read_unaligned()));
                                for half in 0..2 {
                                    sums[row][half] = $dot(sums[row][half], x, w[half]);
                                }
                            }
                        }
                        for row in 0..ROWS {
                            for half in 0..2 {
                                _mm256_storeu_si256(sum(product, row, pass, half), sums[row][half]);
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// As [`tile`].
            pub(super) unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe {
                    match product.row_count {
                        1 => tile::<1>(product),
                        2 => tile::<2>(product),
                        3 => tile::<3>(product),
                        4 => tile::<4>(product),
                        5 => tile::<5>(product),
                        6 => tile::<6>(product),
                        rows => unreachable!("a product of {rows} rows"),
                    }
                }
            }
        }
    };
}

stamp!(f32, "avx2,fma", |x| x, |w| w, |sums, x, w| fma(sums, x, w));
stamp!(bf16, "avx2,fma", |x| split_bf16(x), |w| split_bf16(w), |sums, x: [__m256i; 2], w: [__m256i; 2]| {
    fma(fma(sums, x[0], w[0]), x[1], w[1])
});
// Products of pairs would not fit the 16 bits that AVX2 multiplies 8-bit integers into, so they are widened first.
stamp!(u8i8, "avx2,fma", |x| split_u8(x), |w| split_i8(w), |sums, x: [__m256i; 2], w: [__m256i; 2]| {
    let products = _mm256_add_epi32(_mm256_madd_epi16(x[0], w[0]), _mm256_madd_epi16(x[1], w[1]));
    _mm256_add_epi32(sums, products)
});
stamp!(vnni, "avx2,fma,avxvnni", |x| x, |w| w, |sums, x, w| _mm256_dpbusd_avx_epi32(sums, x, w));

#[inline]
#[target_feature(enable = "avx2,fma")]
fn fma(sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
    _mm256_castps_si256(_mm256_fmadd_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(w), _mm256_castsi256_ps(sums)))
}

/// The first and the second of each pair, as f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split_bf16(pairs: __m256i) -> [__m256i; 2] {
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    [_mm256_slli_epi32::<16>(pairs), _mm256_and_si256(pairs, high)]
}

/// Bytes 0 and 2, and bytes 1 and 3 of each step, as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split_u8(x: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x)]
}

/// The same of signed bytes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split_i8(w: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w)]
}

/// Where an accumulator lies.
///
/// # Safety
/// The product has that row.
#[inline(always)]
unsafe fn sum(product: &Product, row: usize, pass: usize, half: usize) -> *mut __m256i {
    // SAFETY: there is a tile for the panel.
    unsafe { (&raw mut (*product.tiles).0[row][(pass * PASS + half * WIDTH) / STEP]).cast() }
}
