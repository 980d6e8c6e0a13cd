//! Row-wise arithmetic, written once over arrays of 16 lanes and compiled for every instruction set.
//!
//! Sums run in 16 fixed lanes that are folded in one order, so they depend on a number's place in its row only.
//! Instruction sets with a fused multiply-add use it, the portable one does not: the last bits differ between them.

mod epilogue;
mod isa;
mod rows;

use super::matmul::{PANEL, TILE_ROWS, Tile};
use epilogue::finish;
#[cfg(target_arch = "x86_64")]
use isa::Avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use isa::Fused;
use isa::{Isa, LANES, Portable};
use rows::{merge, norm, quantise, rotate, round, softmax};

pub(super) use epilogue::{Finish, Scales, TileActivation, TileTarget};

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

/// The bodies below, compiled for one instruction set, which the constructor detected.
#[derive(Clone, Copy)]
pub struct RowKernels {
    finish: unsafe fn(&mut Tile, &Finish<'_>),
    norm: unsafe fn(&[f32], &RowNorm<'_>, &mut [f32]),
    round: unsafe fn(&[f32], &mut [u16]),
    quantise: unsafe fn(&[f32], &mut [u8]) -> f32,
    expand_q4: unsafe fn(&[u8], usize, &mut [u8]),
    softmax: unsafe fn(&mut [Tile], usize, usize, f32, &mut [f32]) -> SoftmaxPart,
    softmax_bf16: unsafe fn(&mut [Tile], usize, usize, f32, &mut [u16]) -> SoftmaxPart,
    merge: unsafe fn(&mut [f32], f32, &[f32], f32),
    rotate: RotateKernel,
}

/// Compiles the bodies below for one instruction set.
macro_rules! stamp {
    ($module:ident, $isa:ident $(, $features:literal)?) => {
        mod $module {
            use super::{$isa, Finish, RowNorm, SoftmaxPart, Tile};

            $(#[target_feature(enable = $features)])?
            unsafe fn finish(tile: &mut Tile, finish: &Finish<'_>) {
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
                super::super::weight::expand_q4(panel, chunks, out)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(tiles: &mut [Tile], row: usize, count: usize, scale: f32, out: &mut [f32]) -> SoftmaxPart {
                super::softmax::<$isa>(tiles, row, count, scale, |i, weights| {
                    out[i * super::LANES..][..super::LANES].copy_from_slice(weights)
                })
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax_bf16(tiles: &mut [Tile], row: usize, count: usize, scale: f32, out: &mut [u16]) -> SoftmaxPart {
                super::softmax::<$isa>(tiles, row, count, scale, |i, weights| {
                    out[i * super::LANES..][..super::LANES].copy_from_slice(&<$isa as super::Isa>::round(weights))
                })
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn merge(to: &mut [f32], keep: f32, from: &[f32], take: f32) {
                super::merge::<$isa>(to, keep, from, take)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rotate(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
                super::rotate::<$isa>(x, cos, sin, out)
            }
            pub(super) const KERNELS: super::RowKernels = super::RowKernels {
                finish, norm, round, quantise, expand_q4, softmax, softmax_bf16, merge, rotate
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

    /// Scales, bias, activation and residual of a tile's first rows, which are then written.
    ///
    /// # Safety
    /// The residual's and the target's rows are there, and nobody else uses the target's.
    pub(super) unsafe fn finish(&self, tile: &mut Tile, finish: &Finish<'_>) {
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

    /// Writes `exp(scale × (score − largest))` of the first `count` scores of a row, which lie side by side in `tiles`,
    /// and 0 for the others. The order of the sum depends on a score's place only.
    pub(super) fn softmax(
        &self,
        tiles: &mut [Tile],
        row: usize,
        count: usize,
        scale: f32,
        out: &mut [f32],
    ) -> SoftmaxPart {
        check_scores(tiles, row, count, out.len());
        // SAFETY: as above.
        unsafe { (self.softmax)(tiles, row, count, scale, out) }
    }

    /// As [`softmax`](Self::softmax), rounded to bfloat16 where it is written.
    pub(super) fn softmax_bf16(
        &self,
        tiles: &mut [Tile],
        row: usize,
        count: usize,
        scale: f32,
        out: &mut [u16],
    ) -> SoftmaxPart {
        check_scores(tiles, row, count, out.len());
        // SAFETY: as above.
        unsafe { (self.softmax_bf16)(tiles, row, count, scale, out) }
    }

    /// `to = keep × to + take × from`.
    pub(super) fn merge(&self, to: &mut [f32], keep: f32, from: &[f32], take: f32) {
        // SAFETY: as above.
        unsafe { (self.merge)(to, keep, from, take) }
    }

    /// Half-split rotation: pairs `(i, i + d/2)` (`rotate_half` of modeling_llama.py).
    pub(super) fn rotate(&self, x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.rotate)(x, cos, sin, out) }
    }
}

fn check_scores(tiles: &[Tile], row: usize, count: usize, out: usize) {
    assert!(row < TILE_ROWS && (1..=tiles.len() * PANEL).contains(&count), "scores inside the tiles");
    assert!(out >= tiles.len() * PANEL, "a place for each weight");
}
