//! What learning does to rows: activations apart from their products, backwards, the loss, the optimizer.

use super::RowNorm;
use super::epilogue::{gelu, swiglu};
use super::isa::{Isa, LANES, Lanes, exp2, fold, larger, multiply_add, sigmoid, sum};
use crate::cpu::matmul::PANEL;
use std::f32::consts::LOG2_E;

/// `√(8/π)`: a GELU is `x · sigmoid(x (SLOPE + CUBIC x²))`.
const SLOPE: f32 = 1.595_769_2;
const CUBIC: f32 = SLOPE * 0.044_715;
/// Exponentials that are added in f32 before their sum is added in f64.
const SUMMED: usize = 512;

/// One step of AdamW as f32 numbers, in the order of its formula.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct AdamStep {
    pub(in crate::cpu) gradient_scale: f32,
    /// `1 − rate · decay`.
    pub(in crate::cpu) keep: f32,
    pub(in crate::cpu) beta1: f32,
    pub(in crate::cpu) one_less_beta1: f32,
    pub(in crate::cpu) beta2: f32,
    pub(in crate::cpu) one_less_beta2: f32,
    /// `rate / (1 − beta1ᵗ)`.
    pub(in crate::cpu) rate: f32,
    /// `√(1 − beta2ᵗ)`.
    pub(in crate::cpu) root: f32,
    pub(in crate::cpu) eps: f32,
}

/// Gradients of a norm's numbers, to which rows add.
pub(in crate::cpu) struct NormSums<'a> {
    pub(in crate::cpu) weight: &'a mut [f32],
    pub(in crate::cpu) bias: &'a mut [f32],
}

/// The bodies below, compiled for one instruction set.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct TrainKernels {
    gelu: unsafe fn(&[f32], &mut [f32]),
    swiglu: unsafe fn(&[f32], &mut [f32]),
    gelu_backward: unsafe fn(&[f32], &[f32], &mut [f32]),
    swiglu_backward: unsafe fn(&[f32], &[f32], &mut [f32]),
    norm_backward: unsafe fn(&[f32], &[f32], &RowNorm<'_>, &mut [f32], NormSums<'_>),
    attention_backward: unsafe fn(&mut [f32], &mut [f32], f32),
    log_sum_exp: unsafe fn(&[f32]) -> (f32, f64),
    softmax: unsafe fn(&mut [f32], f32, f32),
    add: unsafe fn(&mut [f32], &[f32]),
    squares: unsafe fn(&[f32]) -> f64,
    adam: unsafe fn(&AdamStep, [&mut [f32]; 3], &[f32]),
}

