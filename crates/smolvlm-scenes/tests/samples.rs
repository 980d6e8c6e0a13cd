//! What holds for every sample.

use std::collections::HashSet;

use smolvlm_scenes::{Detail, Generator, Medium, Mixture, Sample, Skill, Split, correct};

fn every_skill(count: u64) -> impl Iterator<Item = (Split, Skill, u64, Sample)> {
    let all =
        [Split::Train, Split::Held].into_iter().flat_map(|split| Skill::ALL.iter().map(move |&skill| (split, skill)));
    all.flat_map(move |(split, skill)| {
        let generator = Generator::new(9, split, Mixture::only(skill));
        (0..count).map(move |index| (split, skill, index, generator.sample(index)))
    })
}

#[test]
fn a_sample_depends_on_its_number_alone() {
    let generator = Generator::new(3, Split::Train, Mixture::default());
    let forwards: Vec<Sample> = (0..40).map(|index| generator.sample(index)).collect();
    let backwards: Vec<Sample> = std::thread::scope(|scope| {
        let generator = &generator;
        let drawn = (0..40).rev().map(|index| scope.spawn(move || generator.sample(index)));
        drawn.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(forwards.iter().eq(backwards.iter().rev()));
    let other = Generator::new(4, Split::Train, Mixture::default());
    assert!((0..40).any(|index| other.sample(index) != forwards[index as usize]));
}

/// A change of these texts is a change of what every model is trained on: a recipe's seed no longer means what it did.
#[test]
fn a_seed_means_the_same_conversations_for_ever() {
    // What models were trained on, and what was added since.
    for (in_default, expected) in [(true, "ffad928d4281691d"), (false, "4d54186432e4eeda")] {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for (.., sample) in every_skill(40).filter(|(_, skill, ..)| skill.is_in_default() == in_default) {
            for turn in &sample.turns {
                for byte in turn.question.bytes().chain(turn.answer.bytes()) {
                    // FNV-1a.
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
                }
            }
        }
        assert_eq!(format!("{hash:016x}"), expected, "in the default mixture: {in_default}");
    }
}

#[test]
fn reference_answers_are_right_and_other_answers_are_not() {
    for (split, skill, index, sample) in every_skill(60) {
        assert!((1..=4).contains(&sample.turns.len()));
        for (at, turn) in sample.turns.iter().enumerate() {
            let place = format!("{split:?} {} {index}: {} = {}", skill.name(), turn.question, turn.answer);
            assert!(correct(&sample, at, &turn.answer) && correct(&sample, at, &turn.check.key.join(" ")), "{place}");
            assert!(!turn.question.contains(['{', '}']) && !turn.answer.contains(['{', '}']), "{place}");
            assert!(turn.chance > 0.0 && turn.chance <= 0.5, "{place}");
            for wrong in ["", "I do not know.", "yes no", "0 1 2 3 4 5 6 7 8 9", "xyzzy"] {
                assert!(!correct(&sample, at, wrong), "{place} accepts {wrong:?}");
            }
        }
        assert!(!correct(&sample, sample.turns.len(), "yes"));
    }
}

#[test]
fn the_answer_to_another_question_of_the_skill_is_mostly_wrong() {
    for &skill in Skill::ALL {
        let generator = Generator::new(2, Split::Held, Mixture::only(skill));
        let samples: Vec<Sample> = (0..200).map(|index| generator.sample(index)).collect();
        let pairs = samples.iter().zip(samples.iter().skip(1));
        let right = pairs.filter(|(sample, next)| correct(sample, 0, &next.turns[0].answer)).count();
        // Of two yes-or-no questions half have the same answer; 0.65 is four standard deviations above.
        assert!(right < 130, "{}: {right} of 199", skill.name());
    }
}

#[test]
fn media_have_the_sizes_that_are_promised() {
    for (_, skill, index, sample) in every_skill(40) {
        let place = format!("{} {index}", skill.name());
        assert_eq!(sample.media.iter().any(|medium| matches!(medium, Medium::Clip(_))), skill.is_video(), "{place}");
        assert!(
            sample.media.len() == 1 || (skill == Skill::Compare && (2..=3).contains(&sample.media.len())),
            "{place}"
        );
        for medium in &sample.media {
            let pictures = match medium {
                Medium::Picture(picture) => std::slice::from_ref(picture),
                Medium::Clip(clip) => {
                    assert!((4..=12).contains(&clip.frames.len()) && clip.times.len() == clip.frames.len(), "{place}");
                    let step = clip.times[1] - clip.times[0];
                    assert!(clip.times.windows(2).all(|pair| pair[1] - pair[0] == step), "{place}");
                    assert!((clip.rate() - 1.0 / step).abs() < 1e-9 && clip.times[0] == 0.0, "{place}");
                    &clip.frames
                }
            };
            for picture in pictures {
                let (width, height) = (picture.width, picture.height);
                assert_eq!(picture.rgb.len(), 3 * width * height, "{place}");
                assert_eq!((width, height), (pictures[0].width, pictures[0].height), "{place}");
                let longest = if sample.detail == Detail::Tiles { 512..=512 } else { 128..=256 };
                assert!(longest.contains(&width.max(height)), "{place}: {width}×{height}");
            }
        }
        assert_eq!(sample.detail == Detail::Tiles, skill == Skill::SmallText, "{place}");
    }
}

#[test]
fn the_mixture_is_kept() {
    let generator = Generator::new(8, Split::Train, Mixture::default());
    let drawn: Vec<Skill> = (0..4000).map(|index| generator.sample(index).skill).collect();
    let total: f32 = Mixture::default().weights().map(|(_, weight)| weight).sum();
    assert_eq!(total, 19.0);
    for (skill, weight) in Mixture::default().weights() {
        let (expected, found) = (weight / total, drawn.iter().filter(|drawn| **drawn == skill).count() as f32 / 4000.0);
        // Four standard deviations.
        let margin = 4.0 * (expected * (1.0 - expected) / 4000.0).sqrt();
        assert!((found - expected).abs() < margin, "{}: {found}, expected {expected}", skill.name());
    }
}

#[test]
fn mixtures_that_make_no_sense_are_refused() {
    assert!(Mixture::new([(Skill::Word, -1.0)]).is_err() && Mixture::new([(Skill::Word, f32::NAN)]).is_err());
    assert!(Mixture::new([]).is_err() && Mixture::new([(Skill::Word, 0.0)]).is_err());
    let twice = Mixture::new([(Skill::Word, 1.0), (Skill::Word, 2.0)]).expect_err("given twice");
    assert_eq!(twice.to_string(), "mixture: word is given twice");
    let only = Mixture::new([(Skill::Word, 1.0), (Skill::Count, 0.0)]).expect("a mixture");
    let generator = Generator::new(1, Split::Train, only);
    assert!((0..50).all(|index| generator.sample(index).skill == Skill::Word));
}

#[test]
fn names_of_skills_are_read_back() {
    let names: HashSet<&str> = Skill::ALL.iter().map(|skill| skill.name()).collect();
    assert_eq!(names.len(), Skill::ALL.len());
    assert!(Skill::ALL.iter().all(|&skill| Skill::from_name(skill.name()) == Some(skill)));
    assert_eq!(Skill::from_name("painting"), None);
}
