//! Colours, shapes, sizes and places, with the words for them.

use crate::dice::Dice;
use crate::held::Split;

macro_rules! named {
    ($(#[$doc:meta])+ $name:ident: $($variant:ident $text:literal,)+) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $($variant,)+ }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

named! {
    /// What objects are painted with.
    Colour:
    Red "red", Orange "orange", Yellow "yellow", Green "green", Blue "blue", Purple "purple", Pink "pink",
    Black "black", White "white",
}

named! {
    /// Outlines that are told apart at any size.
    Shape:
    Circle "circle", Square "square", Triangle "triangle", Star "star", Heart "heart", Diamond "diamond",
    Cross "cross", Ring "ring", Moon "moon",
}

named! {
    /// The two sizes that questions name.
    Size:
    Small "small", Large "large",
}

impl Colour {
    /// Red, green, blue.
    pub(crate) fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [220, 30, 35],
            Self::Orange => [245, 135, 20],
            Self::Yellow => [245, 220, 40],
            Self::Green => [30, 150, 60],
            Self::Blue => [35, 85, 215],
            Self::Purple => [125, 45, 170],
            Self::Pink => [250, 140, 190],
            Self::Black => [20, 20, 22],
            Self::White => [250, 250, 248],
        }
    }
}

impl Shape {
    /// More than one.
    pub(crate) fn plural(self) -> String {
        match self {
            Self::Cross => "crosses".to_owned(),
            other => format!("{}s", other.word()),
        }
    }
}

/// What an object is called: colour and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) colour: Colour,
    pub(crate) shape: Shape,
}

impl Kind {
    /// `red star`.
    pub(crate) fn words(self) -> String {
        format!("{} {}", self.colour.word(), self.shape.word())
    }

    /// Whether it is kept out of training: one shape of each colour, one colour of each shape.
    pub(crate) fn is_held(self) -> bool {
        held_shape(self.colour) == self.shape
    }

    /// Any that the split allows. For evaluation every second one is held out.
    pub(crate) fn draw(dice: &mut Dice, split: Split) -> Self {
        let colour = *dice.pick(Colour::ALL);
        if split == Split::Held && dice.coin() {
            return Self::held(dice);
        }
        loop {
            let kind = Self { colour, shape: *dice.pick(Shape::ALL) };
            if !kind.is_held() {
                return kind;
            }
        }
    }

    /// One that is kept out of training.
    pub(crate) fn held(dice: &mut Dice) -> Self {
        let colour = *dice.pick(Colour::ALL);
        Self { colour, shape: held_shape(colour) }
    }

    /// `count` kinds, no two of one shape when `distinct`; for evaluation at least one is held out.
    pub(crate) fn draw_many(dice: &mut Dice, split: Split, count: usize, distinct: bool) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::with_capacity(count);
        while kinds.len() < count {
            let first = split == Split::Held && kinds.is_empty();
            let kind = if first { Self::held(dice) } else { Self::draw(dice, split) };
            if !(distinct && kinds.iter().any(|known| known.shape == kind.shape)) {
                kinds.push(kind);
            }
        }
        dice.shuffle(&mut kinds);
        kinds
    }
}

/// The shape that a colour has in evaluation only. Doubling is one to one modulo 9, so each shape is held once.
fn held_shape(colour: Colour) -> Shape {
    Shape::ALL[(2 * colour as usize + 3) % Shape::ALL.len()]
}

/// A cell of a 3 × 3 grid: column and row, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) col: usize,
    pub(crate) row: usize,
}

impl Cell {
    /// `top left`, `centre`, `bottom middle`.
    pub(crate) fn words(self) -> &'static str {
        const NAMES: [[&str; 3]; 3] = [
            ["top left", "top middle", "top right"],
            ["middle left", "centre", "middle right"],
            ["bottom left", "bottom middle", "bottom right"],
        ];
        NAMES[self.row.min(2)][self.col.min(2)]
    }
}

/// `a` or `an`.
pub(crate) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_colour_and_every_shape_is_held_once() {
        let shapes: HashSet<Shape> = Colour::ALL.iter().map(|&colour| held_shape(colour)).collect();
        assert_eq!((Colour::ALL.len(), shapes.len()), (Shape::ALL.len(), Shape::ALL.len()));
    }

    #[test]
    fn training_never_draws_a_held_kind_and_evaluation_always_has_one() {
        let mut dice = Dice::new(3, 0);
        for _ in 0..2000 {
            assert!(!Kind::draw_many(&mut dice, Split::Train, 4, true).iter().any(|kind| kind.is_held()));
            assert!(Kind::draw_many(&mut dice, Split::Held, 2, false).iter().any(|kind| kind.is_held()));
        }
    }
}
