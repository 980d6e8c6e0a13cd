//! Which quarter of a picture is empty.

use super::Draft;
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::{self, Split};
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::scene::{Grid, Object, paint};
use crate::vocabulary::{Cell, Kind};

const WHICH: Wordings = &[
    ("Which quarter of the picture is empty?", "{key}"),
    ("Which quarter has no objects?", "{key}"),
    ("Name the empty quarter.", "{key}"),
    ("Where is nothing to be seen?", "The {key} quarter is empty."),
];

/// Quarters in reading order.
const QUARTERS: [&str; 4] = ["top left", "top right", "bottom left", "bottom right"];
/// Cells a side of the grid; a quarter has four of them.
const SIDE: usize = 4;
/// Most objects of a quarter.
const MOST: usize = 3;

/// One to three objects in each quarter but one, which is as likely as any other.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    let empty = dice.below(QUARTERS.len());
    let grid = Grid { cols: SIDE, rows: SIDE, format: Format::draw(dice, split) };
    let cells = cells(dice, split, empty);
    let kinds = Kind::draw_many(dice, split, cells.len(), false);
    let objects: Vec<Object> =
        cells.into_iter().zip(kinds).map(|(cell, kind)| Object::place(dice, &grid, cell, kind, None)).collect();
    let asked =
        Asked { skill: Skill::EmptyQuarter, class: Class::Scene, key: QUARTERS[empty], chance: 0.25, slots: &[] };
    let turn = asked.word(dice, WHICH);
    Draft::picture(paint(dice, grid.format, &objects), vec![turn])
}

/// Occupied cells outside the empty quarter, whose set the split takes.
fn cells(dice: &mut Dice, split: Split, empty: usize) -> Vec<Cell> {
    const HALF: usize = SIDE / 2;
    loop {
        let mut cells = Vec::new();
        for quarter in (0..QUARTERS.len()).filter(|quarter| *quarter != empty) {
            let count = dice.whole(1, MOST);
            let places = dice.distinct(count, HALF * HALF);
            cells.extend(
                places.iter().map(|place| Cell {
                    col: quarter % 2 * HALF + place % HALF,
                    row: quarter / 2 * HALF + place / HALF,
                }),
            );
        }
        let bits = cells.iter().fold(0, |bits, cell| bits | 1 << (cell.row * SIDE + cell.col));
        if split.takes(held::layout(bits)) {
            return cells;
        }
    }
}
