//! From whatever samples a picture has to RGB of 8 bits.

use super::Rules;
use crate::media::source::DecodedImage;
use crate::{Compat, Error, Result};

/// Interleaved `channels` (1 to 4) to RGB: grey replicated, alpha ignored.
pub(super) fn drop_alpha(samples: &[u8], channels: usize) -> Vec<u8> {
    to_rgb(samples, channels, |color, _| color)
}

/// As [`drop_alpha`], but what shows through is white: Pillow's `alpha_composite` onto an opaque white picture, which
/// transformers 5.23 does in `image_transforms.convert_to_rgb`. On opaque white it rounds to nearest.
fn on_white(samples: &[u8], channels: usize) -> Vec<u8> {
    to_rgb(samples, channels, |color, alpha| {
        color.map(|value| {
            let sum = u32::from(value) * u32::from(alpha) + 255 * u32::from(255 - alpha);
            ((2 * sum + 255) / 510) as u8
        })
    })
}

fn to_rgb(samples: &[u8], channels: usize, blend: impl Fn([u8; 3], u8) -> [u8; 3]) -> Vec<u8> {
    let pixel = |pixel: &[u8]| match *pixel {
        [grey] => [grey; 3],
        [grey, alpha] => blend([grey; 3], alpha),
        [r, g, b] => [r, g, b],
        [r, g, b, alpha, ..] => blend([r, g, b], alpha),
        [] => [0; 3],
    };
    if channels == 3 {
        return samples.to_vec();
    }
    let mut rgb = vec![0; samples.len() / channels * 3];
    for (to, from) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(samples.chunks_exact(channels)) {
        *to = pixel(from);
    }
    rgb
}

/// How a sample of 16 bits becomes one of 8: rounded to nearest (libpng's `png_set_scale_16`), or as Pillow does it,
/// which keeps the high byte of colours but clips grey (its mode `I;16`).
pub(super) fn narrow(rules: Rules, grey: bool) -> fn(u16) -> u8 {
    match (rules, grey) {
        (Rules::Torch, _) => |sample| ((u32::from(sample) * 255 + 32895) >> 16) as u8,
        (Rules::Pillow, true) => |sample| sample.min(255) as u8,
        (Rules::Pillow, false) => |sample| (sample >> 8) as u8,
    }
}

/// Checks a decoded picture's shape: the caller's numbers must agree with the bytes there are.
pub(super) fn check(image: &DecodedImage) -> Result<()> {
    let DecodedImage { width, height, channels, data } = image;
    if !(1..=4).contains(channels) {
        return Err(Error::input(format!("it has {channels} channels; 1 to 4 are possible")));
    }
    if width.checked_mul(*height).and_then(|pixels| pixels.checked_mul(*channels)) != Some(data.len()) {
        return Err(Error::input(format!("{width}x{height}x{channels} samples are needed, {} are given", data.len())));
    }
    Ok(())
}

/// A decoded picture to RGB, its alpha as `compat` treats it. The shape has been [`check`]ed.
pub(super) fn decoded_to_rgb(image: &DecodedImage, compat: Compat) -> Vec<u8> {
    match compat {
        Compat::Newest | Compat::Hf523 | Compat::Hf457 | Compat::Pil => on_white(&image.data, image.channels),
        Compat::Hf517 => drop_alpha(&image.data, image.channels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_on_white_rounds_as_pillow_does() {
        // Pillow 13: Image.alpha_composite(white, image) of these (value, alpha) pairs.
        for (value, alpha, expected) in [(0, 0, 255), (0, 255, 0), (0, 127, 128), (100, 3, 253), (200, 200, 212)] {
            assert_eq!(on_white(&[value, alpha], 2), [expected; 3]);
        }
    }

    #[test]
    fn sixteen_bits_are_rounded_by_libpng_and_cut_by_pillow() {
        let libpng = narrow(Rules::Torch, true);
        for sample in 0..=u16::MAX {
            assert_eq!(libpng(sample), (f64::from(sample) / 257.0).round() as u8);
        }
        assert_eq!((narrow(Rules::Pillow, true))(300), 255);
        assert_eq!((narrow(Rules::Pillow, false))(0x12FF), 0x12);
    }
}
