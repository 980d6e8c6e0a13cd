//! Two or three pictures.

use super::Draft;
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::{Background, Format};
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings, yes_no};
use crate::sample::{Detail, Medium, Picture, Turn};
use crate::scene::{Grid, Object, paint, paint_on};
use crate::vocabulary::{Colour, Kind, Shape};

const MORE: Wordings = &[
    ("Which picture has more {a}, the first or the second?", "the {key}"),
    ("Are there more {a} in the first or in the second picture?", "the {key}"),
    ("Which image shows more {a}?", "the {key}"),
    ("Compare the {a}: which picture has more?", "The {key} picture has more {a}."),
];
const SAME: Wordings = &[
    ("Do both objects have the same {a}?", "{key}"),
    ("Is the {a} the same in both pictures?", "{key}"),
    ("Same {a} in both pictures, yes or no?", "{key}"),
];
const DIFFERENCE: Wordings = &[
    ("What differs between the two pictures?", "{key}"),
    ("What is different: the colour, the shape or the place?", "{key}"),
    ("What has changed from the first picture to the second?", "{key}"),
];
const WHICH: Wordings = &[
    ("Which picture shows the {a}?", "the {key}"),
    ("In which picture is the {a}?", "the {key}"),
    ("The {a} is in which image?", "It is in the {key} image."),
];
const ODD: Wordings = &[
    ("Which picture is different from the other two?", "the {key}"),
    ("Two pictures show the same. Which one does not?", "the {key}"),
];
const ORDINALS: [&str; 3] = ["first", "second", "third"];

pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    match dice.below(5) {
        0 => more(dice, split),
        1 => same(dice, split),
        2 => difference(dice, split),
        3 => which(dice, split),
        _ => odd(dice, split),
    }
}

fn several(pictures: Vec<Picture>, turns: Vec<Turn>) -> Draft {
    Draft { media: pictures.into_iter().map(Medium::Picture).collect(), turns, detail: Detail::Whole }
}

fn ask(dice: &mut Dice, class: Class, key: &str, chance: f32, slots: &[(&str, &str)], wordings: Wordings) -> Turn {
    Asked { skill: Skill::Compare, class, key, chance, slots }.word(dice, wordings)
}

/// Objects of `kinds`, anywhere.
fn picture(dice: &mut Dice, split: Split, kinds: &[Kind]) -> Picture {
    let grid = Grid::of_nine(Format::draw(dice, split));
    let mut cells = grid.occupy(dice, split, kinds.len());
    dice.shuffle(&mut cells);
    let objects: Vec<Object> =
        cells.into_iter().zip(kinds).map(|(cell, &kind)| Object::place(dice, &grid, cell, kind, None)).collect();
    paint(dice, grid.format, &objects)
}

/// One to five of a shape here, fewer there.
fn more(dice: &mut Dice, split: Split) -> Draft {
    let shape = *dice.pick(Shape::ALL);
    let most = dice.whole(2, 5);
    let fewer = dice.below(most);
    let first_has_more = dice.coin();
    let counts = if first_has_more { [most, fewer] } else { [fewer, most] };
    let pictures = counts.map(|count| {
        let mut kinds: Vec<Kind> = (0..count)
            .map(|_| {
                loop {
                    let kind = Kind { shape, colour: *dice.pick(Colour::ALL) };
                    if split == Split::Held || !kind.is_held() {
                        break kind;
                    }
                }
            })
            .collect();
        let others = dice.whole(usize::from(count == 0), 2);
        while kinds.len() < count + others {
            let kind = if split == Split::Held { Kind::held(dice) } else { Kind::draw(dice, split) };
            if kind.shape != shape {
                kinds.push(kind);
            }
        }
        picture(dice, split, &kinds)
    });
    let shapes = shape.plural();
    let key = ORDINALS[usize::from(!first_has_more)];
    let turn = ask(dice, Class::Ordinal, key, 0.5, &[("{a}", &shapes)], MORE);
    several(pictures.into(), vec![turn])
}

