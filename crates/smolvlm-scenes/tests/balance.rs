//! The question alone tells nothing: someone who has read thousands of training conversations, but seen no picture, answers new
//! ones no better than by the chance that each turn states.

use std::collections::HashMap;

use smolvlm_scenes::{Generator, Mixture, Skill, Split, Turn};

/// By how much an accuracy may lie above the stated chance: three standard deviations at the smallest count, 400, of a chance of one half.
const MARGIN: f32 = 0.075;
const READ: u64 = 3000;
const ASKED: u64 = 1000;

/// What the text says before an answer: the words of the question, and those of earlier turns.
struct Reading {
    skill: Skill,
    question: String,
    words: Vec<String>,
    answer: String,
    chance: f32,
}

fn readings(skill: Skill, range: std::ops::Range<u64>) -> Vec<Reading> {
    let generator = Generator::new(5, Split::Train, Mixture::only(skill));
    let mut all = Vec::new();
    for index in range {
        let sample = generator.sample(index);
        for (at, turn) in sample.turns.iter().enumerate() {
            let earlier = sample.turns[..at].iter().flat_map(|turn| {
                let said = [turn.question.as_str(), turn.answer.as_str()];
                said.map(|text| words(text, "earlier ")).into_iter().flatten()
            });
            let mut words: Vec<String> = earlier.chain(words(&turn.question, "")).collect();
            words.push(format!("{} media", sample.media.len()));
            words.push(format!("turn {at}"));
            all.push(Reading {
                skill: turn.skill,
                question: turn.question.clone(),
                words,
                answer: key(turn),
                chance: turn.chance,
            });
        }
    }
    all
}

fn key(turn: &Turn) -> String {
    turn.check.key.join(" ")
}

fn words(text: &str, prefix: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_alphanumeric() || c == ':')).filter(|word| !word.is_empty());
    words.map(|word| format!("{prefix}{word}")).collect()
}

/// Counts of answers, and of words beside them (naive Bayes); and the most frequent answer to each question that was read.
#[derive(Default)]
struct Reader {
    answers: HashMap<String, f32>,
    beside: HashMap<(String, String), f32>,
    exact: HashMap<String, HashMap<String, usize>>,
}

impl Reader {
    fn read(readings: &[Reading]) -> Self {
        let mut reader = Self::default();
        for reading in readings {
            *reader.answers.entry(reading.answer.clone()).or_default() += 1.0;
            for word in &reading.words {
                *reader.beside.entry((reading.answer.clone(), word.clone())).or_default() += 1.0;
            }
            *reader.exact.entry(reading.question.clone()).or_default().entry(reading.answer.clone()).or_default() += 1;
        }
        reader
    }

    fn by_words(&self, reading: &Reading) -> String {
        let score = |(answer, count): (&String, &f32)| {
            let given = |word: &String| {
                let together = self.beside.get(&(answer.clone(), word.clone())).copied().unwrap_or(0.0);
                ((together + 0.5) / (count + 1.0)).ln()
            };
            count.ln() + reading.words.iter().map(given).sum::<f32>()
        };
        let mut frequent: Vec<(&String, &f32)> = self.answers.iter().collect();
        frequent.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
        let best = frequent.into_iter().take(60).max_by(|a, b| score(*a).total_cmp(&score(*b)));
        best.map(|(answer, _)| answer.clone()).unwrap_or_default()
    }

    fn by_question(&self, reading: &Reading) -> String {
        let known = self.exact.get(&reading.question).and_then(|answers| answers.iter().max_by_key(|entry| entry.1));
        known.map(|(answer, _)| answer.clone()).unwrap_or_else(|| self.by_words(reading))
    }
}

#[test]
fn text_alone_answers_no_better_than_chance() {
    for &skill in Skill::ALL {
        let of_skill = |range| -> Vec<Reading> {
            readings(skill, range).into_iter().filter(|reading| reading.skill == skill).collect()
        };
        let (read, asked) = (of_skill(0..READ), of_skill(READ..READ + ASKED));
        assert!(asked.len() >= 400, "{}: {} questions", skill.name(), asked.len());
        let reader = Reader::read(&read);
        let share = |right: usize| right as f32 / asked.len() as f32;
        let words = share(asked.iter().filter(|reading| reader.by_words(reading) == reading.answer).count());
        let exact = share(asked.iter().filter(|reading| reader.by_question(reading) == reading.answer).count());
        let chance = asked.iter().map(|reading| reading.chance).sum::<f32>() / asked.len() as f32;
        assert!(
            words.max(exact) <= chance + MARGIN,
            "{}: text alone is right in {words:.3} (by words) and {exact:.3} (by question) of {}, stated chance {chance:.3}",
            skill.name(),
            asked.len()
        );
    }
}

#[test]
fn yes_and_no_are_equally_frequent_in_both_splits() {
    for split in [Split::Train, Split::Held] {
        for skill in [Skill::Presence, Skill::Relation, Skill::Compare, Skill::Motion, Skill::Order, Skill::Highlight] {
            let generator = Generator::new(6, split, Mixture::only(skill));
            let turns = (0..2000).flat_map(|index| generator.sample(index).turns);
            let answers: Vec<String> = turns.map(|turn| key(&turn)).filter(|key| key == "yes" || key == "no").collect();
            let yes = answers.iter().filter(|key| *key == "yes").count() as f32 / answers.len() as f32;
            // Four standard deviations of the smallest count, 400.
            assert!(
                answers.len() > 400 && (yes - 0.5).abs() < 0.1,
                "{} {split:?}: {yes} of {}",
                skill.name(),
                answers.len()
            );
        }
    }
}
