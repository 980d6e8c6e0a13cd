//! What the generator hands out.

use crate::check::Check;
use crate::mixture::Skill;

/// A picture: RGB, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `[height, width, 3]`, row-major.
    pub rgb: Vec<u8>,
}

/// Frames with their times, all of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// The frames, at least two.
    pub frames: Vec<Picture>,
    /// When each is shown, in seconds from the start; evenly spaced.
    pub times: Vec<f64>,
}

impl Clip {
    /// Frames per second.
    pub fn rate(&self) -> f64 {
        1.0 / (self.times[1] - self.times[0])
    }

    /// What the video prompt states as duration, in seconds: the last frame's time, as for a folder of frames.
    pub fn duration(&self) -> f64 {
        self.times.last().copied().unwrap_or_default()
    }
}

/// One medium of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Medium {
    /// A still picture.
    Picture(Picture),
    /// A clip.
    Clip(Clip),
}

/// Whether the questions need the tiles of a large picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything asked shows in one tile for the whole picture.
    Whole,
    /// What is asked is too small for the global view and shows in the split tiles only.
    Tiles,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// What this turn practises; it may differ from the sample's.
    pub skill: Skill,
    /// What the user says.
    pub question: String,
    /// What the assistant is to say.
    pub answer: String,
    /// How a reply is scored.
    pub check: Check,
    /// Share of right answers of someone who sees the text only and knows how the data is made (a bound from above, for
    /// questions about what occurs in training).
    pub chance: f32,
}

/// Media, and a conversation about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which part of the mixture it is.
    pub skill: Skill,
    /// What the system message says; mostly there is none.
    pub system: Option<String>,
    /// In the order in which they are shown, before the first question. Pictures only, or one clip.
    pub media: Vec<Medium>,
    /// One to four questions with their answers.
    pub turns: Vec<Turn>,
    /// Whether the picture must be split.
    pub detail: Detail,
}
