//! Words and numbers in a picture.
//!
//! Words are answered in capitals whatever their case in the picture: one token a letter, since the tokenizer has no pairs of
//! capitals.

use super::Draft;
use crate::check::Class;
use crate::dice::Dice;
use crate::draw::{Background, Canvas, Font, Format, Lettering, Rgb, luma};
use crate::held::Split;
use crate::mixture::Skill;
use crate::phrase::{Asked, Wordings};
use crate::sample::Turn;
use crate::vocabulary::Colour;
use crate::words;

const WORD: Wordings = &[
    ("What does the {a}text say?", "{key}"),
    ("Read the {a}word.", "{key}"),
    ("What is the {a}word?", "{key}"),
    ("Which word is written {where}?", "{key}"),
    ("What is written {where}?", "It says {key}."),
    ("Transcribe the {a}text.", "The text reads {key}."),
];
const NUMBER: Wordings = &[
    ("What is the {a}number?", "{key}"),
    ("Read the {a}number.", "{key}"),
    ("Which number is written {where}?", "{key}"),
    ("What does the {a}number say?", "It says {key}."),
    ("Transcribe the {a}number.", "The number is {key}."),
];

/// Least difference in brightness between text and what it stands on.
pub(super) const LEAST_CONTRAST: f32 = 75.0;
/// Height of capitals of a text that stands alone, in units.
const HEIGHT: (f32, f32) = (11.0, 34.0);
/// Units left free on each side.
const BORDER: f32 = 6.0;

/// One text, or one above another.
pub(super) fn draft(skill: Skill, dice: &mut Dice, split: Split) -> Draft {
    let two = dice.chance(0.3);
    let mut skills = vec![skill];
    if two {
        skills.push(*dice.pick(&[Skill::Word, Skill::Number]));
    }
    let format = Format::draw(dice, split);
    let (width, height) = format.units();
    let (paint, ground) = inks(dice);
    let mut canvas = Canvas::new(format, &ground);
    let mut turns = Vec::with_capacity(skills.len());
    let band = height / skills.len() as f32;
    let mut order: Vec<usize> = (0..skills.len()).collect();
    dice.shuffle(&mut order);
    for (skill, &place) in skills.iter().zip(&order) {
        let text = text(*skill, dice, split);
        let font = Font::draw(dice, split);
        let most = if two { 22.0 } else { HEIGHT.1 };
        let line = Lettering::new(&cased(dice, &text), font, dice.between(HEIGHT.0, most), width - 2.0 * BORDER);
        let middle = (place as f32 + 0.5) * band;
        let degrees = if two { dice.between(-4.0, 4.0) } else { dice.between(-10.0, 10.0) };
        let sway = degrees.to_radians().sin().abs();
        let (half_width, half_height) = (line.width / 2.0 + BORDER, line.height * 0.75 + sway * line.width / 2.0 + 2.0);
        let mut within = |middle: f32, half: f32, half_line: f32| {
            let free = (half - half_line).max(0.0);
            middle + dice.between(-free, free)
        };
        let at = (within(width / 2.0, width / 2.0, half_width), within(middle, band / 2.0, half_height));
        line.draw(&mut canvas, paint, at, degrees);
        let place = two.then_some(["top", "bottom"][place]);
        turns.push(question(*skill, dice, &text, place));
    }
    Draft::picture(canvas.finish(), turns)
}

/// What is to be read, as it is answered.
fn text(skill: Skill, dice: &mut Dice, split: Split) -> String {
    if skill == Skill::Number {
        words::number(dice, split).to_string()
    } else {
        words::word(dice, split, 2, words::MOST_LETTERS)
    }
}

/// In capitals, with a capital, or in small letters.
pub(super) fn cased(dice: &mut Dice, text: &str) -> String {
    let capital = |text: &str| text[..1].to_owned() + &text[1..].to_lowercase();
    match dice.weighted([0.5, 0.2, 0.3].into_iter()) {
        0 => text.to_owned(),
        1 => capital(text),
        _ => text.to_lowercase(),
    }
}

/// A paint and a background on which it can be read.
pub(super) fn inks(dice: &mut Dice) -> (Rgb, Background) {
    loop {
        let paint = if dice.chance(0.4) {
            let grey = dice.below(256) as u8;
            [grey; 3]
        } else {
            dice.pick(Colour::ALL).rgb()
        };
        let ground = if dice.chance(0.2) {
            Background::plain(dice.pick(Colour::ALL).rgb())
        } else {
            Background::draw(dice, std::iter::once(paint))
        };
        if (luma(paint) - luma(ground.tone())).abs() >= LEAST_CONTRAST {
            return (paint, ground);
        }
    }
}

fn question(skill: Skill, dice: &mut Dice, text: &str, place: Option<&str>) -> Turn {
    let a = place.map(|place| format!("{place} ")).unwrap_or_default();
    let at = place.map_or("in the picture".to_owned(), |place| format!("at the {place}"));
    let slots = [("{a}", a.as_str()), ("{where}", at.as_str())];
    if skill == Skill::Number {
        // Numbers of one digit are the likeliest: one in four times one in ten.
        Asked { skill, class: Class::Number, key: text, chance: 0.03, slots: &slots }.word(dice, NUMBER)
    } else {
        Asked { skill, class: Class::Text, key: text, chance: 0.01, slots: &slots }.word(dice, WORD)
    }
}
