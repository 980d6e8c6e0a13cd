//! Bar, line and pie charts.

use std::f32::consts::TAU;

use super::{Draft, turn_count};
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::{Background, Canvas, Font, Format, Lettering, Rgb};
use crate::held::{self, Split};
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::sample::{Picture, Turn};
use crate::vocabulary::Colour;
use crate::words;

const HIGHEST: Wordings = &[
    ("Which bar is the highest?", "{key}"),
    ("What is the label of the highest bar?", "{key}"),
    ("Which bar has the largest value?", "The highest bar is {key}."),
];
const LOWEST: Wordings = &[
    ("Which bar is the lowest?", "{key}"),
    ("What is the label of the lowest bar?", "{key}"),
    ("Which bar has the smallest value?", "The lowest bar is {key}."),
];
const HIGHEST_VALUE: Wordings = &[
    ("What is the value of the highest bar?", "{key}"),
    ("How much is the largest value?", "{key}"),
    ("What is the maximum of the chart?", "{key}"),
];
const VALUE_AT: Wordings = &[
    ("What is the value of bar {a}?", "{key}"),
    ("How high is bar {a}?", "{key}"),
    ("Which value does {a} have?", "{key}"),
];
const HIGHEST_COLOUR: Wordings =
    &[("Which colour is the highest bar?", "{key}"), ("What is the colour of the highest bar?", "{key}")];
const TREND: Wordings = &[
    ("Does the line rise or fall?", "it {key}"),
    ("Does the curve fall or rise?", "it {key}"),
    ("How does the line develop?", "it {key}"),
];
const LARGEST_SLICE: Wordings = &[
    ("Which colour has the largest share?", "{key}"),
    ("What colour is the largest slice?", "{key}"),
    ("Which colour takes most of the pie?", "{key}"),
];

const INK: Rgb = [30, 30, 34];
const LIGHT: &[Rgb] = &[[255, 255, 255], [246, 244, 238], [236, 240, 246]];
/// Height of capitals of labels and values, in units.
const LETTERS: f32 = 8.0;

/// Half are bar charts with words, values and several questions.
pub(super) fn draft(dice: &mut Dice, split: Split) -> Draft {
    match dice.weighted([6.0, 1.0, 1.0].into_iter()) {
        0 => bars(dice, split),
        1 => line(dice, split),
        _ => pie(dice, split),
    }
}

fn ask(dice: &mut Dice, class: Class, key: &str, chance: f32, slots: &[(&str, &str)], wordings: Wordings) -> Turn {
    Asked { skill: Skill::Chart, class, key, chance, slots }.word(dice, wordings)
}

/// A bar: label, value, paint.
struct Bar {
    label: String,
    value: usize,
    colour: Colour,
}

fn bars(dice: &mut Dice, split: Split) -> Draft {
    let count = dice.whole(3, 5);
    let bars = draw_bars(dice, split, count);
    let several_colours = bars.windows(2).any(|pair| pair[0].colour != pair[1].colour);
    let mut by_value: Vec<&Bar> = bars.iter().collect();
    by_value.sort_by_key(|bar| bar.value);
    let (low, high) = (by_value[0], by_value[count - 1]);
    // A label is one of 23 letters or of some hundred words; a value one of 98, and the highest tends to be high.
    let mut turns = vec![if dice.coin() {
        ask(dice, Class::Text, &high.label, 0.05, &[], HIGHEST)
    } else {
        ask(dice, Class::Number, &high.value.to_string(), 0.05, &[], HIGHEST_VALUE)
    }];
    let mut forms = [0, 1, 2, 3];
    dice.shuffle(&mut forms);
    let wanted = turn_count(dice, 3);
    for form in forms.into_iter().take(wanted - 1) {
        turns.push(match form {
            0 => ask(dice, Class::Text, &low.label, 0.05, &[], LOWEST),
            1 if several_colours => ask(dice, Class::Colour, high.colour.word(), 0.2, &[], HIGHEST_COLOUR),
            _ => {
                // One that no other question is about: the middle of three or more.
                let Some(bar) = bars.iter().find(|bar| bar.value != high.value && bar.value != low.value) else {
                    continue;
                };
                if turns.iter().any(|turn| turn.check.key == [bar.value.to_string()]) {
                    continue;
                }
                let slots = [("{a}", bar.label.as_str())];
                ask(dice, Class::Number, &bar.value.to_string(), 0.05, &slots, VALUE_AT)
            }
        });
    }
    Draft::picture(paint_bars(dice, split, &bars), turns)
}

/// Different labels; different values, the highest clear of the others.
fn draw_bars(dice: &mut Dice, split: Split, count: usize) -> Vec<Bar> {
    let letters = split == Split::Train && dice.chance(0.4);
    let paints = dice.distinct(count, Colour::ALL.len() - 1);
    let (one, colourful) = (dice.below(Colour::ALL.len() - 1), dice.chance(0.7));
    let mut bars: Vec<Bar> = Vec::with_capacity(count);
    while bars.len() < count {
        let label = if letters {
            // Without I, O and Q, which look like digits or each other.
            char::from(*dice.pick(b"ABCDEFGHJKLMNPRSTUVWXYZ")).to_string()
        } else {
            words::word(dice, split, 3, 3)
        };
        let value = dice.whole(5, 99);
        let is_near = |bar: &Bar| bar.label == label || bar.value.abs_diff(value) < 7;
        if !bars.iter().any(is_near) {
            let colour = Colour::ALL[if colourful { paints[bars.len()] } else { one }];
            bars.push(Bar { label, value, colour });
        }
    }
    bars
}

