//! Tiles of `rows × 64` outputs: the one shape all matrix products are made of.
//!
//! The right-hand matrix comes in *panels*: 64 outputs side by side for every input. Each output has one accumulator
//! that runs along the inputs in order, whatever the number of rows, so results do not depend on what else is computed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Outputs in a panel.
pub const PANEL: usize = 64;
/// Most rows in a tile.
pub const TILE_ROWS: usize = 6;

/// The accumulators of one tile, `[TILE_ROWS, PANEL]`.
pub type Tile = [[f32; PANEL]; TILE_ROWS];

/// The left-hand rows of a tile.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    /// Numbers, from the first row's first on.
    pub data: &'a [T],
    /// Numbers from one row's beginning to the next's.
    pub stride: usize,
    /// Rows, 1 to [`TILE_ROWS`].
    pub count: usize,
}

/// Multiplies f32 rows by an f32 panel: `(a, row stride of a, panel [k, 64], k, tile, accumulate)`.
pub(super) type F32Kernel = unsafe fn(*const f32, usize, *const f32, usize, &mut Tile, bool);
/// The same with a bfloat16 panel `[k, 64]`, widened on the way.
pub(super) type F32WideningKernel = unsafe fn(*const f32, usize, *const u16, usize, &mut Tile, bool);
/// Multiplies bfloat16 rows by a panel of bfloat16 pairs `[k / 2, 64, 2]`; the stride and `k` count single numbers.
pub(super) type Bf16Kernel = unsafe fn(*const u16, usize, *const u16, usize, &mut Tile, bool);

/// One instruction set's tile products, for 1 to 6 rows each.
#[derive(Clone, Copy)]
pub struct TileKernels {
    f32: [F32Kernel; TILE_ROWS],
    f32_widening: [F32WideningKernel; TILE_ROWS],
    bf16: [Bf16Kernel; TILE_ROWS],
}

/// Stamps one kernel per number of rows.
macro_rules! per_row_count {
    ($path:path) => {{
        use $path as kernel;
        [kernel::<1>, kernel::<2>, kernel::<3>, kernel::<4>, kernel::<5>, kernel::<6>]
    }};
}
use per_row_count;

impl TileKernels {
    /// Plain Rust.
    pub fn portable() -> Self {
        portable::kernels()
    }

    /// AVX2 and FMA, where this machine has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then(avx2::kernels)
    }

    /// AVX-512 (F, BW, VL, DQ), with BF16 products where this machine has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx512() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        let bf16 = is_x86_feature_detected!("avx512bf16");
        (base && bf16).then(avx512::kernels)
    }

    /// `rows` times `panel` `[k, 64]`; replaces or adds to `tile`.
    ///
    /// # Panics
    /// When a slice is shorter than the product needs.
    pub fn f32(&self, rows: Rows<'_, f32>, panel: &[f32], k: usize, tile: &mut Tile, add: bool) {
        check(&rows, panel.len(), k);
        // SAFETY: `check` holds every address the kernel reads inside the rows and the panel; the constructor that
        // chose the kernel detected its instruction set.
        unsafe { self.f32[rows.count - 1](rows.data.as_ptr(), rows.stride, panel.as_ptr(), k, tile, add) }
    }

    /// As [`f32`](Self::f32), for a panel of bfloat16 `[k, 64]`.
    ///
    /// # Panics
    /// When a slice is shorter than the product needs.
    pub fn f32_widening(&self, rows: Rows<'_, f32>, panel: &[u16], k: usize, tile: &mut Tile, add: bool) {
        check(&rows, panel.len(), k);
        // SAFETY: as in `f32`.
        unsafe { self.f32_widening[rows.count - 1](rows.data.as_ptr(), rows.stride, panel.as_ptr(), k, tile, add) }
    }

    /// As [`f32`](Self::f32), for bfloat16 rows and a panel of bfloat16 pairs `[k / 2, 64, 2]`.
    ///
    /// # Panics
    /// When a slice is shorter than the product needs or `k` is odd.
    pub fn bf16(&self, rows: Rows<'_, u16>, panel: &[u16], k: usize, tile: &mut Tile, add: bool) {
        assert!(k.is_multiple_of(2), "bfloat16 products take pairs");
        check(&rows, panel.len(), k);
        // SAFETY: as in `f32`.
        unsafe { self.bf16[rows.count - 1](rows.data.as_ptr(), rows.stride, panel.as_ptr(), k, tile, add) }
    }
}

fn check<T>(rows: &Rows<'_, T>, panel_len: usize, k: usize) {
    assert!((1..=TILE_ROWS).contains(&rows.count), "a tile has 1 to {TILE_ROWS} rows");
    assert!(rows.data.len() >= (rows.count - 1) * rows.stride + k, "rows are shorter than the product");
    assert!(panel_len >= k * PANEL, "the panel is shorter than the product");
}
