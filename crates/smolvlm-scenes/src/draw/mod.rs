//! From plain descriptions to pixels.

mod background;
mod canvas;
mod fonts;
mod shapes;
mod text;

pub(crate) use self::background::Background;
pub(crate) use self::canvas::{Canvas, Format};
pub(crate) use self::fonts::Font;
pub(crate) use self::text::Lettering;

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// How bright a colour looks, 0 to 255 (Rec. 601 luma).
pub(crate) fn luma([red, green, blue]: Rgb) -> f32 {
    0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)
}

/// How far apart two colours are, 0 to 441.
pub(crate) fn distance(a: Rgb, b: Rgb) -> f32 {
    a.iter().zip(b).map(|(&a, b)| (f32::from(a) - f32::from(b)).powi(2)).sum::<f32>().sqrt()
}
