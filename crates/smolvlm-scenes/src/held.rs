//! What is kept out of training, so that evaluation asks for what was never shown.
//!
//! | of | kept out |
//! |---|---|
//! | colours and shapes | nine pairs of 81, one of each colour and shape (`Kind::is_held`) |
//! | places | one set in eight of the sets of two or more occupied cells |
//! | formats of pictures | three of nine |
//! | words, numbers | one in ten of each length; numbers of one digit are all trained on |
//! | fonts | four of sixteen |
//! | pie charts | nine pairs of colours: the largest slice and another |
//!
//! Evaluation samples of scenes have a held pair and a held set of cells, texts are held words in held fonts, charts have held
//! words and fonts, or a held pair of slices.

use crate::vocabulary::Colour;

/// Training or evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from: nothing that is held out occurs.
    Train,
    /// To measure with: every sample has something that is held out.
    Held,
}

impl Split {
    /// Its name in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Held => "held",
        }
    }

    /// Whether something may be used: what is held in evaluation, the rest in training.
    pub(crate) fn takes(self, is_held: bool) -> bool {
        (self == Self::Held) == is_held
    }
}

/// Whether a set of occupied cells, a bit for each, is held out. A single cell is not: an object may be anywhere.
pub(crate) fn layout(cells: u32) -> bool {
    cells.count_ones() > 1 && mix(u64::from(cells) ^ 0x6c61_796f_7574).is_multiple_of(8)
}

/// Whether a word, in capitals, is held out.
pub(crate) fn word(word: &str) -> bool {
    let code = word.bytes().fold(1, |code: u64, byte| code * 32 + u64::from(byte & 31));
    mix(code).is_multiple_of(10)
}

/// Whether a number is held out.
pub(crate) fn number(number: usize) -> bool {
    number > 9 && mix(number as u64 ^ 0x6e75_6d62).is_multiple_of(10)
}

/// The slice that a pie chart whose largest slice has this colour has in evaluation only.
pub(crate) fn pie_neighbour(largest: Colour) -> Colour {
    // 4c + 1 is one to one modulo 9 and never c itself but for one colour, which takes its neighbour's.
    let at = largest as usize;
    let other = (4 * at + 1) % Colour::ALL.len();
    Colour::ALL[if other == at { (at + 1) % Colour::ALL.len() } else { other }]
}

/// Scatters the bits of a number (the finaliser of SplitMix64).
fn mix(code: u64) -> u64 {
    let code = (code ^ (code >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let code = (code ^ (code >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    code ^ (code >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_stated_shares_are_held() {
        let layouts = (0..1u32 << 16).filter(|&cells| layout(cells)).count();
        assert!((7700..8700).contains(&layouts), "{layouts} of 65,536");
        let numbers = (10..10_000).filter(|&value| number(value)).count();
        assert!((850..1150).contains(&numbers), "{numbers} of 9,990");
    }

    #[test]
    fn a_pies_neighbour_is_another_colour() {
        assert!(Colour::ALL.iter().all(|&colour| pie_neighbour(colour) != colour));
    }
}
