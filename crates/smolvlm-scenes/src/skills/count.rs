//! How many.

use super::Draft;
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::sample::Turn;
use crate::scene::{Grid, Object, paint};
use crate::vocabulary::{Colour, Kind, Shape};

const HOW_MANY: Wordings = &[
    ("How many {a} are there?", "{key}"),
    ("How many {a} do you see?", "{key}"),
    ("Count the {a}.", "{key}"),
    ("What is the number of {a}?", "{key}"),
];

/// Cells a side of the grid that is counted on.
const SIDE: usize = 4;
const MOST_OBJECTS: usize = 14;

/// What is counted.
#[derive(Clone, Copy)]
enum Target {
    Kind(Kind),
    Shape(Shape),
    Colour(Colour),
    Everything,
}

impl Target {
    fn matches(self, kind: Kind) -> bool {
        match self {
            Self::Kind(target) => kind == target,
            Self::Shape(shape) => kind.shape == shape,
            Self::Colour(colour) => kind.colour == colour,
            Self::Everything => true,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Kind(kind) => format!("{} {}", kind.colour.word(), kind.shape.plural()),
            Self::Shape(shape) => shape.plural(),
            Self::Colour(colour) => format!("{} objects", colour.word()),
            Self::Everything => "objects".to_owned(),
        }
    }

    /// A kind that is counted.
    fn kind(self, dice: &mut Dice, split: Split) -> Kind {
        loop {
            let kind = match self {
                Self::Kind(kind) => return kind,
                Self::Shape(shape) => Kind { shape, colour: *dice.pick(Colour::ALL) },
                Self::Colour(colour) => Kind { colour, shape: *dice.pick(Shape::ALL) },
                Self::Everything => Kind::draw(dice, split),
            };
            if split == Split::Held || !kind.is_held() {
                return kind;
            }
        }
    }
}

/// A number is chosen first, each as likely as any other; then the picture is made to have it.
pub(super) fn draft(skill: Skill, dice: &mut Dice, split: Split) -> Draft {
    let first = target(dice, split);
    let wanted = match skill {
        Skill::CountMany => dice.whole(6, 9),
        // A picture shows something, whatever is counted.
        _ => dice.whole(usize::from(matches!(first, Target::Everything)), 5),
    };
    let mut counted = vec![(first, wanted)];
    if let Some(second) = second(dice, first).filter(|_| wanted <= 5 && dice.coin()) {
        counted.push((second, dice.whole(0, 5)));
    }
    let kinds = kinds(dice, split, &counted);
    let grid = Grid { cols: SIDE, rows: SIDE, format: Format::draw(dice, split) };
    let mut cells = grid.occupy(dice, split, kinds.len());
    dice.shuffle(&mut cells);
    let objects: Vec<Object> =
        cells.into_iter().zip(kinds).map(|(cell, kind)| Object::place(dice, &grid, cell, kind, None)).collect();
    let turns = counted.iter().map(|&(target, number)| turn(dice, skill, target, number)).collect();
    Draft::picture(paint(dice, grid.format, &objects), turns)
}

fn target(dice: &mut Dice, split: Split) -> Target {
    let kind = Kind::draw(dice, split);
    match dice.weighted([3.0, 3.0, 2.0, 1.0].into_iter()) {
        0 => Target::Kind(kind),
        1 => Target::Shape(kind.shape),
        2 => Target::Colour(kind.colour),
        _ => Target::Everything,
    }
}

/// Another target that shares no object with the first.
fn second(dice: &mut Dice, first: Target) -> Option<Target> {
    match first {
        Target::Shape(shape) => {
            let other = *dice.pick(Shape::ALL);
            (other != shape).then_some(Target::Shape(other))
        }
        Target::Colour(colour) => {
            let other = *dice.pick(Colour::ALL);
            (other != colour).then_some(Target::Colour(other))
        }
        _ => None,
    }
}

/// The objects of a picture: as many of each target as wanted, and others that are not counted.
fn kinds(dice: &mut Dice, split: Split, counted: &[(Target, usize)]) -> Vec<Kind> {
    let everything = counted.iter().any(|(target, _)| matches!(target, Target::Everything));
    let total: usize = counted.iter().map(|(_, number)| number).sum();
    loop {
        let mut kinds: Vec<Kind> = Vec::new();
        for &(target, number) in counted {
            kinds.extend((0..number).map(|_| target.kind(dice, split)));
        }
        if !everything {
            let others = dice.whole(usize::from(total == 0), (MOST_OBJECTS - total).min(6));
            while kinds.len() < total + others {
                let kind = Kind::draw(dice, split);
                if !counted.iter().any(|(target, _)| target.matches(kind)) {
                    kinds.push(kind);
                }
            }
        }
        if split == Split::Train || kinds.iter().any(|kind| kind.is_held()) {
            return kinds;
        }
    }
}

fn turn(dice: &mut Dice, skill: Skill, target: Target, number: usize) -> Turn {
    // Of "objects" there is one at least, so five numbers; of all else six.
    let chance = if skill == Skill::Count { 1.0 / 5.0 } else { 1.0 / 4.0 };
    let (key, words) = (number.to_string(), target.words());
    Asked { skill, class: Class::Number, key: &key, chance, slots: &[("{a}", &words)] }.word(dice, HOW_MANY)
}
