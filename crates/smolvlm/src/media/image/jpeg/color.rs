//! From components to RGB, with libjpeg's fixed-point tables (`jdcolor.c`) written as arithmetic.

use smolvlm_kernels::jpeg as kernels;

/// What the components of a frame mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColorSpace {
    Grey,
    Rgb,
    YCbCr,
    /// Stored inverted, as every known writer does.
    Cmyk,
    /// CMYK whose CMY were turned to YCbCr.
    Ycck,
}

/// Converts one row; `row[i]` holds component `i`, each at least `output.len() / 3` samples long.
pub(super) fn to_rgb(space: ColorSpace, row: &[&[u8]], output: &mut [u8]) {
    if let (ColorSpace::YCbCr, &[y, cb, cr, ..]) = (space, row) {
        return kernels::ycc_to_rgb(y, cb, cr, output);
    }
    let pixels = output.as_chunks_mut::<3>().0;
    match (space, row) {
        (ColorSpace::Rgb, &[r, g, b, ..]) => {
            for (((pixel, &r), &g), &b) in pixels.iter_mut().zip(r).zip(g).zip(b) {
                *pixel = [r, g, b];
            }
        }
        (ColorSpace::Cmyk, &[c, m, y, k, ..]) => {
            for ((((pixel, &c), &m), &y), &k) in pixels.iter_mut().zip(c).zip(m).zip(y).zip(k) {
                *pixel = [c, m, y].map(|ink| under_black(ink, k));
            }
        }
        (ColorSpace::Ycck, &[y, cb, cr, k, ..]) => {
            for ((((pixel, &y), &cb), &cr), &k) in pixels.iter_mut().zip(y).zip(cb).zip(cr).zip(k) {
                *pixel = kernels::ycc_pixel(y, cb, cr).map(|ink| under_black(255 - ink, k));
            }
        }
        (_, &[grey, ..]) => {
            for (pixel, &value) in pixels.iter_mut().zip(grey) {
                *pixel = [value; 3];
            }
        }
        (_, []) => {}
    }
}

/// An inverted ink under inverted black: `cmyk_to_rgb` of torchcodec's `DecodeJpeg.cpp` (the same as Pillow's).
#[inline]
pub(in super::super) fn under_black(ink: u8, black: u8) -> u8 {
    let (ink, black) = (i32::from(255 - ink), i32::from(black));
    let product = black * ink + 128;
    (black - ((product + (product >> 8)) >> 8)).max(0) as u8
}
