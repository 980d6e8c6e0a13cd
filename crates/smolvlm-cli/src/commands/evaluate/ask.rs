//! Asking, many questions at a time.

use indicatif::ProgressBar;
use smolvlm::preprocess::Overrides;
use smolvlm::{GenerateOptions, MediaOptions, Messages, Result, SmolVlm};
use smolvlm_scenes::{Sample, Skill, correct};

use super::generator;
use super::rows::{Row, Tiles, id};
use crate::args::EvaluateArgs;
use crate::drawn::{View, first_question};

/// A question with what the model said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) skill: Skill,
    pub(super) question: String,
    /// The reference answer.
    pub(super) expected: String,
    pub(super) reply: String,
    pub(super) ids: Vec<u32>,
    pub(super) right: bool,
    /// How often somebody is right who sees the text alone and knows how the data is made.
    pub(super) chance: f64,
}

/// A model with the questions' settings.
pub(super) struct Asker<'a> {
    pub(super) model: &'a mut SmolVlm,
    pub(super) args: &'a EvaluateArgs,
    pub(super) bar: &'a ProgressBar,
}

impl Asker<'_> {
    /// Asks every question of a row.
    pub(super) fn ask(&mut self, row: &Row, view: View) -> Result<Vec<Answer>> {
        let overrides = Overrides { split_images: Some(row.tiles == Tiles::Split), ..Overrides::default() };
        self.model.set_media_options(MediaOptions { overrides, ..MediaOptions::default() })?;
        let options = GenerateOptions::default().max_new_tokens(self.args.max_new_tokens.get());
        self.bar.set_message(row.skill.name());
        let count = u64::from(self.args.samples.get());
        let mut answers = Vec::with_capacity(count as usize);
        let (generator, numbers) = (generator(self.args, row.skill), (0..count).collect::<Vec<u64>>());
        for batch in numbers.chunks(self.args.batch.get()) {
            let samples: Vec<Sample> = batch.iter().map(|&index| generator.sample(index)).collect();
            let questions: Vec<Messages> = samples.iter().map(|sample| first_question(sample, view)).collect();
            let replies = self.model.generate_batch(&questions, &options)?;
            for ((index, sample), reply) in batch.iter().zip(&samples).zip(replies) {
                let turn = &sample.turns[0];
                answers.push(Answer {
                    id: id(self.args, row.place, *index),
                    skill: row.skill,
                    question: turn.question.clone(),
                    expected: turn.answer.clone(),
                    right: correct(sample, 0, &reply.text),
                    chance: f64::from(turn.chance),
                    reply: reply.text,
                    ids: reply.ids,
                });
            }
            self.bar.inc(batch.len() as u64);
        }
        Ok(answers)
    }
}
