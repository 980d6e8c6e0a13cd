//! Row-wise arithmetic, written once over arrays of 16 lanes and compiled for every instruction set.
//!
//! The bodies are plain Rust without fused multiply-add, so every instruction set gives the same bits.

use std::f32::consts::{LN_2, LOG2_E};

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Layer norm of a row: `(x, weight, bias, eps, out)`.
type LayerNormKernel = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// One instruction set's row-wise operations.
#[derive(Clone, Copy)]
pub struct RowKernels {
    softmax: unsafe fn(&mut [f32]) -> f32,
    gelu_tanh: unsafe fn(&mut [f32]),
    swiglu: unsafe fn(&[f32], &[f32], &mut [f32]),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    layer_norm: LayerNormKernel,
    round_bf16: unsafe fn(&[f32], &mut [u16]),
}

/// Compiles the bodies below for one instruction set.
macro_rules! stamp {
    ($module:ident $(, $features:literal)?) => {
        mod $module {
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(row: &mut [f32]) -> f32 { super::softmax(row) }
            $(#[target_feature(enable = $features)])?
            unsafe fn gelu_tanh(row: &mut [f32]) { super::gelu_tanh(row) }
            $(#[target_feature(enable = $features)])?
            unsafe fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) { super::swiglu(gate, up, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) { super::rms_norm(x, w, eps, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
                super::layer_norm(x, w, b, eps, out)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn round_bf16(x: &[f32], out: &mut [u16]) { super::round_bf16(x, out) }
            pub(super) const KERNELS: super::RowKernels =
                super::RowKernels { softmax, gelu_tanh, swiglu, rms_norm, layer_norm, round_bf16 };
        }
    };
}

stamp!(portable);
#[cfg(target_arch = "x86_64")]
stamp!(avx2, "avx2");
#[cfg(target_arch = "x86_64")]
stamp!(avx512, "avx512f,avx512bw,avx512vl,avx512dq");

impl RowKernels {
    /// For any machine.
    pub fn portable() -> Self {
        portable::KERNELS
    }

    /// For AVX2, where this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(avx2::KERNELS)
    }

    /// For AVX-512, where this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn avx512() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq"))
        .then_some(avx512::KERNELS)
    }

    /// Replaces scores by `exp(score − max)` and returns their sum; dividing is left to the caller. The order of the
    /// sum depends on the index only, and scores of −∞ change nothing.
    pub fn softmax(&self, row: &mut [f32]) -> f32 {
        // SAFETY: the constructor detected the instruction set.
        unsafe { (self.softmax)(row) }
    }

    /// tanh-GELU in place.
    pub fn gelu_tanh(&self, row: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.gelu_tanh)(row) }
    }

    /// `silu(gate) × up`.
    pub fn swiglu(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.swiglu)(gate, up, out) }
    }

    /// RMS norm of one row.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// Layer norm of one row.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// Rounds to bfloat16, to nearest even.
    pub fn round_bf16(&self, x: &[f32], out: &mut [u16]) {
        // SAFETY: as above.
        unsafe { (self.round_bf16)(x, out) }
    }
}

/// `eˣ` to about 1 ulp for `x` in [−87, 88]; 0 below, as softmax wants it.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 × 2²³ rounds to an integer on any instruction set.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that x − n ln 2 is exact to the last bit that matters.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = LN_2 - LN_2_HIGH;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    // Cephes' expf polynomial for |r| ≤ ln 2 / 2.
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let scale = f32::from_bits((((n as i32) + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { y * scale }
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
fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += term(chunk[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += term(*x);
    }
    fold(lanes, |a, b| a + b)
}

/// Applies `f` to every number, 16 at a time.
#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for x in chunk {
            *x = f(*x);
        }
    }
    for x in rest {
        *x = f(*x);
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(chunk[i], lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*x, *lane);
    }
    let max = fold(lanes, larger);
    map(row, |x| exp(x - max));
    sum(row, |x| x)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu_tanh(row: &mut [f32]) {
    // 0.5 (1 + tanh u) = sigmoid(2u)
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    map(row, |x| x * sigmoid(TWO_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)));
}

#[inline(always)]
fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate * sigmoid(*gate) * up;
    }
}

#[inline(always)]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

#[inline(always)]
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum(x, |x| x) / x.len() as f32;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * w + b;
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
fn round_bf16(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = nearest_bf16(*x);
    }
}
