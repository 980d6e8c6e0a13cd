//! Row-wise arithmetic, written once over arrays of 16 lanes and compiled for every instruction set.
//!
//! Sums run in 16 fixed lanes that are folded in one order, so they depend on a number's place in its row only.
//! Instruction sets with a fused multiply-add use it, the portable one does not: the last bits differ between them.

mod attention;
mod epilogue;
mod isa;
mod rows;
mod training;

use super::matmul::{PANEL, TILE_ROWS, Tile};
use attention::{divide, merge, merge_block, softmax};
use epilogue::finish;
#[cfg(target_arch = "x86_64")]
use isa::Avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use isa::Fused;
pub(super) use isa::nearest_bf16;
use isa::{Isa, Portable};
use rows::{norm, quantise, rotate, round};

pub(super) use attention::Softmax;
pub(super) use epilogue::{Finish, Scales, TileActivation, TileTarget};
pub(super) use training::{AdamStep, NormSums, TrainKernels};

/// A norm's numbers.
#[derive(Clone, Copy)]
pub(super) enum RowNorm<'a> {
    Rms { weight: &'a [f32], eps: f32 },
    Layer { weight: &'a [f32], bias: &'a [f32], eps: f32 },
}

/// A row of weights from scores, before they are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SoftmaxPart {
    /// The largest score × scale, as an exponent of two.
    pub(super) max: f32,
    /// Sum of the weights, which are relative to the largest.
    pub(super) sum: f32,
}

/// Rotation of a row: `(x, cosines, sines, out)`.
type RotateKernel = unsafe fn(&[f32], &[f32], &[f32], &mut [f32]);

/// Merging of a row: `(before, its values so far, part, the part's values)`.
type MergeKernel = unsafe fn(SoftmaxPart, &mut [f32], SoftmaxPart, &[f32]) -> SoftmaxPart;

/// The same of a block of rows: `(before, their values so far, parts, the parts' values side by side)`.
type MergeBlockKernel = unsafe fn(&mut [SoftmaxPart], &mut [f32], &[SoftmaxPart], &[Tile]);

