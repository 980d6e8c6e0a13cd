//! Text in a large picture, so small that it shows in the split tiles only.
//!
//! Pictures have 512 pixels on the longer side: with tiles of 128 they are split as they are, and the global view has a
//! quarter of their size. Capitals are 9 to 15 pixels high, 2 to 4 in the global view. A text lies within one tile.

use super::Draft;
use super::reading::{cased, inks};
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::{Background, Canvas, Font, Format, Lettering, Rgb};
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::sample::{Detail, Turn};
use crate::scene::{Grid, vary};
use crate::vocabulary::{Cell, Kind};
use crate::words;

const ONE: Wordings = &[
    ("What does the small text say?", "{key}"),
    ("Read the small text.", "{key}"),
    ("What is written in small letters?", "It says {key}."),
];
const AT_PLACE: Wordings = &[
    ("What does the small text at the {a} say?", "{key}"),
    ("Read the text at the {a}.", "{key}"),
    ("What is written at the {a}?", "It says {key}."),
];
const BY_OBJECT: Wordings = &[
    ("What does the text below the {a} say?", "{key}"),
    ("Read the text below the {a}.", "{key}"),
    ("What is written below the {a}?", "It says {key}."),
];

/// Tiles of the demonstration model, in pixels.
const TILE: f32 = 128.0;
/// Pixels a unit: 512 pixels are 128 units.
const SCALE: f32 = 4.0;
const FORMATS: &[Format] = &[Format(512, 384), Format(384, 512), Format(512, 512), Format(512, 256)];
/// Height of capitals, in pixels.
const HEIGHT: (f32, f32) = (9.0, 15.0);

/// A text somewhere, with its object above it.
struct Label {
    text: String,
    at: (f32, f32),
    kind: Option<Kind>,
}

/// One to three small texts.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    let format = *dice.pick(FORMATS);
    let grid = Grid::of_nine(format);
    let count = dice.whole(1, 3);
    let (paint, ground) = inks(dice);
    let mut canvas = Canvas::new(format, &ground);
    let mut labels: Vec<Label> = Vec::with_capacity(count);
    let tiles = (format.0 / TILE as usize, format.1 / TILE as usize);
    let mut free: Vec<usize> = (0..tiles.0 * tiles.1).collect();
    dice.shuffle(&mut free);
    while labels.len() < count || labels.is_empty() {
        let Some(tile) = free.pop() else {
            // No tile of this picture was lucky.
            return draft(dice, split);
        };
        let tile = (tile % tiles.0, tile / tiles.0);
        if let Some(label) = label(dice, split, &mut canvas, paint, &ground, &labels, &grid, tile) {
            labels.push(label);
        }
    }
    let turns = labels.iter().map(|label| question(dice, &grid, &labels, label)).collect();
    Draft { detail: Detail::Tiles, ..Draft::picture(canvas.finish(), turns) }
}

/// Writes a text into a tile; nothing when it would be in the same cell of the picture, or have the same object, as another.
#[allow(clippy::too_many_arguments, reason = "what a label must know of the picture")]
fn label(
    dice: &mut Dice,
    split: Split,
    canvas: &mut Canvas,
    paint: Rgb,
    ground: &Background,
    labels: &[Label],
    grid: &Grid,
    tile: (usize, usize),
) -> Option<Label> {
    let text = if dice.chance(0.3) {
        words::number(dice, split).to_string()
    } else {
        words::word(dice, split, 2, words::MOST_LETTERS)
    };
    let side = TILE / SCALE;
    let line = Lettering::new(
        &cased(dice, &text),
        Font::draw(dice, split),
        dice.between(HEIGHT.0, HEIGHT.1) / SCALE,
        side - 2.0,
    );
    let kind = dice.coin().then(|| {
        loop {
            let kind = Kind::draw(dice, split);
            if crate::draw::distance(kind.colour.rgb(), ground.tone()) >= 70.0 {
                break kind;
            }
        }
    });
    // An object of radius 5 above, a unit between; room for descenders.
    let above = if kind.is_some() { 12.0 } else { 0.0 };
    let half = (line.width / 2.0 + 0.5, line.height * 0.8 + 0.5);
    let (left, top) = (tile.0 as f32 * side, tile.1 as f32 * side);
    let x = dice.between(left + half.0, left + side - half.0);
    let y = dice.between(top + half.1 + above, top + side - half.1);
    let is_taken = |label: &Label| {
        cell(grid, label.at) == cell(grid, (x, y))
            || kind.is_some_and(|kind| label.kind.is_some_and(|other| other.shape == kind.shape))
    };
    if labels.iter().any(is_taken) || !is_inside_a_cell(grid, (x, y)) {
        return None;
    }
    line.draw(canvas, paint, (x, y), 0.0);
    if let Some(kind) = kind {
        let colour = vary(dice, kind);
        canvas.shape(kind.shape, colour, (x, y - half.1 - 6.0), 5.0, 0.0);
    }
    Some(Label { text, at: (x, y), kind })
}

/// Whether a point is so far from the borders between cells that its place has one name.
fn is_inside_a_cell(grid: &Grid, (x, y): (f32, f32)) -> bool {
    let (width, height) = grid.cell_size();
    [x / width, y / height].iter().all(|at| (at.fract() - 0.5).abs() < 0.38 || *at < 0.12 || *at > 2.88)
}

/// The cell of the 3 × 3 grid that a point lies in.
fn cell(grid: &Grid, (x, y): (f32, f32)) -> Cell {
    let (width, height) = grid.cell_size();
    Cell { col: (x / width) as usize, row: (y / height) as usize }
}

fn question(dice: &mut Dice, grid: &Grid, labels: &[Label], label: &Label) -> Turn {
    let place = cell(grid, label.at).words();
    let object = label.kind.map(|kind| kind.words()).unwrap_or_default();
    let (wordings, a) = match label.kind {
        _ if labels.len() == 1 && dice.coin() => (ONE, place),
        Some(_) if dice.coin() => (BY_OBJECT, object.as_str()),
        _ => (AT_PLACE, place),
    };
    let class = if label.text.starts_with(|c: char| c.is_ascii_digit()) { Class::Number } else { Class::Text };
    let slots = [("{a}", a)];
    Asked { skill: Skill::SmallText, class, key: &label.text, chance: 0.02, slots: &slots }.word(dice, wordings)
}
