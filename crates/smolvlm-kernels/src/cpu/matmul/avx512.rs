//! Tile products for AVX-512: up to 28 accumulators of 16 outputs, so 14 rows of a panel or fewer rows of several panels.

#![allow(clippy::needless_range_loop, reason = "rows and panels address accumulators and memory alike")]

use std::arch::x86_64::*;

// Closures (as `array::from_fn` takes them) would not be inlined: the standard library's functions around them are not
// compiled for these instructions. So arrays are filled by loops here.
use super::{CHUNK, Kernel, PANEL, Product, Q4_CHUNK, STEP, TileKernels, nothing};

/// Bytes of a register.
const WIDTH: usize = 64;
/// Bytes of a step of a panel.
const PANEL_STEP: usize = PANEL * STEP;
const ROWS: usize = 14;
pub(super) const FEW_ROWS: usize = 3;
const FEW_PANELS: usize = 4;

pub(super) fn kernels() -> TileKernels {
    let kernel = |multiply| Kernel {
        rows: ROWS,
        row_step: 1,
        few_rows: FEW_ROWS,
        few_panels: FEW_PANELS,
        chunks: usize::MAX,
        multiply,
    };
    TileKernels {
        f32: kernel(f32::multiply),
        bf16: kernel(bf16::multiply),
        u8i8: kernel(u8i8::multiply),
        q4: Some(q4),
        enter: nothing,
        leave: nothing,
    }
}

/// Stamps the kernel for one kind of product: `$dot(sums, step of a row, step of 16 outputs)`.
macro_rules! stamp {
    ($module:ident, $features:literal, $dot:expr) => {
        pub(super) mod $module {
            use super::*;

            /// # Safety
            /// The machine has the instructions, and the product's addresses hold what they promise.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize, const PANELS: usize>(product: &Product) {
                let mut sums = [[[_mm512_setzero_si512(); 2]; PANELS]; ROWS];
                // SAFETY: every row index is below `ROWS`, every panel index below `PANELS`, `step < steps`; a tile's
                // row has 32 numbers.
                unsafe {
                    if product.add {
                        for (row, panel, half) in each::<ROWS, PANELS>() {
                            sums[row][panel][half] = _mm512_loadu_si512(sum(product, row, panel, half));
                        }
                    }
                    let (mut x, mut outputs) = (product.rows, product.panels);
                    for _ in 0..product.steps {
                        let mut w = [[_mm512_setzero_si512(); 2]; PANELS];
                        for panel in 0..PANELS {
                            for half in 0..2 {
                                let place = outputs.add(panel * product.panel_stride + half * WIDTH);
                                w[panel][half] = _mm512_loadu_si512(place.cast());
                            }
                        }
                        for row in 0..ROWS {
                            let x = _mm512_set1_epi32(x.add(row * product.row_stride).cast::<i32>().read_unaligned());
                            for panel in 0..PANELS {
                                for half in 0..2 {
                                    sums[row][panel][half] = $dot(sums[row][panel][half], x, w[panel][half]);
                                }
                            }
                        }
                        x = x.add(STEP);
                        outputs = outputs.add(PANEL_STEP);
                    }
                    for (row, panel, half) in each::<ROWS, PANELS>() {
                        _mm512_storeu_si512(sum(product, row, panel, half), sums[row][panel][half]);
                    }
                }
            }

            /// # Safety
            /// As [`tile`].
            pub(in super::super) unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe {
                    match (product.row_count, product.panel_count) {
                        (1, 1) => tile::<1, 1>(product),
                        (1, 2) => tile::<1, 2>(product),
                        (1, 3) => tile::<1, 3>(product),
                        (1, 4) => tile::<1, 4>(product),
                        (2, 1) => tile::<2, 1>(product),
                        (2, 2) => tile::<2, 2>(product),
                        (2, 3) => tile::<2, 3>(product),
                        (2, 4) => tile::<2, 4>(product),
                        (3, 1) => tile::<3, 1>(product),
                        (3, 2) => tile::<3, 2>(product),
                        (3, 3) => tile::<3, 3>(product),
                        (3, 4) => tile::<3, 4>(product),
                        (4, 1) => tile::<4, 1>(product),
                        (5, 1) => tile::<5, 1>(product),
                        (6, 1) => tile::<6, 1>(product),
                        (7, 1) => tile::<7, 1>(product),
                        (8, 1) => tile::<8, 1>(product),
                        (9, 1) => tile::<9, 1>(product),
                        (10, 1) => tile::<10, 1>(product),
                        (11, 1) => tile::<11, 1>(product),
                        (12, 1) => tile::<12, 1>(product),
                        (13, 1) => tile::<13, 1>(product),
                        (14, 1) => tile::<14, 1>(product),
                        (rows, panels) => unreachable!("a product of {rows} rows and {panels} panels"),
                    }
                }
            }
        }
    };
}

