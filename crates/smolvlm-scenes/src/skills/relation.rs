//! Left of, right of, above, below, between.

use super::{Draft, turn_count};
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings, yes_no};
use crate::sample::Turn;
use crate::scene::{Grid, Object, paint};
use crate::vocabulary::{Cell, Kind};

const IS_SIDE: Wordings = &[
    ("Is the {a} {side} the {b}?", "{key}"),
    ("Is the {a} somewhere {side} the {b}? Answer yes or no.", "{key}"),
    ("True or not: the {a} is {side} the {b}.", "{key}"),
];
const WHERE_IS: Wordings = &[
    ("Where is the {a}, seen from the {b}?", "{key}"),
    ("Is the {a} left, right, above or below the {b}?", "{key}"),
    ("Where is the {a} relative to the {b}?", "{key}"),
];
const WHAT_IS_SIDE: Wordings = &[
    ("What is {side} the {b}?", "the {key}"),
    ("Which object is {side} the {b}?", "the {key}"),
    ("Name the object {side} the {b}.", "It is the {key}."),
];
const BETWEEN: Wordings = &[
    ("What is between the {a} and the {b}?", "the {key}"),
    ("Which object is between the {a} and the {b}?", "the {key}"),
    ("Name the object between the {a} and the {b}.", "It is the {key}."),
];

/// A direction: the word, and how far a cell lies that way.
#[derive(Clone, Copy)]
struct Side {
    phrase: &'static str,
    word: &'static str,
    step: (i32, i32),
}

const SIDES: [Side; 4] = [
    Side { phrase: "to the left of", word: "left", step: (-1, 0) },
    Side { phrase: "to the right of", word: "right", step: (1, 0) },
    Side { phrase: "above", word: "above", step: (0, -1) },
    Side { phrase: "below", word: "below", step: (0, 1) },
];

impl Side {
    /// How many cells `a` lies from `b` this way.
    fn cells(self, a: Cell, b: Cell) -> i32 {
        let (cols, rows) = (a.col as i32 - b.col as i32, a.row as i32 - b.row as i32);
        cols * self.step.0 + rows * self.step.1
    }

    /// How far the middle of `a` lies from that of `b` this way, in units.
    fn units(self, a: &Object, b: &Object) -> f32 {
        (a.at.0 - b.at.0) * self.step.0 as f32 + (a.at.1 - b.at.1) * self.step.1 as f32
    }
}

/// Objects of different shapes, and first the rarest relation that they are in.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    let form = dice.below(4);
    loop {
        let grid = Grid::of_nine(Format::draw(dice, split));
        let count = dice.whole(if form == 3 { 3 } else { 2 }, 6);
        let kinds = Kind::draw_many(dice, split, count, true);
        let cells = grid.occupy(dice, split, count);
        let mut objects: Vec<Object> =
            cells.into_iter().zip(kinds).map(|(cell, kind)| Object::place(dice, &grid, cell, kind, None)).collect();
        dice.shuffle(&mut objects);
        let mut free = objects.clone();
        let first = match form {
            0 => is_side(dice, &mut free),
            1 => where_is(dice, &mut free),
            2 => what_is_side(dice, &free),
            _ => between(dice, &free),
        };
        let Some(first) = first else { continue };
        let mut turns = vec![first];
        let wanted = turn_count(dice, 4);
        // No answer may follow from another: each question takes its objects away, and where others had to be elsewhere
        // (`what_is_side`, `between`) it is the only one.
        while turns.len() < wanted && form < 2 {
            let Some(turn) = is_side(dice, &mut free) else { break };
            turns.push(turn);
        }
        return Draft::picture(paint(dice, grid.format, &objects), turns);
    }
}

/// By its shape, which no other object has, or with its colour.
fn name(dice: &mut Dice, object: &Object) -> String {
    if dice.chance(0.4) { object.kind.shape.word().to_owned() } else { object.kind.words() }
}

