//! From facts to wording.

use crate::check::{Check, Class};
use crate::dice::Dice;
use crate::mixture::Skill;
use crate::sample::Turn;

/// Wordings of one question: what is asked and how it is then answered. The answer's form follows from the question's, so
/// there is one right continuation. `{names}` stand for slots; `{key}` is the answer itself.
pub(crate) type Wordings = &'static [(&'static str, &'static str)];

/// A question about to be worded.
pub(crate) struct Asked<'a> {
    pub(crate) skill: Skill,
    pub(crate) class: Class,
    /// The answer itself.
    pub(crate) key: &'a str,
    /// See [`Turn::chance`].
    pub(crate) chance: f32,
    /// What goes into the slots of the wordings.
    pub(crate) slots: &'a [(&'a str, &'a str)],
}

impl Asked<'_> {
    /// One turn in one of `wordings`.
    pub(crate) fn word(&self, dice: &mut Dice, wordings: Wordings) -> Turn {
        let (question, answer) = *dice.pick(wordings);
        let mut question = self.fill(question);
        if dice.chance(0.35) {
            question = question.replace("colour", "color").replace("centre", "center");
        }
        let answer = self.fill(answer);
        let check = Check::new(self.class, self.key, &answer);
        Turn { skill: self.skill, question, answer, check, chance: self.chance }
    }

    fn fill(&self, wording: &str) -> String {
        let mut text = wording.replace("{key}", self.key);
        for (name, value) in self.slots {
            text = text.replace(name, value);
        }
        text
    }
}

/// `00:04`, as the video prompt prints the times of frames (`processing_smolvlm.py: replace_video_token`).
pub(crate) fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    format!("{:02}:{:02}", whole / 60, whole % 60)
}

/// `yes` or `no`.
pub(crate) fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
