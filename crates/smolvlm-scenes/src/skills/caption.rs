//! Dense captions.

use super::Draft;
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::scene::{Grid, Object, paint};
use crate::vocabulary::{Kind, article};

const MOST_OBJECTS: usize = 6;

const AS_LIST: Wordings = &[
    ("List every object in reading order.", "{list}"),
    ("List the objects with their colour, shape and place.", "{list}"),
    ("Name everything from left to right, row by row.", "{list}"),
    ("What is where?", "{list}"),
];
const AS_SENTENCE: Wordings = &[
    ("Describe the picture.", "{sentence}"),
    ("Describe this image in detail.", "{sentence}"),
    ("What can you see in the picture?", "{sentence}"),
    ("What is in this image?", "{sentence}"),
];

/// One to six objects, all of which the caption names.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    let grid = Grid::of_nine(Format::draw(dice, split));
    let count = dice.whole(1, MOST_OBJECTS);
    let kinds = Kind::draw_many(dice, split, count, false);
    let cells = grid.occupy(dice, split, count);
    let objects: Vec<Object> =
        cells.into_iter().zip(kinds).map(|(cell, kind)| Object::place(dice, &grid, cell, kind, None)).collect();
    let (list, sentence) = (list(&objects), sentence(&objects));
    let asked = Asked {
        skill: Skill::Caption,
        class: Class::Scene,
        key: &list,
        // One object in one of nine cells: 1 in 648; several are less likely still.
        chance: 0.01,
        slots: &[("{list}", &list), ("{sentence}", &sentence)],
    };
    let wordings = if dice.chance(0.6) { AS_LIST } else { AS_SENTENCE };
    let turn = asked.word(dice, wordings);
    Draft::picture(paint(dice, grid.format, &objects), vec![turn])
}

/// `red star top left, blue ring centre`.
fn list(objects: &[Object]) -> String {
    let parts: Vec<String> =
        objects.iter().map(|object| format!("{} {}", object.kind.words(), object.cell.words())).collect();
    parts.join(", ")
}

/// `A red star at the top left and a blue ring at the centre.`
fn sentence(objects: &[Object]) -> String {
    let mut text = String::new();
    for (index, object) in objects.iter().enumerate() {
        let kind = object.kind.words();
        let lead = match index {
            0 if article(&kind) == "an" => "An",
            0 => "A",
            _ if index + 1 == objects.len() => &format!(" and {}", article(&kind)),
            _ => &format!(", {}", article(&kind)),
        };
        text.push_str(&format!("{lead} {kind} at the {}", object.cell.words()));
    }
    text + "."
}