/// The bodies below, compiled for one instruction set, which the constructor detected.
#[derive(Clone, Copy)]
pub struct RowKernels {
    finish: unsafe fn(&Tile, &Finish<'_>),
    norm: unsafe fn(&[f32], &RowNorm<'_>, &mut [f32]),
    round: unsafe fn(&[f32], &mut [u16]),
    quantise: unsafe fn(&[f32], &mut [u8]) -> f32,
    expand_q4: unsafe fn(&[u8], usize, &mut [u8]),
    softmax: unsafe fn(&mut Softmax<'_>, &mut [f32], usize),
    softmax_bf16: unsafe fn(&mut Softmax<'_>, &mut [u16], usize),
    merge: MergeKernel,
    merge_block: MergeBlockKernel,
    divide: unsafe fn(&[f32], f32, &mut [f32]),
    divide_bf16: unsafe fn(&[f32], f32, &mut [u16]),
    rotate: RotateKernel,
    training: TrainKernels,
}

/// Compiles the bodies below for one instruction set.
macro_rules! stamp {
    ($module:ident, $isa:ident $(, $features:literal)?) => {
        mod $module {
            use super::{$isa, Finish, RowNorm, Softmax, SoftmaxPart, Tile};

            $(#[target_feature(enable = $features)])?
            unsafe fn finish(tile: &Tile, finish: &Finish<'_>) {
                // SAFETY: the caller's promise.
                unsafe { super::finish::<$isa>(tile, finish) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn norm(x: &[f32], norm: &RowNorm<'_>, out: &mut [f32]) { super::norm::<$isa>(x, norm, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn round(x: &[f32], out: &mut [u16]) { super::round::<$isa>(x, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn quantise(x: &[f32], out: &mut [u8]) -> f32 { super::quantise(x, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn expand_q4(panel: &[u8], chunks: usize, out: &mut [u8]) {
                super::super::panel::expand_q4(panel, chunks, out)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(softmax: &mut Softmax<'_>, out: &mut [f32], stride: usize) {
                super::softmax::<$isa, _>(softmax, out, stride, |weights| *weights)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax_bf16(softmax: &mut Softmax<'_>, out: &mut [u16], stride: usize) {
                super::softmax::<$isa, _>(softmax, out, stride, <$isa as super::Isa>::round)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn merge(before: SoftmaxPart, merged: &mut [f32], part: SoftmaxPart, values: &[f32]) -> SoftmaxPart {
                super::merge::<$isa>(before, merged, part, values.as_chunks().0.iter())
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn merge_block(before: &mut [SoftmaxPart], merged: &mut [f32], parts: &[SoftmaxPart], sums: &[Tile]) {
                super::merge_block::<$isa>(before, merged, parts, sums)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn divide(values: &[f32], sum: f32, out: &mut [f32]) {
                super::divide(values, sum, out, |values| *values)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn divide_bf16(values: &[f32], sum: f32, out: &mut [u16]) {
                super::divide(values, sum, out, <$isa as super::Isa>::round)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rotate(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
                super::rotate::<$isa>(x, cos, sin, out)
            }
            pub(super) const KERNELS: super::RowKernels = super::RowKernels {
                finish, norm, round, quantise, expand_q4, softmax, softmax_bf16, merge, merge_block, divide,
                divide_bf16, rotate, training: super::training::$module::KERNELS
            };
        }
    };
}

stamp!(portable, Portable);
#[cfg(target_arch = "x86_64")]
stamp!(avx2, Fused, "avx2,fma");
#[cfg(target_arch = "x86_64")]
stamp!(avx512, Avx512, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma");
#[cfg(target_arch = "aarch64")]
stamp!(neon, Fused, "neon");

impl RowKernels {
    /// For any machine.
    pub fn portable() -> Self {
        portable::KERNELS
    }

    /// For AVX2 and FMA, where this machine has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(avx2::KERNELS)
    }

    /// For AVX-512 with BF16, where this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn avx512() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("fma"))
        .then_some(avx512::KERNELS)
    }

    /// For 64-bit Arm's vectors, where this machine has them.
    #[cfg(target_arch = "aarch64")]
    pub fn neon() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(neon::KERNELS)
    }

    /// What only learning needs.
    pub(super) fn training(&self) -> &TrainKernels {
        &self.training
    }

    /// Scales, bias, activation and residual of a tile's first rows, which are then written.
    ///
    /// # Safety
    /// The residual's and the target's rows are there, and nobody else uses the target's.
    pub(super) unsafe fn finish(&self, tile: &Tile, finish: &Finish<'_>) {
        assert!(finish.rows <= TILE_ROWS && finish.target.columns <= PANEL, "a tile's numbers");
        assert!(finish.scales.is_none_or(|scales| scales.rows.len() >= finish.rows), "a scale for each row");
        // SAFETY: the constructor detected the instruction set; the rest is the caller's promise.
        unsafe { (self.finish)(tile, finish) }
    }

    /// Norm of one row.
    pub(super) fn norm(&self, x: &[f32], norm: &RowNorm<'_>, out: &mut [f32]) {
        // SAFETY: the constructor detected the instruction set.
        unsafe { (self.norm)(x, norm, out) }
    }

    /// Rounds to bfloat16, to nearest even.
    pub(super) fn round(&self, x: &[f32], out: &mut [u16]) {
        // SAFETY: as above.
        unsafe { (self.round)(x, out) }
    }

    /// Rounds to integers from −127 to 127 of the step that is returned, and stores 128 more.
    pub(super) fn quantise(&self, x: &[f32], out: &mut [u8]) -> f32 {
        // SAFETY: as above.
        unsafe { (self.quantise)(x, out) }
    }

    /// Writes a 4-bit panel of `chunks` chunks as an 8-bit one.
    pub(super) fn expand_q4(&self, panel: &[u8], chunks: usize, out: &mut [u8]) {
        // SAFETY: as above.
        unsafe { (self.expand_q4)(panel, chunks, out) }
    }

    /// Writes `exp(scale × (score − largest))` of each row's scores, rows `stride` apart, and 0 for those that do not count.
    /// The order of a sum depends on a score's place only.
    pub(super) fn softmax(&self, softmax: &mut Softmax<'_>, out: &mut [f32], stride: usize) {
        softmax.check(out.len(), stride);
        // SAFETY: as above.
        unsafe { (self.softmax)(softmax, out, stride) }
    }

    /// As [`softmax`](Self::softmax), rounded to bfloat16 where it is written.
    pub(super) fn softmax_bf16(&self, softmax: &mut Softmax<'_>, out: &mut [u16], stride: usize) {
        softmax.check(out.len(), stride);
        // SAFETY: as above.
        unsafe { (self.softmax_bf16)(softmax, out, stride) }
    }

    /// Adds a part of a row, whose weighted values are given, to the parts before it.
    pub(super) fn merge(
        &self,
        before: SoftmaxPart,
        merged: &mut [f32],
        part: SoftmaxPart,
        values: &[f32],
    ) -> SoftmaxPart {
        // SAFETY: as above.
        unsafe { (self.merge)(before, merged, part, values) }
    }

    /// The same of each row of a block, whose weighted values lie side by side in `sums`.
    pub(super) fn merge_block(
        &self,
        before: &mut [SoftmaxPart],
        merged: &mut [f32],
        parts: &[SoftmaxPart],
        sums: &[Tile],
    ) {
        // SAFETY: as above.
        unsafe { (self.merge_block)(before, merged, parts, sums) }
    }

    /// `out = values ÷ sum`.
    pub(super) fn divide(&self, values: &[f32], sum: f32, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.divide)(values, sum, out) }
    }

    /// As [`divide`](Self::divide), rounded to bfloat16.
    pub(super) fn divide_bf16(&self, values: &[f32], sum: f32, out: &mut [u16]) {
        // SAFETY: as above.
        unsafe { (self.divide_bf16)(values, sum, out) }
    }

    /// Half-split rotation: pairs `(i, i + d/2)` (`rotate_half` of modeling_llama.py).
    pub(super) fn rotate(&self, x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.rotate)(x, cos, sin, out) }
    }
}
