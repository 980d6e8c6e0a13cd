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
        let numbers: Vec<u64> = (0..count).collect();
        for batch in numbers.chunks(self.args.batch.get()) {
            let samples: Vec<Sample> = batch.iter().map(|&index| self.sample(row, index)).collect();
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
                    reply: reply.text,
                    ids: reply.ids,
                });
            }
            self.bar.inc(batch.len() as u64);
        }
        Ok(answers)
    }

    /// Mean share of right answers of somebody who sees the text alone and knows how the data is made.
    pub(super) fn chance(&self, row: &Row) -> f64 {
        let count = u64::from(self.args.samples.get());
        let sum: f64 = (0..count).map(|index| f64::from(self.sample(row, index).turns[0].chance)).sum();
        sum / count as f64
    }

    fn sample(&self, row: &Row, index: u64) -> Sample {
        generator(self.args, row.skill).sample(index)
    }
}
