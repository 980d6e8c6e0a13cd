//! Tiles of up to `32 rows × 32 outputs`: the one shape all matrix products are made of.
//!
//! Inputs are taken in *steps* of four bytes: one f32, two bfloat16 or four 8-bit integers. The right-hand matrix comes
//! in *panels*: for every step, the four bytes of 32 outputs side by side, `[steps, 32, 4 bytes]`. Each output has one
//! accumulator that runs along the inputs in order, whatever the number of rows, so results do not depend on what
//! else is computed.
//!
//! Inputs are padded with zeros to whole [`CHUNK`]s, in rows and in panels.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_matrix;
mod portable;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

pub(super) use crate::packed::{PANEL_CHUNK, Q4_CHUNK};

/// Outputs in a panel.
pub const PANEL: usize = 32;
/// Most rows in a tile.
pub const TILE_ROWS: usize = 32;
/// Bytes of a row that meet as many bytes of each output at a time.
pub const STEP: usize = 4;
/// Bytes that rows and panels' outputs are padded to.
pub const CHUNK: usize = 64;

/// Most rows that are multiplied by 4-bit panels as they are.
const Q4_ROWS: usize = 3;

/// What four bytes of a row and of an output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dot {
    /// One f32 each; sums in f32.
    F32,
    /// Two bfloat16 each; sums in f32.
    Bf16,
    /// Four unsigned 8-bit integers of a row, four signed ones of an output; exact sums in i32.
    U8I8,
}

/// The accumulators of one tile. Those of [`Dot::U8I8`] are the bits of an i32.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(64))]
pub struct Tile(pub [[f32; PANEL]; TILE_ROWS]);

impl Tile {
    /// All zeros.
    pub const ZERO: Self = Self([[0.0; PANEL]; TILE_ROWS]);

    /// The whole tiles that lie in `bytes`.
    ///
    /// # Panics
    /// When the bytes do not start on a cache line.
    pub(super) fn all_in(bytes: &mut [u8]) -> &mut [Self] {
        assert!(bytes.as_ptr().cast::<Self>().is_aligned(), "tiles start on a cache line");
        let count = bytes.len() / size_of::<Self>();
        // SAFETY: aligned by the assertion, in bounds by the division; a tile is f32 of any bits.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), count) }
    }
}

/// The left-hand rows of a product.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Bytes from the first row's first on. Rows up to the next multiple of [`Kernel::row_step`] must be there,
    /// whatever they hold.
    pub bytes: &'a [u8],
    /// Bytes from one row's beginning to the next's.
    pub stride: usize,
    /// Rows, at least one.
    pub count: usize,
}

/// The right-hand panels of a product.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// Bytes from the first panel's first on.
    pub bytes: &'a [u8],
    /// Bytes from one panel's beginning to the next's.
    pub stride: usize,
    /// Panels, at least one.
    pub count: usize,
}

/// A product whose addresses were checked.
#[derive(Clone, Copy)]
pub(super) struct Product {
    rows: *const u8,
    row_stride: usize,
    row_count: usize,
    panels: *const u8,
    panel_stride: usize,
    panel_count: usize,
    steps: usize,
    /// Whether the tiles' numbers are added to, or replaced.
    add: bool,
    /// One for each panel.
    tiles: *mut Tile,
}

impl Product {
    /// Calls `multiply` for some of the panels at a time.
    #[inline(always)]
    fn by_panels(&self, at_a_time: usize, multiply: impl Fn(&Self)) {
        for first in (0..self.panel_count).step_by(at_a_time) {
            multiply(&Self {
                panels: self.panels.wrapping_add(first * self.panel_stride),
                panel_count: at_a_time.min(self.panel_count - first),
                tiles: self.tiles.wrapping_add(first),
                ..*self
            });
        }
    }
}

/// One way of multiplying.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Rows of a tile that keeps every register busy; no call has more.
    pub rows: usize,
    /// Rows are read in groups of this many.
    pub row_step: usize,
    /// With as few rows as this, several panels are multiplied at a time rather than one after another.
    pub few_rows: usize,
    /// How many.
    pub few_panels: usize,
    /// Chunks of inputs after which the next rows had better be taken: what they need of a panel stays in the
    /// first-level cache.
    pub chunks: usize,
    multiply: unsafe fn(&Product),
}

