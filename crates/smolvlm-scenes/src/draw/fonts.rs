//! The fonts, and outlines of their characters.

use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::outline::{DrawSettings, OutlinePen};
use skrifa::{FontRef, MetadataProvider};
use tiny_skia::{Path, PathBuilder};

use crate::dice::Dice;
use crate::held::Split;

macro_rules! font_files {
    ($($name:literal)+) => { &[$(include_bytes!(concat!("../../fonts/scenes-", $name)),)+] };
}

const TRAINED: &[&[u8]] = font_files!["01.ttf" "02.ttf" "03.otf" "04.otf" "05.otf" "06.otf" "07.otf" "08.ttf" "09.otf"
    "10.otf" "11.otf" "12.otf"];
const HELD: &[&[u8]] = font_files!["held-1.otf" "held-2.ttf" "held-3.ttf" "held-4.ttf"];

const FIRST: char = ' ';
const LAST: char = '~';

static FONTS: LazyLock<Vec<Glyphs>> =
    LazyLock::new(|| TRAINED.iter().chain(HELD).map(|file| Glyphs::read(file)).collect());

/// One of the fonts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Font(usize);

impl Font {
    /// A plain one, for captions that are not to be learnt from.
    pub(crate) const PLAIN: Self = Self(1);

    /// Any of those that the split writes with.
    pub(crate) fn draw(dice: &mut Dice, split: Split) -> Self {
        Self(match split {
            Split::Train => dice.below(TRAINED.len()),
            Split::Held => TRAINED.len() + dice.below(HELD.len()),
        })
    }

    /// How far the pen moves after a character, in parts of the font's size.
    pub(super) fn advance(self, character: char) -> f32 {
        self.glyph(character).map_or(0.0, |glyph| glyph.advance)
    }

    /// The outline at size 1, its baseline at y = 0, y down; nothing for a blank.
    pub(super) fn outline(self, character: char) -> Option<&'static Path> {
        self.glyph(character)?.outline.as_ref()
    }

    /// Height of a capital, in parts of the font's size.
    pub(super) fn capital_height(self) -> f32 {
        FONTS[self.0].capital_height
    }

    fn glyph(self, character: char) -> Option<&'static Glyph> {
        let index = (character as usize).checked_sub(FIRST as usize)?;
        FONTS[self.0].glyphs.get(index)
    }
}

struct Glyphs {
    glyphs: Vec<Glyph>,
    capital_height: f32,
}

struct Glyph {
    advance: f32,
    outline: Option<Path>,
}

impl Glyphs {
    /// The characters of a font file of this crate.
    #[allow(clippy::expect_used, reason = "the file is part of this program, and a test reads every one")]
    fn read(file: &[u8]) -> Self {
        let font = FontRef::new(file).expect("a font of this crate");
        let (characters, outlines) = (font.charmap(), font.outline_glyphs());
        let metrics = font.glyph_metrics(Size::new(1.0), LocationRef::default());
        let glyph = |character: char| {
            let id = characters.map(character).expect("printable ASCII");
            let mut pen = Pen(PathBuilder::new());
            let settings = DrawSettings::unhinted(Size::new(1.0), LocationRef::default());
            let drawn = outlines.get(id).map(|outline| outline.draw(settings, &mut pen));
            drawn.transpose().expect("an outline of this crate");
            Glyph { advance: metrics.advance_width(id).unwrap_or_default(), outline: pen.0.finish() }
        };
        let glyphs: Vec<Glyph> = (FIRST..=LAST).map(glyph).collect();
        let capital = glyphs['H' as usize - FIRST as usize].outline.as_ref();
        Self { capital_height: capital.map_or(0.7, |path| -path.bounds().top()), glyphs }
    }
}

/// Font outlines have y up, pictures y down.
struct Pen(PathBuilder);

impl OutlinePen for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, -y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, -y);
    }

    fn quad_to(&mut self, cx0: f32, cy0: f32, x: f32, y: f32) {
        self.0.quad_to(cx0, -cy0, x, -y);
    }

    fn curve_to(&mut self, cx0: f32, cy0: f32, cx1: f32, cy1: f32, x: f32, y: f32) {
        self.0.cubic_to(cx0, -cy0, cx1, -cy1, x, -y);
    }

    fn close(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_font_has_every_letter_and_digit() {
        for font in (0..FONTS.len()).map(Font) {
            for character in ('0'..='9').chain('A'..='Z').chain('a'..='z') {
                assert!(font.outline(character).is_some() && font.advance(character) > 0.1, "{font:?} {character}");
            }
            assert!((0.5..0.8).contains(&font.capital_height()), "{font:?} {}", font.capital_height());
        }
    }
}
