//! One file for each group of skills: from choices to media and turns.

mod caption;
mod chart;
mod clip;
mod compare;
mod count;
mod events;
mod motion;
mod objects;
mod quarter;
mod reading;
mod relation;
mod small_text;

use crate::dice::Dice;
use crate::held::Split;
use crate::mixture::Skill;
use crate::sample::{Clip, Detail, Medium, Picture, Turn};

/// A sample in the making.
pub(crate) struct Draft {
    pub(crate) media: Vec<Medium>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) detail: Detail,
}

impl Draft {
    fn picture(picture: Picture, turns: Vec<Turn>) -> Self {
        Self { media: vec![Medium::Picture(picture)], turns, detail: Detail::Whole }
    }

    fn clip(clip: Clip, turns: Vec<Turn>) -> Self {
        Self { media: vec![Medium::Clip(clip)], turns, detail: Detail::Whole }
    }
}

/// Media and turns of one skill.
pub(crate) fn draft(skill: Skill, dice: &mut Dice, split: Split) -> Draft {
    match skill {
        Skill::Caption => caption::draft(dice, split),
        Skill::Attribute | Skill::Presence | Skill::Size => objects::draft(skill, dice, split),
        Skill::Relation => relation::draft(dice, split),
        Skill::Count | Skill::CountMany => count::draft(skill, dice, split),
        Skill::Word | Skill::Number => reading::draft(skill, dice, split),
        Skill::SmallText => small_text::draft(dice, split),
        Skill::Chart => chart::draft(dice, split),
        Skill::Compare => compare::draft(dice, split),
        Skill::Motion => motion::draft(dice, split),
        Skill::EmptyQuarter => quarter::draft(dice, split),
        Skill::Order | Skill::Time | Skill::Change | Skill::ClipCaption | Skill::Highlight => {
            events::draft(skill, dice, split)
        }
    }
}

/// How many questions one picture gets, at most `most`: seeing it once serves them all.
fn turn_count(dice: &mut Dice, most: usize) -> usize {
    (1 + dice.weighted([4.0, 3.0, 2.0, 1.0].into_iter())).min(most)
}