/// Compiles them.
macro_rules! stamp {
    ($module:ident, $isa:ident $(, $features:literal)?) => {
        pub(super) mod $module {
            use super::super::isa::$isa;
            use super::{AdamStep, NormSums, RowNorm};

            $(#[target_feature(enable = $features)])?
            unsafe fn gelu(x: &[f32], out: &mut [f32]) { super::gelu_row::<$isa>(x, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn swiglu(x: &[f32], out: &mut [f32]) { super::swiglu_row::<$isa>(x, out) }
            $(#[target_feature(enable = $features)])?
            unsafe fn gelu_backward(x: &[f32], dy: &[f32], out: &mut [f32]) {
                super::gelu_backward::<$isa>(x, dy, out)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn swiglu_backward(x: &[f32], dy: &[f32], out: &mut [f32]) {
                super::swiglu_backward::<$isa>(x, dy, out)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn norm_backward(
                x: &[f32], dy: &[f32], norm: &RowNorm<'_>, dx: &mut [f32], sums: NormSums<'_>,
            ) {
                super::norm_backward::<$isa>(x, dy, norm, dx, sums)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn attention_backward(scores: &mut [f32], slopes: &mut [f32], scale: f32) {
                super::attention_backward::<$isa>(scores, slopes, scale)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn log_sum_exp(x: &[f32]) -> (f32, f64) { super::log_sum_exp::<$isa>(x) }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(x: &mut [f32], max: f32, factor: f32) { super::softmax::<$isa>(x, max, factor) }
            $(#[target_feature(enable = $features)])?
            unsafe fn add(to: &mut [f32], x: &[f32]) { super::add(to, x) }
            $(#[target_feature(enable = $features)])?
            unsafe fn squares(x: &[f32]) -> f64 { super::squares(x) }
            $(#[target_feature(enable = $features)])?
            unsafe fn adam(step: &AdamStep, numbers: [&mut [f32]; 3], gradient: &[f32]) {
                super::adam::<$isa>(step, numbers, gradient)
            }
            pub(in super::super) const KERNELS: super::TrainKernels = super::TrainKernels {
                gelu, swiglu, gelu_backward, swiglu_backward, norm_backward, attention_backward, log_sum_exp, softmax,
                add, squares, adam,
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

// SAFETY of all calls below: these kernels are part of `RowKernels`, whose constructor detected the instruction set.
impl TrainKernels {
    /// The activation of a vision block, the numbers that the epilogue of a product gives.
    pub(in crate::cpu) fn gelu(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: as above.
        unsafe { (self.gelu)(x, out) }
    }

    /// The same of a gated layer; `x` is a row of whole panels of 16 gates and 16 ups.
    pub(in crate::cpu) fn swiglu(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len().div_ceil(LANES) * PANEL);
        // SAFETY: as above.
        unsafe { (self.swiglu)(x, out) }
    }

    /// The gradient of `x`.
    pub(in crate::cpu) fn gelu_backward(&self, x: &[f32], dy: &[f32], out: &mut [f32]) {
        assert!(x.len() == out.len() && dy.len() == out.len());
        // SAFETY: as above.
        unsafe { (self.gelu_backward)(x, dy, out) }
    }

    /// The gradient of `x`, which is whole panels; `out` is all gates, then all ups.
    pub(in crate::cpu) fn swiglu_backward(&self, x: &[f32], dy: &[f32], out: &mut [f32]) {
        assert!(x.len() == dy.len().div_ceil(LANES) * PANEL && out.len() == 2 * dy.len());
        // SAFETY: as above.
        unsafe { (self.swiglu_backward)(x, dy, out) }
    }

    /// Adds the gradient of `x` to `dx`, and those of the norm's numbers to `sums`.
    pub(in crate::cpu) fn norm_backward(
        &self,
        x: &[f32],
        dy: &[f32],
        norm: &RowNorm<'_>,
        dx: &mut [f32],
        sums: NormSums<'_>,
    ) {
        assert!(dy.len() == x.len() && dx.len() == x.len() && sums.weight.len() == x.len());
        // SAFETY: as above.
        unsafe { (self.norm_backward)(x, dy, norm, dx, sums) }
    }

    /// Scores become the weights of their softmax (of `scale · score`), gradients of weights those of the scores.
    pub(in crate::cpu) fn attention_backward(&self, scores: &mut [f32], slopes: &mut [f32], scale: f32) {
        assert_eq!(scores.len(), slopes.len());
        // SAFETY: as above.
        unsafe { (self.attention_backward)(scores, slopes, scale) }
    }

    /// The largest number, and the logarithm of the sum of all exponentials less it.
    pub(in crate::cpu) fn log_sum_exp(&self, x: &[f32]) -> (f32, f64) {
        // SAFETY: as above.
        unsafe { (self.log_sum_exp)(x) }
    }

    /// `factor · exp(x − max)`.
    pub(in crate::cpu) fn softmax(&self, x: &mut [f32], max: f32, factor: f32) {
        // SAFETY: as above.
        unsafe { (self.softmax)(x, max, factor) }
    }

    /// `to + x`.
    pub(in crate::cpu) fn add(&self, to: &mut [f32], x: &[f32]) {
        assert_eq!(to.len(), x.len());
        // SAFETY: as above.
        unsafe { (self.add)(to, x) }
    }

    /// `Σ x²`.
    pub(in crate::cpu) fn squares(&self, x: &[f32]) -> f64 {
        // SAFETY: as above.
        unsafe { (self.squares)(x) }
    }

    /// Master weights and both moments, one step on.
    pub(in crate::cpu) fn adam(&self, step: &AdamStep, numbers: [&mut [f32]; 3], gradient: &[f32]) {
        assert!(numbers.iter().all(|numbers| numbers.len() == gradient.len()));
        // SAFETY: as above.
        unsafe { (self.adam)(step, numbers, gradient) }
    }
}

/// Calls `body` for every 16 numbers of a row; the last ones overlap those before, or are filled up with zeros. There is one
/// call, so that it is compiled for the instruction set of its surroundings.
#[inline(always)]
fn by_lanes<const N: usize>(inputs: [&[f32]; N], out: &mut [f32], body: impl Fn([&Lanes; N]) -> Lanes) {
    let len = out.len();
    let (mut padded, mut short) = ([[0.0; LANES]; N], [0.0; LANES]);
    if len < LANES {
        for input in 0..N {
            padded[input][..len].copy_from_slice(inputs[input]);
        }
    }
    for i in 0..len.div_ceil(LANES) {
        let start = (i * LANES).min(len.saturating_sub(LANES));
        let mut lanes = [&[0.0; LANES]; N];
        for input in 0..N {
            lanes[input] = inputs[input][start..].first_chunk().unwrap_or(&padded[input]);
        }
        *out[start..].first_chunk_mut().unwrap_or(&mut short) = body(lanes);
    }
    if len < LANES {
        out.copy_from_slice(&short[..len]);
    }
}

#[inline(always)]
fn gelu_row<I: Isa>(x: &[f32], out: &mut [f32]) {
    by_lanes([x], out, |[x]| gelu::<I>(x));
}

#[inline(always)]
fn gelu_backward<I: Isa>(x: &[f32], dy: &[f32], out: &mut [f32]) {
    by_lanes([x, dy], out, |[x, dy]| {
        let mut exponents = *x;
        for i in 0..LANES {
            exponents[i] = x[i] * multiply_add::<I>(x[i] * x[i], CUBIC, SLOPE);
        }
        let mut out = sigmoid::<I>(&exponents);
        for i in 0..LANES {
            let slope = multiply_add::<I>(x[i] * x[i], 3.0 * CUBIC, SLOPE);
            out[i] = dy[i] * multiply_add::<I>(x[i] * out[i] * (1.0 - out[i]), slope, out[i]);
        }
        out
    });
}

#[inline(always)]
fn swiglu_row<I: Isa>(x: &[f32], out: &mut [f32]) {
    for (panel, out) in x.as_chunks::<PANEL>().0.iter().zip(out.chunks_mut(LANES)) {
        let [gates, ups] = panel.as_chunks::<LANES>().0 else { unreachable!("a panel has two halves") };
        let opened = swiglu::<I>(gates, ups);
        match out.first_chunk_mut() {
            Some(out) => *out = opened,
            None => out.copy_from_slice(&opened[..out.len()]),
        }
    }
}

#[inline(always)]
fn swiglu_backward<I: Isa>(x: &[f32], dy: &[f32], out: &mut [f32]) {
    let (to_gates, to_ups) = out.split_at_mut(dy.len());
    let outputs = to_gates.chunks_mut(LANES).zip(to_ups.chunks_mut(LANES));
    for ((panel, dy), (to_gates, to_ups)) in x.as_chunks::<PANEL>().0.iter().zip(dy.chunks(LANES)).zip(outputs) {
        let [gates, ups] = panel.as_chunks::<LANES>().0 else { unreachable!("a panel has two halves") };
        let mut slopes = [0.0; LANES];
        match dy.first_chunk::<LANES>() {
            Some(dy) => slopes = *dy,
            None => slopes[..dy.len()].copy_from_slice(dy),
        }
        let (open, mut by_gate, mut by_up) = (sigmoid::<I>(gates), slopes, slopes);
        for i in 0..LANES {
            by_gate[i] *= ups[i] * open[i] * multiply_add::<I>(gates[i], 1.0 - open[i], 1.0);
            by_up[i] *= gates[i] * open[i];
        }
        match (to_gates.first_chunk_mut(), to_ups.first_chunk_mut()) {
            (Some(to_gates), Some(to_ups)) => (*to_gates, *to_ups) = (by_gate, by_up),
            _ => {
                to_gates.copy_from_slice(&by_gate[..dy.len()]);
                to_ups.copy_from_slice(&by_up[..dy.len()]);
            }
        }
    }
}

/// With the row's unit numbers `u = (x − mean) / deviation`: `(w dy − mean(w dy) − u · mean(w dy u)) / deviation`; an RMS norm
/// has no mean.
#[inline(always)]
fn norm_backward<I: Isa>(x: &[f32], dy: &[f32], norm: &RowNorm<'_>, dx: &mut [f32], sums: NormSums<'_>) {
    let n = x.len() as f32;
    let (weight, mean, eps, bias) = match norm {
        RowNorm::Rms { weight, eps } => (*weight, 0.0, *eps, false),
        RowNorm::Layer { weight, eps, .. } => (*weight, sum(x, |sum, x| sum + x) / n, *eps, true),
    };
    let squares = sum(x, |sum, x| multiply_add::<I>(x - mean, x - mean, sum));
    let inverse = 1.0 / (squares / n + eps).sqrt();
    let (mut along, mut shift) = ([0.0; LANES], [0.0; LANES]);
    for ((x, dy), w) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(weight.chunks(LANES)) {
        for i in 0..x.len() {
            let slope = w[i] * dy[i];
            along[i] = multiply_add::<I>(slope, (x[i] - mean) * inverse, along[i]);
            shift[i] += slope;
        }
    }
    let along = fold(along, |a, b| a + b) / n;
    let shift = if bias { fold(shift, |a, b| a + b) / n } else { 0.0 };
    for i in 0..x.len() {
        let unit = (x[i] - mean) * inverse;
        dx[i] += inverse * (weight[i] * dy[i] - shift - unit * along);
        sums.weight[i] = multiply_add::<I>(dy[i], unit, sums.weight[i]);
    }
    for (sum, dy) in sums.bias.iter_mut().zip(dy) {
        *sum += dy;
    }
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(chunk[i], lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*x, *lane);
    }
    fold(lanes, larger)
}

#[inline(always)]
fn attention_backward<I: Isa>(scores: &mut [f32], slopes: &mut [f32], scale: f32) {
    let (exponent, max) = (scale * LOG2_E, largest(scores) * scale * LOG2_E);
    let (mut total, mut along) = ([0.0; LANES], [0.0; LANES]);
    for (scores, slopes) in scores.chunks_mut(LANES).zip(slopes.chunks(LANES)) {
        for i in 0..scores.len() {
            scores[i] = exp2::<I>(multiply_add::<I>(scores[i], exponent, -max));
            total[i] += scores[i];
            along[i] = multiply_add::<I>(scores[i], slopes[i], along[i]);
        }
    }
    let inverse = 1.0 / fold(total, |a, b| a + b);
    let along = fold(along, |a, b| a + b) * inverse;
    for (score, slope) in scores.iter_mut().zip(slopes) {
        *score *= inverse;
        *slope = *score * (*slope - along) * scale;
    }
}

#[inline(always)]
fn log_sum_exp<I: Isa>(x: &[f32]) -> (f32, f64) {
    let max = largest(x);
    let mut total = 0.0;
    for part in x.chunks(SUMMED) {
        let mut lanes = [0.0; LANES];
        for part in part.chunks(LANES) {
            for i in 0..part.len() {
                lanes[i] += exp2::<I>((part[i] - max) * LOG2_E);
            }
        }
        total += f64::from(fold(lanes, |a, b| a + b));
    }
    (max, total.ln())
}

#[inline(always)]
fn softmax<I: Isa>(x: &mut [f32], max: f32, factor: f32) {
    for x in x {
        *x = factor * exp2::<I>((*x - max) * LOG2_E);
    }
}

#[inline(always)]
fn add(to: &mut [f32], x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    for x in x.chunks(LANES) {
        for i in 0..x.len() {
            lanes[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }
    lanes.iter().sum()
}

#[inline(always)]
fn adam<I: Isa>(step: &AdamStep, [master, first, second]: [&mut [f32]; 3], gradient: &[f32]) {
    for (((p, g), m), v) in master.iter_mut().zip(gradient).zip(first).zip(second) {
        let g = g * step.gradient_scale;
        *m = multiply_add::<I>(step.one_less_beta1, g, step.beta1 * *m);
        *v = multiply_add::<I>(step.one_less_beta2, g * g, step.beta2 * *v);
        *p = *p * step.keep - step.rate * *m / (v.sqrt() / step.root + step.eps);
    }
}
