//! Objects on a grid: where they lie, and how they are painted.

use crate::dice::Dice;
use crate::draw::{Background, Canvas, Format, Rgb};
use crate::held::{self, Split};
use crate::sample::Picture;
use crate::vocabulary::{Cell, Kind, Size};

/// Radius of a small object, in parts of the shorter side of its cell.
const SMALL: (f32, f32) = (0.19, 0.23);
/// Radius of a large one.
const LARGE: (f32, f32) = (0.34, 0.41);
/// Radius where no question names sizes.
const ANY: (f32, f32) = (0.24, 0.41);
/// No shape reaches further from its middle than this many radii.
const REACH: f32 = 1.16;
/// Units between an object and the border of its cell.
const MARGIN: f32 = 1.0;
/// Most degrees by which an object is turned: a square stays a square and no diamond.
const TURN: f32 = 12.0;

/// Cells of equal size over a whole picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    pub(crate) format: Format,
}

impl Grid {
    /// Three by three: the one that captions name the cells of.
    pub(crate) fn of_nine(format: Format) -> Self {
        Self { cols: 3, rows: 3, format }
    }

    /// Width and height of a cell, in units.
    pub(crate) fn cell_size(&self) -> (f32, f32) {
        let (width, height) = self.format.units();
        (width / self.cols as f32, height / self.rows as f32)
    }

    /// `count` cells in reading order. From two on their set is held out for evaluation, and is not for training; a grid has
    /// sets of both kinds of every size that is asked for (two to seven of 9 cells, two to fourteen of 16).
    pub(crate) fn occupy(&self, dice: &mut Dice, split: Split, count: usize) -> Vec<Cell> {
        loop {
            let mut chosen = dice.distinct(count, self.cols * self.rows);
            chosen.sort_unstable();
            let bits = chosen.iter().fold(0, |bits, &cell| bits | 1 << cell);
            if count < 2 || split.takes(held::layout(bits)) {
                return chosen.iter().map(|&at| Cell { col: at % self.cols, row: at / self.cols }).collect();
            }
        }
    }
}

/// Something painted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) size: Size,
    pub(crate) cell: Cell,
    /// Its middle, in units.
    pub(crate) at: (f32, f32),
    /// In units.
    pub(crate) radius: f32,
    pub(crate) degrees: f32,
    pub(crate) paint: Rgb,
}

impl Object {
    /// An object somewhere in its cell; of any size when `size` is nothing.
    pub(crate) fn place(dice: &mut Dice, grid: &Grid, cell: Cell, kind: Kind, size: Option<Size>) -> Self {
        let (low, high) = match size {
            Some(Size::Small) => SMALL,
            Some(Size::Large) => LARGE,
            None => ANY,
        };
        let (width, height) = grid.cell_size();
        let radius = dice.between(low, high) * width.min(height);
        let mut within = |extent: f32, index: usize| {
            let free = (extent / 2.0 - REACH * radius - MARGIN).max(0.0);
            (index as f32 + 0.5) * extent + dice.between(-free, free)
        };
        let at = (within(width, cell.col), within(height, cell.row));
        let (degrees, paint) = (dice.between(-TURN, TURN), vary(dice, kind));
        Self { kind, size: size.unwrap_or(Size::Large), cell, at, radius, degrees, paint }
    }

    /// Paints it.
    pub(crate) fn draw(&self, canvas: &mut Canvas) {
        canvas.shape(self.kind.shape, self.paint, self.at, self.radius, self.degrees);
    }
}

/// The kind's colour, a little off.
pub(crate) fn vary(dice: &mut Dice, kind: Kind) -> Rgb {
    kind.colour.rgb().map(|level| (f32::from(level) + dice.between(-12.0, 12.0)).clamp(0.0, 255.0) as u8)
}

/// A picture of objects.
pub(crate) fn paint(dice: &mut Dice, format: Format, objects: &[Object]) -> Picture {
    let background = Background::draw(dice, objects.iter().map(|object| object.paint));
    paint_on(&background, format, objects)
}

/// A picture of objects on a given background.
pub(crate) fn paint_on(background: &Background, format: Format, objects: &[Object]) -> Picture {
    let mut canvas = Canvas::new(format, background);
    objects.iter().for_each(|object| object.draw(&mut canvas));
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_held_and_other_layouts_of_every_size() {
        for (cells, sizes) in [(9, 2..=7), (16, 2..=14)] {
            for size in sizes {
                let sets = || (0..1u32 << cells).filter(|bits| bits.count_ones() == size);
                assert!(sets().any(held::layout) && !sets().all(held::layout), "{size} of {cells}");
            }
        }
    }
}