/// Two kinds that share colour, shape, both or neither, as asked for.
fn pair(dice: &mut Dice, split: Split, same_colour: bool, same_shape: bool) -> (Kind, Kind) {
    loop {
        let kinds = Kind::draw_many(dice, split, 2, false);
        let (a, b) = (kinds[0], kinds[1]);
        if (a.colour == b.colour) == same_colour && (a.shape == b.shape) == same_shape {
            return (a, b);
        }
    }
}

/// One object each; both questions are tosses of a coin of their own.
fn same(dice: &mut Dice, split: Split) -> Draft {
    let (same_colour, same_shape) = (dice.coin(), dice.coin());
    let (a, b) = pair(dice, split, same_colour, same_shape);
    let pictures = vec![picture(dice, split, &[a]), picture(dice, split, &[b])];
    let mut turns = vec![
        ask(dice, Class::YesNo, yes_no(same_colour), 0.5, &[("{a}", "colour")], SAME),
        ask(dice, Class::YesNo, yes_no(same_shape), 0.5, &[("{a}", "shape")], SAME),
    ];
    dice.shuffle(&mut turns);
    turns.truncate(dice.whole(1, 2));
    several(pictures, turns)
}

/// One object whose colour, shape or place changes.
fn difference(dice: &mut Dice, split: Split) -> Draft {
    let feature = *dice.pick(&["colour", "shape", "place"]);
    let (a, mut b) = pair(dice, split, feature != "colour", feature != "shape");
    if feature == "place" {
        b = a;
    }
    let grid = Grid::of_nine(Format::TILE);
    let cell = grid.occupy(dice, split, 1)[0];
    let before = Object::place(dice, &grid, cell, a, None);
    let mut after = Object { kind: b, ..before };
    if feature == "place" {
        while after.cell == before.cell {
            let cell = grid.occupy(dice, split, 1)[0];
            after = Object { paint: before.paint, radius: before.radius, ..Object::place(dice, &grid, cell, b, None) };
        }
        // Keeps the radius it had, within its new cell.
        let (width, height) = grid.cell_size();
        after.at = ((after.cell.col as f32 + 0.5) * width, (after.cell.row as f32 + 0.5) * height);
    } else if feature == "colour" {
        after.paint = crate::scene::vary(dice, b);
    }
    let background = Background::draw(dice, [before.paint, after.paint].into_iter());
    let pictures = [before, after].map(|object| paint_on(&background, grid.format, &[object])).into();
    let turn = ask(dice, Class::Feature, feature, 1.0 / 3.0, &[], DIFFERENCE);
    several(pictures, vec![turn])
}

/// Two or three pictures of different objects, one of which is asked for.
fn which(dice: &mut Dice, split: Split) -> Draft {
    let count = dice.whole(2, 3);
    let kinds = loop {
        let kinds: Vec<Kind> = (0..count).map(|_| Kind::draw_many(dice, split, 1, false)[0]).collect();
        let differ = |a: usize| kinds[..a].iter().all(|other| *other != kinds[a]);
        if (0..count).all(differ) {
            break kinds;
        }
    };
    let asked = dice.below(count);
    let words = kinds[asked].words();
    let pictures = kinds.iter().map(|kind| picture(dice, split, &[*kind])).collect();
    let turn = ask(dice, Class::Ordinal, ORDINALS[asked], 0.5, &[("{a}", &words)], WHICH);
    several(pictures, vec![turn])
}

/// Three pictures, two of the same object.
fn odd(dice: &mut Dice, split: Split) -> Draft {
    let (shared_colour, shared_shape) = *dice.pick(&[(true, false), (false, true), (false, false)]);
    let (usual, other) = pair(dice, split, shared_colour, shared_shape);
    let odd = dice.below(3);
    let pictures = (0..3).map(|index| picture(dice, split, &[if index == odd { other } else { usual }])).collect();
    let turn = ask(dice, Class::Ordinal, ORDINALS[odd], 1.0 / 3.0, &[], ODD);
    several(pictures, vec![turn])
}
