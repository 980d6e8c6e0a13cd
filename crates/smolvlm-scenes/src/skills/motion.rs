//! Which way things move, and which of them.

use super::Draft;
use super::clip::{Actor, film};
use crate::check::Class;
use crate::dice::Dice;
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings, yes_no};
use crate::sample::Turn;
use crate::scene::vary;
use crate::vocabulary::Kind;

const WHICH_WAY: Wordings = &[
    ("Which way does the {a} move?", "{key}"),
    ("In which direction does the {a} move?", "{key}"),
    ("Where does the {a} go: left, right, up or down?", "{key}"),
    ("How does the {a} move?", "It moves {key}."),
];
const WHAT_MOVES: Wordings = &[
    ("What moves?", "the {key}"),
    ("Which object moves?", "the {key}"),
    ("Only one object moves. Which one?", "It is the {key}."),
];
const WHAT_WHERE: Wordings = &[
    ("What moves where?", "The {a} moves {side}."),
    ("Describe the motion in the clip.", "The {a} moves {side}."),
    ("What happens in this video?", "The {a} moves {side}."),
];
const DOES_IT: Wordings =
    &[("Does the {a} move {side}?", "{key}"), ("Is the {a} moving {side}? Answer yes or no.", "{key}")];

/// A direction: the word, whether it is along columns, whether coordinates grow.
const WAYS: [(&str, bool, bool); 4] =
    [("left", false, false), ("right", false, true), ("up", true, false), ("down", true, true)];
/// Units a side of a picture.
const SIDE: f32 = 128.0;
/// Parallel lanes, one for each actor, so that nothing meets.
const LANES: usize = 3;
/// How far from the border an actor's middle stays.
const BORDER: f32 = 18.0;
/// Least way of a moving actor.
const LEAST_WAY: f32 = 45.0;

/// One to three objects in lanes. The first is asked about.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    let frames = dice.whole(4, 8);
    let way = *dice.pick(&WAYS);
    let count = dice.whole(1, LANES);
    let kinds = Kind::draw_many(dice, split, count, true);
    let form = dice.below(4);
    // Whether the others move too, along the same lanes; where it is asked what moves, they are still.
    let others_move = matches!(form, 0 | 3) && dice.coin();
    let lanes = dice.distinct(kinds.len(), LANES);
    let actors: Vec<Actor> = (0..kinds.len())
        .map(|index| {
            let forward = if index == 0 { Some(way.2) } else { others_move.then(|| dice.coin()) };
            actor(dice, kinds[index], lanes[index], way.1, forward, frames)
        })
        .collect();
    let turn = question(dice, form, kinds[0], way.0);
    Draft::clip(film(dice, &actors, frames), vec![turn])
}

/// An actor in its lane; moving forward or back, or still.
fn actor(dice: &mut Dice, kind: Kind, lane: usize, down: bool, forward: Option<bool>, frames: usize) -> Actor {
    let radius = dice.between(9.0, 16.0);
    let across = (lane as f32 + 0.5) * SIDE / LANES as f32 + dice.between(-3.0, 3.0);
    let point = |along: f32| if down { (across, along) } else { (along, across) };
    let (paint, degrees) = (vary(dice, kind), dice.between(-10.0, 10.0));
    let start = dice.between(BORDER, SIDE - BORDER - LEAST_WAY);
    let end = dice.between(start + LEAST_WAY, SIDE - BORDER);
    let mut actor = Actor::still(kind, paint, radius, degrees, point(start));
    actor.path = match forward {
        None => vec![(0, point(dice.between(start, end)))],
        Some(true) => vec![(0, point(start)), (frames - 1, point(end))],
        Some(false) => vec![(0, point(end)), (frames - 1, point(start))],
    };
    actor
}

fn question(dice: &mut Dice, form: usize, kind: Kind, way: &str) -> Turn {
    let words = kind.words();
    let named = words.as_str();
    let scene = format!("{words} moves {way}");
    let (class, key, chance, side, wordings) = match form {
        0 => (Class::Side, way, 0.25, way, WHICH_WAY),
        1 => (Class::Object, named, 1.0 / 72.0, way, WHAT_MOVES),
        2 => (Class::Scene, scene.as_str(), 0.01, way, WHAT_WHERE),
        _ => {
            let yes = dice.coin();
            let others: Vec<&str> = WAYS.iter().map(|other| other.0).filter(|other| *other != way).collect();
            (Class::YesNo, yes_no(yes), 0.5, if yes { way } else { *dice.pick(&others) }, DOES_IT)
        }
    };
    Asked { skill: Skill::Motion, class, key, chance, slots: &[("{a}", named), ("{side}", side)] }.word(dice, wordings)
}
