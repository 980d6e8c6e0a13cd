//! What instruction sets do differently, and the arithmetic that all bodies are made of.

use std::f32::consts::LOG2_E;

pub(super) const LANES: usize = 16;
pub(super) type Lanes = [f32; LANES];

/// What the bodies below do differently on each instruction set.
pub(super) trait Isa {
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

pub(super) struct Portable;
impl Isa for Portable {
    const FUSED: bool = false;
}

/// Instruction sets that fuse, and have nothing else of their own.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) struct Fused;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Isa for Fused {
    const FUSED: bool = true;
}

#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;
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

/// `a × b + c`.
#[inline(always)]
pub(super) fn multiply_add<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `2ˣ` to about 1 ulp for `x` in [−126, 127]; below −127 it is 0.
#[inline(always)]
pub(super) fn exp2<I: Isa>(x: f32) -> f32 {
    // Adding and subtracting 1.5 × 2²³ rounds to an integer on any instruction set.
    const ROUND: f32 = 12_582_912.0;
    let x = larger(x, -127.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Of all polynomials of this degree that are 1 at 0, the one whose relative error for |r| ≤ 1/2 is least: 9.2e-8.
    #[expect(clippy::approx_constant, reason = "near ln 2, and better here")]
    const LINEAR: f32 = 0.693_147;
    let p = 1.326_472_7e-3_f32;
    let p = multiply_add::<I>(p, r, 9.671_513e-3);
    let p = multiply_add::<I>(p, r, 5.550_733_6e-2);
    let p = multiply_add::<I>(p, r, 2.402_224_2e-1);
    let p = multiply_add::<I>(p, r, LINEAR);
    let p = multiply_add::<I>(p, r, 1.0);
    // The integer stands in the low bits of `shifted`; added to the exponent, it multiplies by its power of two. (At
    // −127 nothing is left of 1; above, `r` is positive as long as the integer is −127, so no exponent wraps.)
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Adds lanes pairwise, in one fixed order.
#[inline(always)]
pub(super) fn fold(lanes: Lanes, combine: impl Fn(f32, f32) -> f32) -> f32 {
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
pub(super) fn sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
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
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid<I: Isa>(x: &Lanes) -> Lanes {
    let mut sums = [0.0; LANES];
    for i in 0..LANES {
        let exponent = -x[i] * LOG2_E;
        sums[i] = 1.0 + exp2::<I>(if exponent < 126.0 { exponent } else { 126.0 });
    }
    I::reciprocal(&sums)
}

/// Bits of the nearest bfloat16, ties to even. (A NaN stays a NaN.)
#[inline(always)]
pub(in crate::cpu) fn nearest_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
pub(super) fn fold_halves([mut first, second]: [Lanes; 2], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for i in 0..LANES {
        first[i] = combine(first[i], second[i]);
    }
    fold(first, combine)
}
