//! Row-wise arithmetic, written once over arrays of 16 lanes and compiled for every instruction set.
//!
//! Sums run in 16 fixed lanes that are folded in one order, so they depend on a number's place in its row only.
//! Instruction sets with a fused multiply-add use it, the portable one does not: the last bits differ between them.

use std::f32::consts::LOG2_E;

use super::matmul::{PANEL, TILE_ROWS, Tile};

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// A norm's numbers.
#[derive(Clone, Copy)]
pub(super) enum RowNorm<'a> {
    Rms { weight: &'a [f32], eps: f32 },
    Layer { weight: &'a [f32], bias: &'a [f32], eps: f32 },
}

/// What happens to the sums of a tile.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// Rows in use.
    pub(super) rows: usize,
    /// For sums of integers.
    pub(super) scales: Option<Scales<'a>>,
    /// Of the panel's outputs; missing ones are zero.
    pub(super) bias: Option<&'a [f32; PANEL]>,
    pub(super) activation: TileActivation,
    /// Rows of f32 that are added to the result, where the first row's begin, and bytes from one row to the next.
    pub(super) residual: Option<(*const u8, usize)>,
    pub(super) target: TileTarget,
}

/// Where the result of a tile goes.
#[derive(Clone, Copy)]
pub(super) struct TileTarget {
    /// Where the first row's begins.
    pub(super) start: *mut u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Numbers of a row, at most 32.
    pub(super) columns: usize,
    /// Whether they are rounded to bfloat16.
    pub(super) narrow: bool,
}

/// How sums of 8-bit products become numbers: `row · output · (sum − 128 · total)`.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    /// One for each row in use.
    pub(super) rows: &'a [f32],
    /// One for each output of the panel.
    pub(super) outputs: &'a [f32; PANEL],
    /// Sum of each output's integers.
    pub(super) totals: &'a [i32; PANEL],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TileActivation {
    Identity,
    GeluTanh,
    /// The first half of the panel are gates, the second what they open; the first half of a row is the result.
    SwiGlu,
}

/// A row of weights from scores, before they are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SoftmaxPart {
    /// The largest score × scale, as an exponent of two.
    pub(super) max: f32,
    /// Sum of the weights, which are relative to the largest.
    pub(super) sum: f32,
}

/// What the bodies below do differently on each instruction set.
trait Isa {
    /// Whether a multiplication and an addition round once.
    const FUSED: bool;

    /// Bits of the nearest bfloat16.
    #[inline(always)]
    fn round(x: &Lanes) -> [u16; LANES] {
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = nearest_bf16(x[i]);
        }
        out
    }

    /// `1 / x` to about 1 ulp.
    #[inline(always)]
    fn reciprocal(x: &Lanes) -> Lanes {
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            out[i] = 1.0 / x[i];
        }
        out
    }
}

struct Portable;
impl Isa for Portable {
    const FUSED: bool = false;
}

/// Instruction sets that fuse, and have nothing else of their own.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Fused;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Isa for Fused {
    const FUSED: bool = true;
}

#[cfg(target_arch = "x86_64")]
struct Avx512;
#[cfg(target_arch = "x86_64")]
impl Isa for Avx512 {
    const FUSED: bool = true;

    #[inline(always)]
    fn round(x: &Lanes) -> [u16; LANES] {
        use std::arch::x86_64::{_mm512_cvtneps_pbh, _mm512_loadu_ps};
        // SAFETY: this is only compiled into functions for AVX-512 with BF16; both types are 32 bytes of any bits.
        unsafe { std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()))) }
    }

    #[inline(always)]
    fn reciprocal(x: &Lanes) -> Lanes {
        use std::arch::x86_64::{_mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_rcp14_ps, _mm512_set1_ps};
        // SAFETY: as above; both types are 64 bytes of any bits.
        unsafe {
            let x = _mm512_loadu_ps(x.as_ptr());
            let near = _mm512_rcp14_ps(x);
            // One step of Newton's doubles the 14 bits: near (2 − x near).
            std::mem::transmute(_mm512_mul_ps(near, _mm512_fnmadd_ps(x, near, _mm512_set1_ps(2.0))))
        }
    }
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

