//! What is practised, and how often.

use crate::{Error, Result};

macro_rules! skills {
    ($($(#[$doc:meta])+ $name:ident $text:literal $weight:literal,)+) => {
        /// One thing that the data teaches.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Skill { $($(#[$doc])+ $name,)+ }

        impl Skill {
            /// All, in the order of reports.
            pub const ALL: &'static [Skill] = &[$(Skill::$name,)+];

            /// Its name in reports and configurations.
            pub fn name(self) -> &'static str {
                match self { $(Skill::$name => $text,)+ }
            }

            /// Parts of the default mixture, which has 19; none for what is learnt later.
            fn default_weight(self) -> f32 {
                match self { $(Skill::$name => $weight,)+ }
            }
        }
    };
}

skills! {
    /// Every object in reading order, with colour, shape and cell of a 3 × 3 grid.
    Caption "caption" 4.0,
    /// Colour or shape of an object.
    Attribute "attribute" 1.0,
    /// Whether something is there.
    Presence "presence" 1.0,
    /// Left of, right of, above, below, between.
    Relation "relation" 2.0,
    /// Small or large; which of two is larger.
    Size "size" 0.5,
    /// How many, 0 to 5.
    Count "count" 1.25,
    /// How many, 6 to 9.
    CountMany "count-many" 0.25,
    /// A word of two to six letters.
    Word "word" 2.0,
    /// A number of up to four digits.
    Number "number" 1.0,
    /// Small text in a large picture.
    SmallText "small-text" 1.0,
    /// Bar, line and pie charts.
    Chart "chart" 1.0,
    /// Two or three pictures.
    Compare "compare" 1.0,
    /// Which way, and what moves.
    Motion "motion" 0.75,
    /// What happens first, last, before.
    Order "order" 0.75,
    /// When something happens, as MM:SS.
    Time "time" 0.5,
    /// What something turns into.
    Change "change" 0.25,
    /// Everything that happens in a clip, with times.
    ClipCaption "clip-caption" 0.5,
    /// Whether a clip contains a described highlight.
    Highlight "highlight" 0.25,
    /// Which quarter of a picture is empty: no part of the default mixture, so that it can be taught afterwards.
    EmptyQuarter "empty-quarter" 0.0,
}

impl Skill {
    /// The skill of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|skill| skill.name() == name)
    }

    /// Whether it is part of the default mixture.
    pub fn is_in_default(self) -> bool {
        self.default_weight() > 0.0
    }

    /// Whether its media are clips.
    pub fn is_video(self) -> bool {
        matches!(self, Self::Motion | Self::Order | Self::Time | Self::Change | Self::ClipCaption | Self::Highlight)
    }
}

/// How often each skill comes: weights that need not sum to anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture(Vec<(Skill, f32)>);

impl Default for Mixture {
    /// Nineteen parts, four of them dense captions: without those, attributes, relations and reading were hardly learnt.
    fn default() -> Self {
        let skills = Skill::ALL.iter().filter(|skill| skill.is_in_default());
        Self(skills.map(|&skill| (skill, skill.default_weight())).collect())
    }
}

impl Mixture {
    /// A mixture of these weights; skills that are not named do not come.
    ///
    /// # Errors
    /// When a weight is negative or not finite, a skill comes twice, or all weights are 0.
    pub fn new(weights: impl IntoIterator<Item = (Skill, f32)>) -> Result<Self> {
        let mut list: Vec<(Skill, f32)> = Vec::new();
        for (skill, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::new(format!(
                    "mixture: {}: expected a weight of at least 0, found {weight}",
                    skill.name()
                )));
            }
            if list.iter().any(|(known, _)| *known == skill) {
                return Err(Error::new(format!("mixture: {} is given twice", skill.name())));
            }
            list.push((skill, weight));
        }
        if list.iter().map(|(_, weight)| weight).sum::<f32>() <= 0.0 {
            return Err(Error::new("mixture: expected a weight above 0, found none"));
        }
        Ok(Self(list))
    }

    /// Nothing but one skill.
    pub fn only(skill: Skill) -> Self {
        Self(vec![(skill, 1.0)])
    }

    /// Each skill's weight.
    pub fn weights(&self) -> impl Iterator<Item = (Skill, f32)> + Clone + '_ {
        self.0.iter().copied()
    }

    /// The skill at `index` of the list of weights.
    pub(crate) fn skill(&self, index: usize) -> Skill {
        self.0[index].0
    }
}