stamp!(f32, "avx512f", |sums, x, w| {
    _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), _mm512_castsi512_ps(sums)))
});
stamp!(bf16, "avx512f,avx512bf16", |sums, x: __m512i, w: __m512i| {
    // A register of any bits is 32 bfloat16.
    let x = std::mem::transmute::<__m512i, __m512bh>(x);
    let w = std::mem::transmute::<__m512i, __m512bh>(w);
    _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sums), x, w))
});
stamp!(u8i8, "avx512f,avx512vnni", |sums, x, w| _mm512_dpbusd_epi32(sums, x, w));

/// Few rows of 8-bit integers by a 4-bit panel: integers are taken apart on the way.
///
/// # Safety
/// The machine has the instructions, and the product's addresses hold what they promise; the panel is a 4-bit one.
pub(super) unsafe fn q4(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.row_count {
            1 => q4_rows::<1>(product),
            2 => q4_rows::<2>(product),
            3 => q4_rows::<3>(product),
            rows => unreachable!("a product of {rows} rows"),
        }
    }
}

/// # Safety
/// As [`q4`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q4_rows<const ROWS: usize>(product: &Product) {
    /// Steps of a chunk that share the factors of one group.
    const GROUP_STEPS: usize = CHUNK / STEP / 2;
    let (low, eight) = (_mm512_set1_epi8(15), _mm512_set1_epi8(8));
    let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
    let (mut x, mut outputs) = (product.rows, product.panels);
    // SAFETY: every row index is below `ROWS`; a chunk has `Q4_CHUNK` bytes, and 64 of a row; a tile's row has 32 numbers.
    unsafe {
        for _ in 0..product.steps / (2 * GROUP_STEPS) {
            // By group, row and half of the panel.
            let mut groups = [[[_mm512_setzero_si512(); 2]; ROWS]; 2];
            for step in 0..GROUP_STEPS {
                for half in 0..2 {
                    let packed = _mm512_loadu_si512(outputs.add(step * PANEL_STEP + half * WIDTH).cast());
                    let w = [
                        _mm512_sub_epi8(_mm512_and_si512(packed, low), eight),
                        _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16::<4>(packed), low), eight),
                    ];
                    for row in 0..ROWS {
                        for group in 0..2 {
                            let place = x.add(row * product.row_stride + (group * GROUP_STEPS + step) * STEP);
                            let x = _mm512_set1_epi32(place.cast::<i32>().read_unaligned());
                            groups[group][row][half] = _mm512_dpbusd_epi32(groups[group][row][half], x, w[group]);
                        }
                    }
                }
            }
            for group in 0..2 {
                for half in 0..2 {
                    let place = outputs.add(GROUP_STEPS * PANEL_STEP + group * PANEL + half * PANEL / 2);
                    let factors = _mm512_cvtepi8_epi32(_mm_loadu_si128(place.cast()));
                    for row in 0..ROWS {
                        let scaled = _mm512_mullo_epi32(groups[group][row][half], factors);
                        sums[row][half] = _mm512_add_epi32(sums[row][half], scaled);
                    }
                }
            }
            x = x.add(CHUNK);
            outputs = outputs.add(Q4_CHUNK);
        }
        for row in 0..ROWS {
            for half in 0..2 {
                _mm512_storeu_si512(sum(product, row, 0, half), sums[row][half]);
            }
        }
    }
}

/// Row, panel and half of a panel of every accumulator.
#[inline(always)]
fn each<const ROWS: usize, const PANELS: usize>() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..ROWS).flat_map(|row| (0..PANELS).flat_map(move |panel| (0..2).map(move |half| (row, panel, half))))
}

/// Where an accumulator lies.
///
/// # Safety
/// The product has that row and panel.
#[inline(always)]
unsafe fn sum(product: &Product, row: usize, panel: usize, half: usize) -> *mut __m512i {
    // SAFETY: there is a tile for each panel.
    unsafe { (&raw mut (*product.tiles.add(panel)).0[row][half * WIDTH / STEP]).cast() }
}
