//! Resizing 8-bit pictures exactly as Pillow and torch do.
//!
//! Both are the same separable filter in fixed point; they differ in its precision and in the order of the passes. The
//! picture between the passes is 8-bit again, rounded and clipped, so no float implementation agrees with them.

pub(super) mod chain;
pub(super) mod chains;
mod taps;

use std::borrow::Cow;
use std::f64::consts::PI;

use smolvlm_kernels::resample::{Across, Down};

use self::chain::{Chain, Pass, Source};
use super::geometry::Size;
use crate::media::Image;

/// The kernel of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Keys' cubic with a = −0.5; `resample: 3`.
    Bicubic,
    /// A sinc in a window of three lobes; `resample: 1`.
    Lanczos,
}

/// Whose integer arithmetic a resize follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Pillow 13: 22 bits of fixed point; the vertical pass first where that is cheaper.
    Pillow,
    /// Torch on the CPU for `uint8` tensors: weights of 16 bits; always the horizontal pass first.
    Torch,
}

/// One way to resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resampler {
    /// The kernel.
    pub filter: Filter,
    /// The arithmetic.
    pub arithmetic: Arithmetic,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => keys_cubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

impl Resampler {
    /// The picture at size `to`; borrowed when it has that size already. No side of either may be zero.
    pub fn resize<'a>(&self, image: &'a Image, to: Size) -> Cow<'a, Image> {
        let from = Size::new(image.width, image.height);
        if from == to {
            return Cow::Borrowed(image);
        }
        Cow::Owned(Chain::new(*self, from, &[to]).picture(Source::Picture(image)))
    }

    /// The passes from one size to another, and the size after each.
    fn passes(&self, from: Size, to: Size) -> Vec<(Pass, Size)> {
        let mut passes = Vec::new();
        let vertical_first = self.is_vertical_first(from, to);
        if vertical_first {
            passes.extend(self.down(from.height, to.height).map(|pass| (pass, Size::new(from.width, to.height))));
        }
        let height = if vertical_first { to.height } else { from.height };
        passes.extend(self.across(from.width, to.width).map(|pass| (pass, Size::new(to.width, height))));
        if !vertical_first {
            passes.extend(self.down(from.height, to.height).map(|pass| (pass, to)));
        }
        passes
    }

    /// Pillow 13's choice of the first pass, found by comparing results: over 2,000 random sizes without a miss.
    fn is_vertical_first(&self, from: Size, to: Size) -> bool {
        let shrinks_by = |from: usize, to: usize| from as i64 - to as i64;
        let (across, down) = (shrinks_by(from.width, to.width), shrinks_by(from.height, to.height));
        self.arithmetic == Arithmetic::Pillow && down > 0 && 2 * across < down
    }

    /// The pass along the lines, unless the width stays.
    fn across(&self, from: usize, to: usize) -> Option<Pass> {
        let taps = (from != to).then(|| taps::RealTaps::new(self.filter, from, to))?;
        let bits = taps.bits(self.arithmetic);
        Some(match self.arithmetic {
            Arithmetic::Pillow => Pass::WideAcross(Across::new(taps.quantised(bits, |weight| weight))),
            Arithmetic::Torch => Pass::NarrowAcross(Across::new(taps.quantised(bits, |weight| weight as i16))),
        })
    }

    /// The pass across the lines, unless the height stays.
    fn down(&self, from: usize, to: usize) -> Option<Pass> {
        let taps = (from != to).then(|| taps::RealTaps::new(self.filter, from, to))?;
        let bits = taps.bits(self.arithmetic);
        Some(match self.arithmetic {
            Arithmetic::Pillow => Pass::WideDown(Down::new(taps.quantised(bits, |weight| weight))),
            Arithmetic::Torch => Pass::NarrowDown(Down::new(taps.quantised(bits, |weight| weight as i16))),
        })
    }
}

fn keys_cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Resampler> {
        [Filter::Bicubic, Filter::Lanczos].into_iter().flat_map(|filter| {
            [Arithmetic::Pillow, Arithmetic::Torch].map(|arithmetic| Resampler { filter, arithmetic })
        })
    }

    #[test]
    fn one_colour_stays_that_colour_at_every_size() {
        for resampler in all() {
            for (width, height) in [(1, 1), (50, 3), (3, 97), (17, 16)] {
                let image = Image { width: 19, height: 23, rgb: [7, 130, 255].repeat(19 * 23) };
                let resized = resampler.resize(&image, Size::new(width, height));
                assert!(resized.rgb.chunks(3).all(|pixel| pixel == [7, 130, 255]), "{resampler:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn a_picture_of_the_wanted_size_is_not_copied() {
        let image = Image { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        for resampler in all() {
            assert!(matches!(resampler.resize(&image, Size::new(2, 1)), Cow::Borrowed(_)));
        }
    }
}