/// One instruction set's kernels.
#[derive(Clone, Copy)]
pub struct TileKernels {
    pub(super) f32: Kernel,
    pub(super) bf16: Kernel,
    pub(super) u8i8: Kernel,
    /// Up to [`Q4_ROWS`] rows of 8-bit integers by 4-bit panels, where there is such a kernel.
    pub(super) q4: Option<unsafe fn(&Product)>,
    /// Prepares this thread for products, and undoes that.
    pub(super) enter: unsafe fn(),
    pub(super) leave: unsafe fn(),
}

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

    /// AVX2, FMA and the 256-bit products of 8-bit integers (AVX-VNNI), where this machine has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2_vnni() -> Option<Self> {
        let base = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        (base && is_x86_feature_detected!("avxvnni")).then(avx2::vnni_kernels)
    }

    /// AVX-512 (F, BW, VL, DQ) with products of bfloat16 and of 8-bit integers, where this machine has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx512() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        let products = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        (base && products).then(avx512::kernels)
    }

    /// AVX-512 as [`avx512`](Self::avx512), with products of bfloat16 and of 8-bit integers on AMX tiles, where this
    /// machine has them and the system lets this process use them.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub fn amx() -> Option<Self> {
        Self::avx512().filter(|_| amx::allowed()).map(amx::kernels)
    }

    /// The vectors of 64-bit Arm, where this machine has them and keeps numbers' low bytes first.
    #[cfg(target_arch = "aarch64")]
    pub fn neon() -> Option<Self> {
        let little = cfg!(target_endian = "little");
        (little && std::arch::is_aarch64_feature_detected!("neon")).then(neon::kernels)
    }

    /// [`neon`](Self::neon) with its products of 8-bit integers (FEAT_DotProd), where this machine has them.
    #[cfg(target_arch = "aarch64")]
    pub fn neon_dotprod() -> Option<Self> {
        Self::neon().filter(|_| std::arch::is_aarch64_feature_detected!("dotprod")).map(|_| neon::dotprod_kernels())
    }

    /// [`neon`](Self::neon) with its products of matrices of bfloat16 and of 8-bit integers (FEAT_BF16, FEAT_I8MM), where
    /// this machine has them.
    #[cfg(target_arch = "aarch64")]
    pub fn neon_bf16_i8mm() -> Option<Self> {
        let products =
            std::arch::is_aarch64_feature_detected!("bf16") && std::arch::is_aarch64_feature_detected!("i8mm");
        Self::neon().filter(|_| products).map(neon_matrix::kernels)
    }

    /// The kernel for `dot`.
    pub fn of(&self, dot: Dot) -> &Kernel {
        match dot {
            Dot::F32 => &self.f32,
            Dot::Bf16 => &self.bf16,
            Dot::U8I8 => &self.u8i8,
        }
    }

    /// Prepares this thread for products, as long as the result lives.
    pub fn session(&self) -> Session<'_> {
        // SAFETY: the constructor that chose the functions detected their instruction set.
        unsafe { (self.enter)() };
        Session { kernels: self, thread: PhantomData }
    }
}

/// Products on this thread.
pub struct Session<'a> {
    kernels: &'a TileKernels,
    /// What was prepared belongs to one thread.
    thread: PhantomData<*const ()>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `session`.
        unsafe { (self.kernels.leave)() }
    }
}

impl Session<'_> {
    /// `rows` times `panels`, `chunks` [`CHUNK`]s of inputs each; replaces or adds to `tiles`, one for each panel.
    ///
    /// # Panics
    /// When a slice is shorter than the product needs, or there are more rows than the kernel takes.
    pub fn multiply(&self, dot: Dot, rows: Rows<'_>, panels: Panels<'_>, chunks: usize, tiles: &mut [Tile], add: bool) {
        let kernel = self.kernels.of(dot);
        assert!((1..=kernel.rows).contains(&rows.count), "a product has 1 to {} rows", kernel.rows);
        let product = product(&rows, kernel.row_step, &panels, PANEL_CHUNK, chunks, tiles, add);
        // SAFETY: `product` holds every address the kernel reads or writes inside the slices; the constructor that chose
        // the kernel detected its instruction set, and `session` prepared this thread.
        let multiply = |product: &Product| unsafe { (kernel.multiply)(product) };
        product.by_panels(if rows.count <= kernel.few_rows { kernel.few_panels } else { 1 }, multiply);
    }

    /// Whether [`multiply_q4`](Self::multiply_q4) takes so many rows.
    pub(super) fn takes_q4(&self, rows: usize) -> bool {
        self.kernels.q4.is_some() && rows <= Q4_ROWS
    }

    /// As [`multiply`](Self::multiply) of [`Dot::U8I8`], by 4-bit panels; replaces `tiles`.
    ///
    /// # Panics
    /// As there, and when [`takes_q4`](Self::takes_q4) says no.
    pub(super) fn multiply_q4(&self, rows: Rows<'_>, panels: Panels<'_>, chunks: usize, tiles: &mut [Tile]) {
        assert!(self.takes_q4(rows.count), "few rows");
        let product = product(&rows, 1, &panels, Q4_CHUNK, chunks, tiles, false);
        if let Some(multiply) = self.kernels.q4 {
            // SAFETY: as in `multiply`.
            product.by_panels(1, |product| unsafe { multiply(product) });
        }
    }
}

/// A product whose addresses lie inside the slices.
fn product(
    rows: &Rows<'_>,
    row_step: usize,
    panels: &Panels<'_>,
    panel_chunk: usize,
    chunks: usize,
    tiles: &mut [Tile],
    add: bool,
) -> Product {
    assert!(rows.count >= 1 && panels.count >= 1, "a product has a row and a panel");
    assert!(tiles.len() >= panels.count, "a tile for each panel");
    let read = rows.count.next_multiple_of(row_step);
    assert!(rows.bytes.len() >= (read - 1) * rows.stride + chunks * CHUNK, "rows are shorter than the product");
    let needed = (panels.count - 1) * panels.stride + chunks * panel_chunk;
    assert!(panels.bytes.len() >= needed, "panels are shorter than the product");
    Product {
        rows: rows.bytes.as_ptr(),
        row_stride: rows.stride,
        row_count: rows.count,
        panels: panels.bytes.as_ptr(),
        panel_stride: panels.stride,
        panel_count: panels.count,
        steps: chunks * (CHUNK / STEP),
        add,
        tiles: tiles.as_mut_ptr(),
    }
}

/// Chunks that `count` numbers of `size` bytes fill.
pub fn chunks(count: usize, size: usize) -> usize {
    (count * size).div_ceil(CHUNK)
}

pub(super) fn nothing() {}
