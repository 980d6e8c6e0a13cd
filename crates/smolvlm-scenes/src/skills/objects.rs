//! Colour, shape, size and presence of single objects; several questions about one picture.

use super::{Draft, turn_count};
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::Format;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings, yes_no};
use crate::sample::Turn;
use crate::scene::{Grid, Object, paint};
use crate::vocabulary::{Colour, Kind, Shape, Size, article};

const COLOUR_OF: Wordings = &[
    ("What colour is the {a}?", "{key}"),
    ("Which colour does the {a} have?", "{key}"),
    ("Tell me the colour of the {a}.", "The {a} is {key}."),
    ("The {a}: what colour is it?", "It is {key}."),
];
const SHAPE_OF: Wordings = &[
    ("What shape is the {a} object?", "{key}"),
    ("Which shape is {a}?", "{key}"),
    ("Tell me the shape of the {a} object.", "The {a} object is a {key}."),
    ("What is the {a} thing?", "It is a {key}."),
];
const IS_THERE: Wordings = &[
    ("Is there {a}?", "{key}"),
    ("Is there {a} in the picture?", "{key}"),
    ("Do you see {a}?", "{key}"),
    ("Does the image show {a}? Answer yes or no.", "{key}"),
];
const SIZE_OF: Wordings = &[
    ("Is the {a} small or large?", "{key}"),
    ("Is the {a} large or small?", "{key}"),
    ("What size is the {a}?", "{key}"),
    ("How big is the {a}?", "The {a} is {key}."),
];
const LARGER: Wordings = &[
    ("Which is larger, the {a} or the {b}?", "the {key}"),
    ("Which one is bigger: the {a} or the {b}?", "the {key}"),
    ("The {a} and the {b}: which is larger?", "The {key} is larger."),
];
const SMALLER: Wordings = &[
    ("Which is smaller, the {a} or the {b}?", "the {key}"),
    ("The {a} and the {b}: which is smaller?", "The {key} is smaller."),
];

/// Objects of which each question takes up its own, so that no answer tells another.
pub(super) fn draft(skill: Skill, dice: &mut Dice, split: Split) -> Draft {
    loop {
        let grid = Grid::of_nine(Format::draw(dice, split));
        let objects = scene(dice, split, &grid);
        let mut left: Vec<usize> = (0..objects.len()).collect();
        dice.shuffle(&mut left);
        let wanted = turn_count(dice, 4);
        let mut turns: Vec<Turn> = Vec::with_capacity(wanted);
        while turns.len() < wanted {
            let next =
                if turns.is_empty() { skill } else { *dice.pick(&[Skill::Attribute, Skill::Presence, Skill::Size]) };
            let Some(turn) = question(next, dice, split, &objects, &mut left) else { break };
            turns.push(turn);
        }
        if !turns.is_empty() {
            return Draft::picture(paint(dice, grid.format, &objects), turns);
        }
    }
}

/// Two to five objects of different shapes; in every third scene one shape comes twice, small and large.
fn scene(dice: &mut Dice, split: Split, grid: &Grid) -> Vec<Object> {
    let count = dice.whole(2, 5);
    let mut kinds = Kind::draw_many(dice, split, count, true);
    let mut sizes: Vec<Size> = (0..count).map(|_| *dice.pick(Size::ALL)).collect();
    if count < 5 && dice.chance(0.33) {
        let twin = Kind { colour: Kind::draw(dice, split).colour, shape: kinds[0].shape };
        if split == Split::Held || !twin.is_held() {
            kinds.push(twin);
            sizes.push(if sizes[0] == Size::Small { Size::Large } else { Size::Small });
        }
    }
    let mut cells = grid.occupy(dice, split, kinds.len());
    dice.shuffle(&mut cells);
    let objects = cells.into_iter().zip(kinds).zip(sizes);
    objects.map(|((cell, kind), size)| Object::place(dice, grid, cell, kind, Some(size))).collect()
}

