//! What is shown: a drawn sample of each of some skills.

use smolvlm_scenes::{Generator, Medium, Mixture, Picture, Sample, Skill, Split};

use crate::picture::side_by_side;

/// From single pictures over two pictures to a clip.
const SKILLS: [Skill; 7] =
    [Skill::Caption, Skill::Relation, Skill::Count, Skill::Word, Skill::Chart, Skill::Compare, Skill::ClipCaption];
/// Most pictures of a sample: three would not fit beside each other.
const MOST_PICTURES: usize = 2;
/// Frames beside each other.
const FRAMES_ACROSS: usize = 4;

/// The first fitting sample of each skill, of kinds that were kept out of training.
pub(super) fn samples(seed: u64) -> Vec<Sample> {
    let first = |skill| {
        let generator = Generator::new(seed, Split::Held, Mixture::only(skill));
        (0..).map(|index| generator.sample(index)).find(|sample| sample.media.len() <= MOST_PICTURES)
    };
    SKILLS.into_iter().filter_map(first).collect()
}

/// A sample's media as one picture: what belongs together side by side.
pub(super) fn sheet(sample: &Sample) -> Picture {
    let pictures: Vec<&Picture> = sample
        .media
        .iter()
        .flat_map(|medium| match medium {
            Medium::Picture(picture) => std::slice::from_ref(picture),
            Medium::Clip(clip) => &clip.frames,
        })
        .collect();
    side_by_side(&pictures, FRAMES_ACROSS)
}

/// What a sample's media are, in words.
pub(super) fn described(sample: &Sample) -> String {
    match sample.media.as_slice() {
        [Medium::Clip(clip)] => format!("a clip of {} frames, {} s", clip.frames.len(), clip.duration()),
        [Medium::Picture(picture)] => format!("a picture of {} × {} pixels", picture.width, picture.height),
        media => format!("{} pictures", media.len()),
    }
}
