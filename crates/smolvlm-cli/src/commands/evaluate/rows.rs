//! What is asked: a row of the report for each skill and way of showing pictures.

use smolvlm_scenes::Skill;

use crate::args::EvaluateArgs;

/// How pictures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tiles {
    /// In one tile.
    One,
    /// Split, with the whole beside.
    Split,
}

impl Tiles {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "one tile",
            Self::Split => "split",
        }
    }
}

/// The questions of one skill, shown in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) skill: Skill,
    /// Place of the skill among those asked.
    pub(super) place: usize,
    pub(super) tiles: Tiles,
    /// Whether the row counts for the whole: of two ways of showing one skill, the one that it needs.
    pub(super) counts: bool,
}

/// The skills that are asked, in the order of reports.
pub(super) fn skills(args: &EvaluateArgs) -> Vec<Skill> {
    let wanted = |skill: &Skill| if args.skill.is_empty() { skill.is_in_default() } else { args.skill.contains(skill) };
    Skill::ALL.iter().copied().filter(wanted).collect()
}

pub(super) fn rows(args: &EvaluateArgs) -> Vec<Row> {
    let skills = skills(args).into_iter().enumerate();
    skills
        .flat_map(|(place, skill)| {
            let row = |tiles, counts| Row { skill, place, tiles, counts };
            match (args.split, args.no_split, skill) {
                (true, ..) if !skill.is_video() => vec![row(Tiles::Split, true)],
                (_, true, _) => vec![row(Tiles::One, true)],
                (.., Skill::SmallText) => vec![row(Tiles::Split, true), row(Tiles::One, false)],
                _ => vec![row(Tiles::One, true)],
            }
        })
        .collect()
}

/// The number of a question's sample in the report and among the exported files.
pub(super) fn id(args: &EvaluateArgs, place: usize, index: u64) -> u64 {
    place as u64 * u64::from(args.samples.get()) + index
}
