//! Measuring a model on the way: the loss of samples that it does not learn from, and answers beside the expected ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use smolvlm_kernels::TrainBackend;

use super::data::DataConfig;
use crate::data::{self, ExampleMaker, SampleRef, Share};
use crate::files::{failed, write_whole};
use crate::learner::Measured;
use crate::{Error, Example, Learner, Result};

/// Below a run's folder: answers, a file for each evaluation.
const FOLDER: &str = "evaluation";

/// What a run is measured with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Data of its own, in any form that training data has.
    #[serde(default)]
    pub data: Option<DataConfig>,
    /// In place of them: how much of the training data is held out, of every entry, chosen by the run's seed.
    #[serde(default)]
    pub share: Option<Share>,
    /// Steps between two evaluations; the first comes before any step, the last after all. 0: the last alone.
    #[serde(default)]
    pub every: u64,
    /// Most samples, evenly spaced among all.
    #[serde(default = "many")]
    pub samples: usize,
    /// Samples that go through the model together.
    #[serde(default = "few")]
    pub batch: usize,
    /// Samples, the first of them, whose last answer is also generated greedily and compared.
    #[serde(default)]
    pub generate: usize,
    /// Most tokens of such an answer.
    #[serde(default = "answer")]
    pub max_new_tokens: usize,
}

fn many() -> usize {
    1000
}

fn few() -> usize {
    8
}

fn answer() -> usize {
    64
}

impl EvaluationConfig {
    /// The same with relative paths below `folder`.
    #[must_use]
    pub(super) fn below(self, folder: &Path) -> Self {
        Self { data: self.data.map(|data| data.below(folder)), ..self }
    }

    pub(super) fn check(&self) -> Result<()> {
        match (&self.data, self.share) {
            (Some(data), None) => data.check().map_err(|error| error.at("data"))?,
            (None, Some(_)) => {}
            _ => return Err(Error::usage("expected `data` or `share`, and not both")),
        }
        let counts = [("samples", self.samples), ("batch", self.batch), ("max_new_tokens", self.max_new_tokens)];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(Error::usage(format!("{name}: expected at least 1, found 0"))),
            None => Ok(()),
        }
    }
}

/// What was measured after some steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Mean cross-entropy over all answer tokens, in nats.
    pub loss: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// Share of answer tokens that the model would have chosen.
    pub accuracy: f64,
    /// Samples measured.
    pub samples: u64,
    /// Answer tokens in them.
    pub tokens: u64,
    /// Samples that could not be used.
    pub skipped: u64,
    /// Share of generated answers that are the expected ones, but for case, white space and punctuation around them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<f64>,
    /// Answers generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<u64>,
    /// How long it took.
    pub seconds: f64,
}

/// Measures a model with always the same samples.
pub struct Evaluator {
    maker: ExampleMaker,
    samples: Vec<SampleRef>,
    config: EvaluationConfig,
    /// Ids that end an answer.
    ends: Vec<u32>,
    threads: usize,
}

impl Evaluator {
    /// Measures with the samples of `maker`, whose rules should make answers count. `ends` are the ids that end an answer.
    ///
    /// # Errors
    /// An input error when there is no sample.
    pub fn new(maker: ExampleMaker, config: EvaluationConfig, ends: Vec<u32>, threads: usize) -> Result<Self> {
        let all = maker.samples().len();
        if all == 0 {
            return Err(Error::input("evaluation: expected at least one sample, found none"));
        }
        let taken = all.min(config.samples);
        let places: Vec<usize> = (0..taken).map(|at| (at as u128 * all as u128 / taken as u128) as usize).collect();
        let mut wanted = places.iter().copied().peekable();
        let numbered = maker.samples().iter().enumerate();
        let samples = numbered.filter(|(at, _)| wanted.next_if_eq(at).is_some()).map(|(_, sample)| sample).collect();
        Ok(Self { maker, samples, config, ends, threads: threads.max(1) })
    }

    /// Steps between two evaluations; 0: only one at the end.
    pub fn every(&self) -> u64 {
        self.config.every
    }