fn paint_bars(dice: &mut Dice, split: Split, bars: &[Bar]) -> Picture {
    let format = Format::draw(dice, split);
    let (width, height) = format.units();
    let mut canvas = Canvas::new(format, &Background::plain(*dice.pick(LIGHT)));
    let font = Font::draw(dice, split);
    let (left, base, step) = (4.0, height - 14.0, (width - 8.0) / bars.len() as f32);
    let top = 16.0;
    let share = dice.between(0.55, 0.8);
    for (index, bar) in bars.iter().enumerate() {
        let middle = left + (index as f32 + 0.5) * step;
        let tall = (base - top) * bar.value as f32 / 100.0;
        canvas.rectangle(bar.colour.rgb(), [middle - share * step / 2.0, base - tall, share * step, tall]);
        let value = Lettering::new(&bar.value.to_string(), font, LETTERS, step - 2.0);
        value.draw(&mut canvas, INK, (middle, base - tall - 6.0), 0.0);
        let label = Lettering::new(&bar.label, font, LETTERS, step - 2.0);
        label.draw(&mut canvas, INK, (middle, base + 7.5), 0.0);
    }
    canvas.line(INK, &[(left - 2.0, base), (width - 2.0, base)], 1.0);
    canvas.finish()
}

/// A line with small steps back that rises or falls as a whole.
fn line(dice: &mut Dice, split: Split) -> Draft {
    let rises = dice.coin();
    let format = Format::draw(dice, split);
    let (width, height) = format.units();
    let count = dice.whole(4, 7);
    let mut values: Vec<f32> = vec![0.0];
    while values.len() < count {
        let last = values[values.len() - 1];
        values.push(last + dice.between(-0.25, 1.0));
    }
    let (low, high) = values.iter().fold((0.0f32, 0.1f32), |(low, high), &value| (low.min(value), high.max(value)));
    if values[count - 1] < 0.6 * high {
        return line(dice, split);
    }
    let mut canvas = Canvas::new(format, &Background::plain(*dice.pick(LIGHT)));
    let (left, top, right, bottom) = (12.0, 10.0, width - 8.0, height - 12.0);
    let point = |(index, value): (usize, &f32)| {
        let share = (value - low) / (high - low);
        let share = if rises { share } else { 1.0 - share };
        (left + (right - left) * index as f32 / (count - 1) as f32, bottom - (bottom - top) * share)
    };
    let points: Vec<(f32, f32)> = values.iter().enumerate().map(point).collect();
    canvas.line(INK, &[(left - 4.0, top - 4.0), (left - 4.0, bottom + 4.0), (right, bottom + 4.0)], 1.0);
    let paint = Colour::ALL[dice.below(Colour::ALL.len() - 1)].rgb();
    canvas.line(paint, &points, dice.between(1.5, 3.5));
    let word = if rises { "rises" } else { "falls" };
    let turn = ask(dice, Class::Trend, word, 0.5, &[], TREND);
    Draft::picture(canvas.finish(), vec![turn])
}

/// Two to four slices, the largest clearly so.
fn pie(dice: &mut Dice, split: Split) -> Draft {
    let count = dice.whole(2, 4);
    let colours = slice_colours(dice, split, count);
    let mut sizes: Vec<f32> =
        (0..count).map(|index| dice.between(0.5, 1.0) + if index == 0 { 0.8 } else { 0.0 }).collect();
    let sum: f32 = sizes.iter().sum();
    sizes.iter_mut().for_each(|size| *size *= TAU / sum);
    let mut order: Vec<usize> = (0..count).collect();
    dice.shuffle(&mut order);
    let format = Format::draw(dice, split);
    let (width, height) = format.units();
    let background = Background::draw(dice, colours.iter().map(|colour| colour.rgb()));
    let mut canvas = Canvas::new(format, &background);
    let (middle, radius) = ((width / 2.0, height / 2.0), width.min(height) * dice.between(0.32, 0.45));
    let mut angle = dice.between(0.0, TAU);
    for &slice in &order {
        let steps = (sizes[slice] * 16.0) as usize + 2;
        let mut points = vec![middle];
        points.extend((0..=steps).map(|step| {
            let at = angle + sizes[slice] * step as f32 / steps as f32;
            (middle.0 + radius * at.cos(), middle.1 + radius * at.sin())
        }));
        canvas.polygon(colours[slice].rgb(), &points);
        angle += sizes[slice];
    }
    let turn = ask(dice, Class::Colour, colours[0].word(), 1.0 / 9.0, &[], LARGEST_SLICE);
    Draft::picture(canvas.finish(), vec![turn])
}

/// Different colours, that of the largest slice first. Its neighbour that is held out is among them in evaluation only.
fn slice_colours(dice: &mut Dice, split: Split, count: usize) -> Vec<Colour> {
    loop {
        let colours: Vec<Colour> =
            dice.distinct(count, Colour::ALL.len()).into_iter().map(|at| Colour::ALL[at]).collect();
        if split.takes(colours.contains(&held::pie_neighbour(colours[0]))) {
            return colours;
        }
    }
}
