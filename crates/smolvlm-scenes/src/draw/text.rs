//! Lines of text.

use tiny_skia::Transform;

use super::{Canvas, Font, Rgb};

/// A line of text that is ready to be placed.
#[derive(Debug, Clone)]
pub(crate) struct Lettering {
    text: String,
    font: Font,
    /// Font size, in units.
    size: f32,
    /// Units across.
    pub(crate) width: f32,
    /// Height of a capital, in units.
    pub(crate) height: f32,
}

impl Lettering {
    /// `text` whose capitals are `height` units high, or less where it would be wider than `max_width`.
    pub(crate) fn new(text: &str, font: Font, height: f32, max_width: f32) -> Self {
        let em: f32 = text.chars().map(|character| font.advance(character)).sum();
        let size = (height / font.capital_height()).min(max_width / em.max(0.1));
        Self { text: text.to_owned(), font, size, width: em * size, height: font.capital_height() * size }
    }

    /// Draws it centred on a point, turned by `degrees` around that point.
    pub(crate) fn draw(&self, canvas: &mut Canvas, paint: Rgb, (x, y): (f32, f32), degrees: f32) {
        let place = Transform::from_translate(x, y).pre_rotate(degrees);
        let mut pen = -self.width / 2.0;
        for character in self.text.chars() {
            if let Some(outline) = self.font.outline(character) {
                let glyph = place.pre_translate(pen, self.height / 2.0).pre_scale(self.size, self.size);
                canvas.fill(outline, paint, glyph);
            }
            pen += self.font.advance(character) * self.size;
        }
    }
}
