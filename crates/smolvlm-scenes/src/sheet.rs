//! Samples on one picture, to look at.

use crate::draw::{Background, Canvas, Font, Format, Lettering};
use crate::sample::{Medium, Picture, Sample};

/// Pixels across of a column.
const COLUMN: usize = 560;
/// Pixels between pictures.
const GAP: usize = 6;
/// Pixels a line of text.
const LINE: usize = 15;
/// Most pixels across or down of a picture; larger ones are shown by every second pixel, or fewer.
const LARGEST: usize = 256;

/// A picture with `samples`, one below another in `columns`: media, then each question with its answer.
pub fn contact_sheet(samples: &[Sample], columns: usize) -> Picture {
    let blocks: Vec<Block> = samples.iter().map(Block::new).collect();
    let columns = columns.clamp(1, blocks.len().max(1));
    let per_column = blocks.len().div_ceil(columns).max(1);
    let tall = |blocks: &[Block]| blocks.iter().map(|block| block.height + 2 * GAP).sum::<usize>();
    let height = blocks.chunks(per_column).map(tall).max().unwrap_or_default().max(1);
    let mut sheet = Picture { width: columns * COLUMN, height, rgb: vec![255; 3 * columns * COLUMN * height] };
    for (column, blocks) in blocks.chunks(per_column).enumerate() {
        let mut top = GAP;
        for block in blocks {
            block.draw(&mut sheet, column * COLUMN + GAP, top);
            top += block.height + 2 * GAP;
        }
    }
    sheet
}

/// One sample.
struct Block {
    pictures: Vec<(usize, usize, Picture)>,
    lines: Vec<String>,
    text_top: usize,
    height: usize,
}

impl Block {
    fn new(sample: &Sample) -> Self {
        let frames = sample.media.iter().flat_map(|medium| match medium {
            Medium::Picture(picture) => std::slice::from_ref(picture),
            Medium::Clip(clip) => &clip.frames,
        });
        let (mut left, mut top, mut row) = (0, 0, 0);
        let mut pictures = Vec::new();
        for frame in frames {
            let frame = if sample.skill.is_video() {
                thinned(frame, 2)
            } else {
                thinned(frame, frame.width.max(frame.height).div_ceil(LARGEST))
            };
            if left + frame.width > COLUMN - GAP {
                (left, top, row) = (0, top + row + GAP, 0);
            }
            row = row.max(frame.height);
            let width = frame.width;
            pictures.push((left, top, frame));
            left += width + GAP;
        }
        let mut lines: Vec<String> =
            sample.system.iter().map(|system| format!("[{}] System: {system}", sample.skill.name())).collect();
        for turn in &sample.turns {
            lines.push(format!("[{}] {}", turn.skill.name(), turn.question));
            lines.extend(wrapped(&format!("= {}", turn.answer)));
        }
        let text_top = top + row + 2;
        Self { pictures, text_top, height: text_top + lines.len() * LINE, lines }
    }

    fn draw(&self, sheet: &mut Picture, left: usize, top: usize) {
        for (x, y, picture) in &self.pictures {
            paste(sheet, picture, left + x, top + y);
        }
        for (index, line) in self.lines.iter().enumerate() {
            paste(sheet, &written(line), left, top + self.text_top + index * LINE);
        }
    }
}

/// A text in lines of at most 78 characters, indented.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec!["   ".to_owned()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() > 78 {
            lines.push(format!("      {word}"));
        } else {
            lines[last].push_str(&format!(" {word}"));
        }
    }
    lines
}

/// A line of text on white.
fn written(text: &str) -> Picture {
    let format = Format(COLUMN - 2 * GAP, LINE);
    // The longer side of a canvas has 128 units.
    let unit = 128.0 / format.0 as f32;
    let mut canvas = Canvas::new(format, &Background::plain([255; 3]));
    let line = Lettering::new(text, Font::PLAIN, 8.5 * unit, 127.0);
    line.draw(&mut canvas, [0; 3], (line.width / 2.0 + 0.5, LINE as f32 * unit / 2.0), 0.0);
    canvas.finish()
}

/// Every `step`th pixel of every `step`th line.
fn thinned(picture: &Picture, step: usize) -> Picture {
    let step = step.max(1);
    let (width, height) = (picture.width.div_ceil(step), picture.height.div_ceil(step));
    let pixel = |x: usize, y: usize| (y * step * picture.width + x * step) * 3;
    let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |channel| (x, y, channel))));
    Picture { width, height, rgb: rgb.map(|(x, y, channel)| picture.rgb[pixel(x, y) + channel]).collect() }
}

/// Copies `picture` onto `sheet`; what lies outside is left out.
fn paste(sheet: &mut Picture, picture: &Picture, left: usize, top: usize) {
    let width = picture.width.min(sheet.width.saturating_sub(left));
    for (y, row) in picture.rgb.chunks_exact(3 * picture.width).enumerate() {
        let start = ((top + y) * sheet.width + left) * 3;
        if let Some(target) = sheet.rgb.get_mut(start..start + 3 * width) {
            target.copy_from_slice(&row[..3 * width]);
        }
    }
}