fn ask(dice: &mut Dice, class: Class, key: &str, chance: f32, slots: &[(&str, &str)], wordings: Wordings) -> Turn {
    Asked { skill: Skill::Relation, class, key, chance, slots }.word(dice, wordings)
}

/// Two objects that differ along an axis; which is asked for first, and which side, are tosses of a coin.
fn is_side(dice: &mut Dice, free: &mut Vec<Object>) -> Option<Turn> {
    let side = *dice.pick(&SIDES);
    let (a, b) = take_pair(dice, free, |a, b| side.cells(a.cell, b.cell) != 0)?;
    let yes = side.cells(a.cell, b.cell) > 0;
    let (a, b) = (name(dice, &a), name(dice, &b));
    let slots = [("{a}", a.as_str()), ("{b}", b.as_str()), ("{side}", side.phrase)];
    Some(ask(dice, Class::YesNo, yes_no(yes), 0.5, &slots, IS_SIDE))
}

/// Two objects in one row or one column.
fn where_is(dice: &mut Dice, free: &mut Vec<Object>) -> Option<Turn> {
    let (a, b) = take_pair(dice, free, |a, b| a.cell.row == b.cell.row || a.cell.col == b.cell.col)?;
    let side = SIDES.iter().find(|side| side.cells(a.cell, b.cell) > 0)?;
    let (a, b) = (name(dice, &a), name(dice, &b));
    let slots = [("{a}", a.as_str()), ("{b}", b.as_str())];
    Some(ask(dice, Class::Side, side.word, 0.25, &slots, WHERE_IS))
}

/// An object that has exactly one other on a side.
fn what_is_side(dice: &mut Dice, free: &[Object]) -> Option<Turn> {
    let side = *dice.pick(&SIDES);
    let beside =
        |b: &Object| -> Vec<Object> { free.iter().filter(|a| side.cells(a.cell, b.cell) > 0).copied().collect() };
    // In the same row or column, none of the others may look as if it lay that way too.
    let level = |b: &Object| free.iter().all(|other| side.cells(other.cell, b.cell) > 0 || side.units(other, b) <= 1.0);
    let b = free.iter().find(|b| beside(b).len() == 1 && level(b))?;
    let key = beside(b)[0].kind.words();
    let b = name(dice, b);
    Some(ask(dice, Class::Object, &key, 1.0 / 64.0, &[("{b}", &b), ("{side}", side.phrase)], WHAT_IS_SIDE))
}

/// A full row or column of three.
fn between(dice: &mut Dice, free: &[Object]) -> Option<Turn> {
    let at = |col, row| free.iter().find(|object| object.cell == Cell { col, row });
    let mut lines: Vec<[&Object; 3]> = Vec::new();
    for line in 0..3 {
        lines.extend((|| Some([at(0, line)?, at(1, line)?, at(2, line)?]))());
        lines.extend((|| Some([at(line, 0)?, at(line, 1)?, at(line, 2)?]))());
    }
    if lines.is_empty() {
        return None;
    }
    let [a, middle, b] = *dice.pick(&lines);
    let (a, b) = if dice.coin() { (a, b) } else { (b, a) };
    let (a, b, key) = (name(dice, a), name(dice, b), middle.kind.words());
    Some(ask(dice, Class::Object, &key, 1.0 / 56.0, &[("{a}", &a), ("{b}", &b)], BETWEEN))
}

/// Takes two objects that `fit`, in either order, from those that are free.
fn take_pair(
    dice: &mut Dice,
    free: &mut Vec<Object>,
    fit: impl Fn(&Object, &Object) -> bool,
) -> Option<(Object, Object)> {
    dice.shuffle(free);
    let pairs = (0..free.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    let (a, b) = pairs.into_iter().find(|&(a, b)| fit(&free[a], &free[b]))?;
    let (a, b) = (free.swap_remove(a), free.swap_remove(b));
    Some(if dice.coin() { (a, b) } else { (b, a) })
}