    /// Measures the model as it is. Nothing about it changes.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when not one sample can be used; as [`Learner::evaluate`].
    pub fn measure<B: TrainBackend>(&self, learner: &mut Learner<B>, step: u64, run: &Path) -> Result<Evaluation> {
        let started = std::time::Instant::now();
        let (mut sum, mut samples, mut skipped) = (Measured::default(), 0_u64, 0_u64);
        let mut first_error = None;
        let mut asked: Vec<Asked> = Vec::new();
        for batch in self.samples.chunks(self.config.batch) {
            let mut examples = Vec::with_capacity(batch.len());
            for made in self.make(batch) {
                match made {
                    Ok(example) => {
                        if asked.len() < self.config.generate {
                            asked.extend(Asked::of(&example));
                        }
                        examples.push(Example::from(example));
                    }
                    Err(error) => {
                        skipped += 1;
                        first_error.get_or_insert(error);
                    }
                }
            }
            samples += examples.len() as u64;
            if !examples.is_empty() {
                sum.add(&learner.measure(&examples)?);
            }
        }
        if let (0, Some(error)) = (samples, first_error) {
            return Err(error.at("evaluation: not one sample can be used; the first"));
        }
        let exact = self.answer(learner, &asked, step, run)?;
        let loss = sum.loss.mean();
        Ok(Evaluation {
            loss,
            perplexity: loss.exp(),
            accuracy: sum.right as f64 / (sum.rows as f64).max(1.0),
            samples,
            tokens: sum.rows,
            skipped,
            exact,
            generated: exact.map(|_| asked.len() as u64),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The examples of these samples, in their order.
    fn make(&self, samples: &[SampleRef]) -> Vec<Result<data::Example>> {
        let share = samples.len().div_ceil(self.threads).max(1);
        let make = |part: &[SampleRef]| part.iter().map(|sample| self.maker.make(*sample)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let parts: Vec<_> = samples.chunks(share).map(|part| scope.spawn(move || make(part))).collect();
            let failed = || vec![Err(Error::internal("evaluation: making an example fails"))];
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|_| failed())).collect()
        })
    }

    /// Generates answers, writes them beside the expected ones, and returns the share that is equal.
    fn answer<B: TrainBackend>(
        &self,
        learner: &mut Learner<B>,
        asked: &[Asked],
        step: u64,
        run: &Path,
    ) -> Result<Option<f64>> {
        if asked.is_empty() {
            return Ok(None);
        }
        let (mut lines, mut equal) = (String::new(), 0_usize);
        for batch in asked.chunks(self.config.batch) {
            let prompts: Vec<Example> = batch.iter().map(|asked| asked.prompt.clone()).collect();
            let answers = learner.answer(&prompts, &self.ends, self.config.max_new_tokens)?;
            for (asked, ids) in batch.iter().zip(answers) {
                let text = |ids: &[u32]| self.maker.tokenizer().decode(ids, true).trim().to_owned();
                let (expected, answered) = (text(&asked.expected), text(&ids));
                let is_equal = normalised(&expected) == normalised(&answered);
                equal += usize::from(is_equal);
                // Rows of tiles leave empty lines.
                let prompt = text(&asked.prompt.ids);
                let prompt = prompt.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                let line = json!({"sample": asked.name, "prompt": prompt, "expected": expected, "answered": answered, "exact": is_equal});
                lines += &format!("{line}\n");
            }
        }
        write(run, step, &lines)?;
        Ok(Some(equal as f64 / asked.len() as f64))
    }
}

/// Where the answers after a step are written.
fn path_of(run: &Path, step: u64) -> PathBuf {
    run.join(FOLDER).join(format!("step-{step}.jsonl"))
}

/// Writes the answers after a step.
fn write(run: &Path, step: u64, lines: &str) -> Result<()> {
    let path = path_of(run, step);
    fs::create_dir_all(run.join(FOLDER)).map_err(|error| failed(&path, "written", error))?;
    write_whole(&path, lines)
}

/// The question of a sample's last answer.
struct Asked {
    name: String,
    prompt: Example,
    expected: Vec<u32>,
}

impl Asked {
    /// None where nothing counts.
    fn of(example: &data::Example) -> Option<Self> {
        let end = example.counted.iter().rposition(|counted| *counted)? + 1;
        let start = example.counted[..end].iter().rposition(|counted| !counted)? + 1;
        let ids = example.ids[..start].to_vec();
        let prompt = Example { weights: vec![0.0; ids.len()], ids, tiles: example.pixels.clone() };
        Some(Self { name: example.name.clone(), prompt, expected: example.ids[start..end].to_vec() })
    }
}

/// Lower case, single spaces, no punctuation around the text.
fn normalised(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_matches(|c: char| c.is_ascii_punctuation()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_space_and_punctuation_around_an_answer_do_not_count() {
        assert_eq!(normalised("  A bee.\n"), normalised("a  BEE"));
        assert_ne!(normalised("a bee"), normalised("a, bee"));
    }

    #[test]
    fn the_last_answer_is_asked_for() {
        let counted = [false, true, true, false, false, true, true, false];
        let example =
            data::Example { name: "x".into(), ids: (10..18).collect(), counted: counted.to_vec(), pixels: Vec::new() };
        let asked = Asked::of(&example).unwrap();
        assert_eq!((asked.prompt.ids, asked.expected), (vec![10, 11, 12, 13, 14], vec![15, 16]));
    }
}
