//! A contact sheet: many small pictures in one, each with a line of text below.

use smolvlm::media::Image;

use crate::font;

const BACKGROUND: u8 = 250;
const INK: u8 = 30;
/// Pixels between pictures and around them.
const GAP: usize = 8;
/// Pixels of a letter's dot.
const DOT: usize = 2;
const LINE: usize = (font::SIZE.1 + 2) * DOT;

/// A sheet that is filled picture by picture, in reading order.
pub(crate) struct Sheet {
    image: Image,
    columns: usize,
    /// Size of a picture, in pixels.
    cell: (usize, usize),
    header: usize,
    placed: usize,
}

impl Sheet {
    /// Room for `count` pictures of `cell` pixels, under a header of a few lines.
    pub(crate) fn new(header: &[String], count: usize, columns: usize, cell: (usize, usize)) -> Self {
        let columns = columns.clamp(1, count.max(1));
        let rows = count.div_ceil(columns);
        let header_height = GAP + header.len() * LINE;
        let width = GAP + columns * (cell.0 + GAP);
        let height = header_height + GAP + rows * (cell.1 + LINE + GAP);
        let image = Image { width, height, rgb: vec![BACKGROUND; width * height * 3] };
        let mut sheet = Self { image, columns, cell, header: header_height, placed: 0 };
        for (line, text) in header.iter().enumerate() {
            sheet.write(text, GAP, GAP + line * LINE, width - GAP);
        }
        sheet
    }

    /// Adds a picture of the cell's size with its label.
    pub(crate) fn place(&mut self, picture: &Image, label: &str) {
        let (row, column) = (self.placed / self.columns, self.placed % self.columns);
        let left = GAP + column * (self.cell.0 + GAP);
        let top = self.header + GAP + row * (self.cell.1 + LINE + GAP);
        let bytes = self.cell.0.min(picture.width) * 3;
        for (line, pixels) in picture.rgb.chunks_exact(picture.width * 3).take(self.cell.1).enumerate() {
            let at = ((top + line) * self.image.width + left) * 3;
            self.image.rgb[at..at + bytes].copy_from_slice(&pixels[..bytes]);
        }
        self.write(label, left, top + self.cell.1 + DOT, left + self.cell.0);
        self.placed += 1;
    }

    /// The picture.
    pub(crate) fn into_image(self) -> Image {
        self.image
    }

    /// Writes text that ends before the column `end`.
    fn write(&mut self, text: &str, left: usize, top: usize, end: usize) {
        let advance = (font::SIZE.0 + 1) * DOT;
        for (place, letter) in text.chars().enumerate() {
            let left = left + place * advance;
            if left + font::SIZE.0 * DOT > end {
                return;
            }
            for (row, column) in (0..font::SIZE.1).flat_map(|row| (0..font::SIZE.0).map(move |column| (row, column))) {
                if font::is_dot(letter, row, column) {
                    self.dot(left + column * DOT, top + row * DOT);
                }
            }
        }
    }

    fn dot(&mut self, left: usize, top: usize) {
        for row in top..(top + DOT).min(self.image.height) {
            let at = (row * self.image.width + left) * 3;
            self.image.rgb[at..at + DOT * 3].fill(INK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_reading_order_with_text_below() {
        let mut sheet = Sheet::new(&["HEAD".to_owned()], 3, 2, (20, 10));
        for shade in [1, 2, 3] {
            sheet.place(&Image { width: 20, height: 10, rgb: vec![shade; 600] }, "#");
        }
        let image = sheet.into_image();
        assert_eq!((image.width, image.height), (8 + 2 * 28, 8 + LINE + 8 + 2 * (10 + LINE + 8)));
        let shade = |x: usize, y: usize| image.rgb[(y * image.width + x) * 3];
        let top = 8 + LINE + 8;
        assert_eq!([shade(8, top), shade(36, top), shade(8, top + 10 + LINE + 8)], [1, 2, 3]);
        let below = |left: usize| (0..LINE).any(|y| (0..20).any(|x| shade(left + x, top + 10 + y) == INK));
        assert!(below(8) && below(36));
        assert_eq!(shade(36, top + 10 + LINE + 8), BACKGROUND);
    }
}