/// A question about the last of the objects that are `left`, which it takes; nothing when none fits.
fn question(skill: Skill, dice: &mut Dice, split: Split, objects: &[Object], left: &mut Vec<usize>) -> Option<Turn> {
    let object = &objects[left.pop()?];
    match skill {
        Skill::Presence => Some(presence(dice, split, objects, object)),
        Skill::Size => size(dice, objects, object, left),
        _ => attribute(dice, objects, object),
    }
}

fn attribute(dice: &mut Dice, objects: &[Object], object: &Object) -> Option<Turn> {
    let of_shape = objects.iter().filter(|other| other.kind.shape == object.kind.shape).count();
    let of_colour = objects.iter().filter(|other| other.kind.colour == object.kind.colour).count();
    let (colour, shape) = (object.kind.colour.word(), object.kind.shape.word());
    // Each colour has eight shapes in training, and each shape eight colours.
    let asked = |class, key, a: &str, dice: &mut Dice, wordings| {
        Asked { skill: Skill::Attribute, class, key, chance: 1.0 / 8.0, slots: &[("{a}", a)] }.word(dice, wordings)
    };
    if of_colour == 1 && dice.chance(0.4) {
        return Some(asked(Class::Shape, shape, colour, dice, SHAPE_OF));
    }
    let sized = format!("{} {shape}", object.size.word());
    let by_size = of_shape == 2 || dice.chance(0.1);
    Some(asked(Class::Colour, colour, if by_size { &sized } else { shape }, dice, COLOUR_OF))
}

/// Present or absent by the toss of a coin; what is absent shares its colour or its shape with something present.
fn presence(dice: &mut Dice, split: Split, objects: &[Object], object: &Object) -> Turn {
    let yes = dice.coin();
    let has = |test: &dyn Fn(Kind) -> bool| objects.iter().any(|object| test(object.kind));
    let thing = match dice.weighted([3.0, 1.0, 1.0].into_iter()) {
        0 if yes => object.kind.words(),
        0 => loop {
            let kind = Kind::draw(dice, split);
            if has(&|other| other.colour == kind.colour || other.shape == kind.shape) && !has(&|other| other == kind) {
                break kind.words();
            }
        },
        1 if yes => object.kind.shape.word().to_owned(),
        1 => loop {
            let shape = *dice.pick(Shape::ALL);
            if !has(&|other| other.shape == shape) {
                break shape.word().to_owned();
            }
        },
        _ if yes => format!("{} object", object.kind.colour.word()),
        _ => loop {
            let colour = *dice.pick(Colour::ALL);
            if !has(&|other| other.colour == colour) {
                break format!("{} object", colour.word());
            }
        },
    };
    let thing = format!("{} {thing}", article(&thing));
    let slots = [("{a}", thing.as_str())];
    Asked { skill: Skill::Presence, class: Class::YesNo, key: yes_no(yes), chance: 0.5, slots: &slots }
        .word(dice, IS_THERE)
}

fn size(dice: &mut Dice, objects: &[Object], object: &Object, left: &mut Vec<usize>) -> Option<Turn> {
    let is_unique = |object: &Object| objects.iter().filter(|other| other.kind.shape == object.kind.shape).count() == 1;
    if !is_unique(object) {
        return None;
    }
    let other = left.iter().position(|&at| objects[at].size != object.size && is_unique(&objects[at]));
    let (words, asked_as) = (object.kind.words(), Skill::Size);
    let Some(other) = other.filter(|_| dice.coin()) else {
        let slots = [("{a}", words.as_str())];
        let asked = Asked { skill: asked_as, class: Class::Size, key: object.size.word(), chance: 0.5, slots: &slots };
        return Some(asked.word(dice, SIZE_OF));
    };
    let other = &objects[left.swap_remove(other)];
    let other_words = other.kind.words();
    let (a, b) = if dice.coin() { (&words, &other_words) } else { (&other_words, &words) };
    let (large, small) = if object.size == Size::Large { (&words, &other_words) } else { (&other_words, &words) };
    let (key, wordings) = if dice.coin() { (large, LARGER) } else { (small, SMALLER) };
    let slots = [("{a}", a.as_str()), ("{b}", b.as_str())];
    Some(Asked { skill: asked_as, class: Class::Object, key, chance: 0.5, slots: &slots }.word(dice, wordings))
}
