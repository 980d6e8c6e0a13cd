//! What turns a JPEG file's coefficients into pixels, as libjpeg-turbo computes it: the inverse DCT, the triangle filters
//! for halved chroma, and YCbCr → RGB.
//!
//! All of it is integer arithmetic, so every instruction set gives the same bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(test)]
mod tests;

/// The 64 coefficients of an 8×8 block in row-major order.
pub type Block = [i16; 64];

/// Samples along a side of a block.
const SIDE: usize = 8;

/// Dequantises `blocks`, which lie beside each other, and transforms them into eight lines of samples, `stride` apart from
/// the start of `samples` on: libjpeg-turbo's "islow" method.
///
/// # Panics
/// If the lines overlap or do not fit into `samples`.
pub fn inverse_dct(blocks: &[Block], quantisation: &[u16; 64], samples: &mut [u8], stride: usize) {
    check_lines(blocks.len(), samples.len(), stride);
    #[cfg(target_arch = "x86_64")]
    if avx2::is_available() {
        return avx2::inverse_dct(blocks, quantisation, samples, stride);
    }
    portable::inverse_dct(blocks, quantisation, samples, stride);
}

fn check_lines(blocks: usize, samples: usize, stride: usize) {
    let width = blocks * SIDE;
    assert!(width <= stride, "{blocks} blocks do not fit lines of {stride} samples");
    assert!(blocks == 0 || samples >= (SIDE - 1) * stride + width, "eight lines do not fit {samples} samples");
}

/// Doubles a line of samples across with a triangle filter: `h2v1_fancy_upsample`, or with the next nearest line `far`
/// that of both directions, `h2v2_fancy_upsample`. `sums` is working memory.
///
/// # Panics
/// If `near` is empty, `far` is shorter, `out` is not twice as long, or `sums` is not longer by two.
pub fn double(near: &[u8], far: Option<&[u8]>, sums: &mut [u16], out: &mut [u8]) {
    assert!(!near.is_empty() && sums.len() == near.len() + 2 && out.len() == near.len() * 2, "lengths do not match");
    assert!(far.is_none_or(|far| far.len() == near.len()), "lines differ in length");
    #[cfg(target_arch = "x86_64")]
    if avx2::is_available() {
        return avx2::double(near, far, sums, out);
    }
    portable::double(near, far, sums, out);
}

/// Converts a line of `out.len() / 3` pixels to RGB: `ycc_rgb_convert`.
///
/// # Panics
/// If a line of samples is shorter, or `out` does not hold whole pixels.
pub fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    let pixels = out.len() / 3;
    assert_eq!(out.len(), pixels * 3, "bytes of whole pixels");
    let (y, cb, cr) = (&y[..pixels], &cb[..pixels], &cr[..pixels]);
    #[cfg(target_arch = "x86_64")]
    if avx2::is_available() {
        return avx2::ycc_to_rgb(y, cb, cr, out);
    }
    portable::ycc_to_rgb(y, cb, cr, out);
}

/// One pixel of [`ycc_to_rgb`], with `jdcolor.c`'s tables written as arithmetic: 1.402, 0.34414, 0.71414 and 1.772 times
/// 2^16, the half for rounding added once.
#[inline]
pub fn ycc_pixel(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let r = y + ((91881 * cr + 32768) >> 16);
    let g = y + ((-22554 * cb - 46802 * cr + 32768) >> 16);
    let b = y + ((116130 * cb + 32768) >> 16);
    [r, g, b].map(|value| value.clamp(0, 255) as u8)
}
