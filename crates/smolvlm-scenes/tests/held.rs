//! What is held out for evaluation never comes in training, seen from outside.

use std::collections::HashSet;

use smolvlm_scenes::{Class, Generator, Medium, Mixture, Sample, Skill, Split};

const COLOURS: [&str; 9] = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white"];
const SHAPES: [&str; 9] = ["circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon"];

fn samples(split: Split, skill: Skill, count: u64) -> impl Iterator<Item = Sample> {
    let generator = Generator::new(21, split, Mixture::only(skill));
    (0..count).map(move |index| generator.sample(index))
}

/// Pairs of a colour and a shape behind it in what is said.
fn pairs(sample: &Sample) -> HashSet<(String, String)> {
    let mut found = HashSet::new();
    for turn in &sample.turns {
        for text in [&turn.question, &turn.answer] {
            let words: Vec<String> =
                text.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
            for pair in words.windows(2) {
                let shape = pair[1].trim_end_matches('s').trim_end_matches("se").to_owned();
                let shape =
                    SHAPES.iter().find(|name| pair[1].starts_with(*name)).map_or(shape, |name| (*name).to_owned());
                if COLOURS.contains(&pair[0].as_str()) && SHAPES.contains(&shape.as_str()) {
                    found.insert((pair[0].clone(), shape));
                }
            }
        }
    }
    found
}

/// Cells of a caption.
fn layout(sample: &Sample) -> String {
    let key = &sample.turns[0].check.key;
    let places = ["top", "middle", "bottom", "left", "right", "centre"];
    key.iter()
        .map(|word| if places.contains(&word.as_str()) { word.as_str() } else { "," })
        .collect::<Vec<_>>()
        .join(" ")
}

fn of<T: std::hash::Hash + Eq>(split: Split, skill: Skill, count: u64, what: impl Fn(&Sample) -> Vec<T>) -> HashSet<T> {
    samples(split, skill, count).flat_map(|sample| what(&sample)).collect()
}

#[test]
fn nine_pairs_of_colour_and_shape_are_never_named_in_training() {
    let of_pairs = |sample: &Sample| pairs(sample).into_iter().collect();
    let mut train = HashSet::new();
    for &skill in Skill::ALL {
        train.extend(of(Split::Train, skill, 500, of_pairs));
    }
    let held = of(Split::Held, Skill::Caption, 3000, of_pairs);
    assert_eq!((train.len(), held.len()), (72, 81));
    let only: Vec<&(String, String)> = held.difference(&train).collect();
    let (colours, shapes): (HashSet<&String>, HashSet<&String>) =
        (only.iter().map(|pair| &pair.0).collect(), only.iter().map(|pair| &pair.1).collect());
    assert_eq!((only.len(), colours.len(), shapes.len()), (9, 9, 9), "{only:?}");
    // Every evaluation caption names one of them.
    let names_one = |sample: Sample| pairs(&sample).iter().any(|pair| !train.contains(pair));
    assert!(samples(Split::Held, Skill::Caption, 500).all(names_one));
}

#[test]
fn layouts_words_and_numbers_are_disjoint() {
    let layouts = |split| of(split, Skill::Caption, 3000, |sample| vec![layout(sample)]);
    let (train, held) = (layouts(Split::Train), layouts(Split::Held));
    // A single object may be anywhere.
    let common: Vec<&String> = train.intersection(&held).filter(|layout| layout.matches(", ,").count() > 1).collect();
    assert!(train.len() > 200 && held.len() > 30 && common.is_empty(), "{} {} {common:?}", train.len(), held.len());

    for (skill, class) in [(Skill::Word, Class::Text), (Skill::Number, Class::Number), (Skill::SmallText, Class::Text)]
    {
        let texts = |split| {
            of(split, skill, 1500, |sample| {
                let turns = sample.turns.iter().filter(|turn| turn.check.class == class);
                turns.map(|turn| turn.check.key.join(" ")).collect()
            })
        };
        let (train, held) = (texts(Split::Train), texts(Split::Held));
        assert!(train.len() > 300 && held.len() > 100, "{}: {} {}", skill.name(), train.len(), held.len());
        assert!(train.is_disjoint(&held), "{}: {:?}", skill.name(), train.intersection(&held).next());
    }
}

#[test]
fn three_formats_of_pictures_come_in_evaluation_only() {
    let formats = |split| {
        of(split, Skill::Attribute, 400, |sample| {
            let Medium::Picture(picture) = &sample.media[0] else { panic!("a picture was expected") };
            vec![(picture.width, picture.height)]
        })
    };
    let (train, held) = (formats(Split::Train), formats(Split::Held));
    assert_eq!((train.len(), held.difference(&train).count()), (6, 3));
}

#[test]
fn charts_of_evaluation_have_labels_of_their_own() {
    let labels = |split| {
        of(split, Skill::Chart, 1000, |sample| {
            let turns = sample.turns.iter().filter(|turn| turn.check.class == Class::Text);
            turns.map(|turn| turn.check.key.join(" ")).collect()
        })
    };
    let (train, held) = (labels(Split::Train), labels(Split::Held));
    assert!(train.len() > 100 && held.len() > 20 && train.is_disjoint(&held));
}