/// `a × b + c`.
#[inline(always)]
fn multiply_add<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `2ˣ` to about 1 ulp for `x` in [−126, 127]; smaller ones count as −126 and come out as 0.
#[inline(always)]
fn exp2<I: Isa>(x: f32) -> f32 {
    // Adding and subtracting 1.5 × 2²³ rounds to an integer on any instruction set.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -126.0 { x } else { -126.0 };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    // Cephes' exp2f polynomial for |r| ≤ 1/2.
    let p = 1.535_336_2e-4_f32;
    let p = multiply_add::<I>(p, r, 1.339_887_4e-3);
    let p = multiply_add::<I>(p, r, 9.618_437e-3);
    let p = multiply_add::<I>(p, r, 5.550_332_5e-2);
    let p = multiply_add::<I>(p, r, 2.402_264_8e-1);
    let p = multiply_add::<I>(p, r, 6.931_472e-1);
    let p = multiply_add::<I>(p, r, 1.0);
    // The integer stands in the low bits of `shifted`; added to the exponent, it multiplies by its power of two.
    let y = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > -126.0 { y } else { 0.0 }
}

/// Adds lanes pairwise, in one fixed order.
#[inline(always)]
fn fold(lanes: Lanes, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sums `term(i)` over a row: lane `i mod 16` takes index `i`, then the lanes are folded.
#[inline(always)]
fn sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = add(lanes[i], chunk[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = add(*lane, *x);
    }
    fold(lanes, |a, b| a + b)
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid<I: Isa>(x: &Lanes) -> Lanes {
    let mut sums = [0.0; LANES];
    for i in 0..LANES {
        let exponent = -x[i] * LOG2_E;
        sums[i] = 1.0 + exp2::<I>(if exponent < 126.0 { exponent } else { 126.0 });
    }
    I::reciprocal(&sums)
}

/// # Safety
/// The residual's and the target's rows are there.
#[inline(always)]
unsafe fn finish<I: Isa>(tile: &mut Tile, finish: &Finish<'_>) {
    let columns = finish.target.columns;
    for (i, row) in tile.0.iter_mut().enumerate().take(finish.rows) {
        if let Some(scales) = &finish.scales {
            for (x, (scale, total)) in row.iter_mut().zip(scales.outputs.iter().zip(scales.totals)) {
                let sum = x.to_bits().cast_signed().wrapping_sub(total.wrapping_mul(128));
                *x = sum as f32 * (scales.rows[i] * scale);
            }
        }
        if let Some(bias) = finish.bias {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        activate::<I>(row, finish.activation);
        // SAFETY: the caller's promise; rows are aligned for f32, and for bfloat16 where they are those.
        unsafe {
            if let Some((start, stride)) = finish.residual {
                add(row, std::slice::from_raw_parts(start.add(i * stride).cast(), columns));
            }
            let start = finish.target.start.add(i * finish.target.stride);
            if finish.target.narrow {
                write_bf16::<I>(row, std::slice::from_raw_parts_mut(start.cast(), columns));
            } else {
                write(row, std::slice::from_raw_parts_mut(start.cast(), columns));
            }
        }
    }
}

#[inline(always)]
fn activate<I: Isa>(row: &mut [f32; PANEL], activation: TileActivation) {
    match activation {
        TileActivation::Identity => (),
        TileActivation::GeluTanh => {
            // 0.5 (1 + tanh u) = sigmoid(2u)
            const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
            const CUBIC: f32 = TWO_SQRT_2_OVER_PI * 0.044_715;
            for x in row.as_chunks_mut::<LANES>().0 {
                let mut u = *x;
                for i in 0..LANES {
                    u[i] = x[i] * multiply_add::<I>(x[i] * x[i], CUBIC, TWO_SQRT_2_OVER_PI);
                }
                let weights = sigmoid::<I>(&u);
                for i in 0..LANES {
                    x[i] *= weights[i];
                }
            }
        }
        TileActivation::SwiGlu => {
            let [gates, ups] = row.as_chunks_mut::<{ PANEL / 2 }>().0 else { unreachable!("a panel has two halves") };
            let weights = sigmoid::<I>(gates);
            for i in 0..LANES {
                gates[i] = gates[i] * weights[i] * ups[i];
            }
        }
    }
}

/// Adds the numbers that are there. (Whole panels and halves have their lengths known, so that they are vectors.)
#[inline(always)]
fn add(row: &mut [f32; PANEL], from: &[f32]) {
    if let Ok(from) = <&[f32; PANEL]>::try_from(from) {
        row.iter_mut().zip(from).for_each(|(x, from)| *x += from);
    } else {
        row.iter_mut().zip(from).for_each(|(x, from)| *x += from);
    }
}

#[inline(always)]
fn write(row: &[f32; PANEL], out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) {
        *out = *row;
    } else {
        out.copy_from_slice(&row[..out.len()]);
    }
}

#[inline(always)]
fn write_bf16<I: Isa>(row: &[f32; PANEL], out: &mut [u16]) {
    let halves = row.as_chunks::<LANES>().0;
    if let Ok(out) = <&mut [u16; PANEL]>::try_from(&mut *out) {
        for (out, half) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(halves) {
            *out = I::round(half);
        }
    } else if let Ok(out) = <&mut [u16; LANES]>::try_from(&mut *out) {
        *out = I::round(&halves[0]);
    } else {
        let rounded = [I::round(&halves[0]), I::round(&halves[1])];
        out.copy_from_slice(&rounded.as_flattened()[..out.len()]);
    }
}

#[inline(always)]
fn norm<I: Isa>(x: &[f32], norm: &RowNorm<'_>, out: &mut [f32]) {
    match norm {
        RowNorm::Rms { weight, eps } => {
            let scale = 1.0 / (sum(x, |sum, x| multiply_add::<I>(x, x, sum)) / x.len() as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(*weight) {
                *out = x * scale * w;
            }
        }
        RowNorm::Layer { weight, bias, eps } => {
            let mean = sum(x, |sum, x| sum + x) / x.len() as f32;
            let squares = sum(x, |sum, x| multiply_add::<I>(x - mean, x - mean, sum));
            let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
            for (((out, x), w), b) in out.iter_mut().zip(x).zip(*weight).zip(*bias) {
                *out = multiply_add::<I>((x - mean) * scale, *w, *b);
            }
        }
    }
}

/// Bits of the nearest bfloat16, ties to even. (A NaN stays a NaN.)
#[inline(always)]
fn nearest_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
fn round<I: Isa>(x: &[f32], out: &mut [u16]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (whole, tail) = out.split_at_mut(chunks.len() * LANES);
    for (out, x) in whole.as_chunks_mut::<LANES>().0.iter_mut().zip(chunks) {
        *out = I::round(x);
    }
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    tail[..rest.len()].copy_from_slice(&I::round(&padded)[..rest.len()]);
}

#[inline(always)]
fn quantise(x: &[f32], out: &mut [u8]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(chunk[i].abs(), lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(x.abs(), *lane);
    }
    let largest = fold(lanes, larger);
    let inverse = if largest > 0.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
    // Adding 1.5 × 2²³ rounds to an integer, ties to even, which then stands in the low bits: 128 more, in the low byte.
    const ROUND: f32 = 12_582_912.0 + 128.0;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * inverse + ROUND).to_bits() as u8;
    }
    largest / 127.0
}

#[inline(always)]
fn softmax<I: Isa>(
    tiles: &mut [Tile],
    row: usize,
    count: usize,
    scale: f32,
    mut write: impl FnMut(usize, &Lanes),
) -> SoftmaxPart {
    let used = count.div_ceil(PANEL);
    if !count.is_multiple_of(PANEL) {
        tiles[used - 1].0[row][count % PANEL..].fill(f32::NEG_INFINITY);
    }
    let mut lanes = [[f32::NEG_INFINITY; LANES]; 2];
    for tile in &tiles[..used] {
        for (half, lanes) in tile.0[row].as_chunks::<LANES>().0.iter().zip(&mut lanes) {
            for i in 0..LANES {
                lanes[i] = larger(half[i], lanes[i]);
            }
        }
    }
    let exponent = scale * LOG2_E;
    let max = fold_halves(lanes, larger) * exponent;
    let mut lanes = [[0.0; LANES]; 2];
    for (panel, tile) in tiles.iter().enumerate().take(used) {
        for (half, lanes) in lanes.iter_mut().enumerate() {
            let mut weights = tile.0[row].as_chunks::<LANES>().0[half];
            for i in 0..LANES {
                weights[i] = exp2::<I>(multiply_add::<I>(weights[i], exponent, -max));
                lanes[i] += weights[i];
            }
            write(2 * panel + half, &weights);
        }
    }
    (2 * used..2 * tiles.len()).for_each(|i| write(i, &[0.0; LANES]));
    SoftmaxPart { max, sum: fold_halves(lanes, |a, b| a + b) }
}

#[inline(always)]
fn fold_halves([mut first, second]: [Lanes; 2], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for i in 0..LANES {
        first[i] = combine(first[i], second[i]);
    }
    fold(first, combine)
}

#[inline(always)]
fn merge<I: Isa>(to: &mut [f32], keep: f32, from: &[f32], take: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = multiply_add::<I>(*from, take, *to * keep);
    }
}

#[inline(always)]
fn rotate<I: Isa>(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (out_a, out_b)) = (x.split_at(half), out.split_at_mut(half));
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        out_a[i] = multiply_add::<I>(a[i], *cos, -(b[i] * sin));
        out_b[i] = multiply_add::<I>(b[i], *cos, a[i] * sin);
    }
}
