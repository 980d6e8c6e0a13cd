//! Numbers in English words, as Python's `num2words` writes them.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const GROUPS: [(u64, &str); 6] = [
    (1_000_000_000_000_000_000, "quintillion"),
    (1_000_000_000_000_000, "quadrillion"),
    (1_000_000_000_000, "trillion"),
    (1_000_000_000, "billion"),
    (1_000_000, "million"),
    (1000, "thousand"),
];

/// `number` in words: `one hundred and twenty-eight`, `one thousand, two hundred and one`.
pub fn number_words(number: u64) -> String {
    let group = GROUPS.into_iter().chain([(100, "hundred")]).find(|(value, _)| number >= *value);
    let Some((value, name)) = group else { return below_hundred(number) };
    let head = format!("{} {name}", number_words(number / value));
    match number % value {
        0 => head,
        rest @ 1..100 => format!("{head} and {}", number_words(rest)),
        rest => format!("{head}, {}", number_words(rest)),
    }
}

fn below_hundred(number: u64) -> String {
    let (tens, ones) = (number as usize / 10, number as usize % 10);
    match (tens, ones) {
        (0..2, _) => SMALL[number as usize].to_owned(),
        (_, 0) => TENS[tens].to_owned(),
        _ => format!("{}-{}", TENS[tens], SMALL[ones]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tens_are_hyphenated_and_hundreds_take_and() {
        for (number, words) in [
            (0, "zero"),
            (1, "one"),
            (13, "thirteen"),
            (20, "twenty"),
            (64, "sixty-four"),
            (100, "one hundred"),
            (128, "one hundred and twenty-eight"),
            (999, "nine hundred and ninety-nine"),
        ] {
            assert_eq!(number_words(number), words);
        }
    }

    #[test]
    fn groups_are_joined_by_commas_and_a_small_rest_by_and() {
        for (number, words) in [
            (1000, "one thousand"),
            (1001, "one thousand and one"),
            (1100, "one thousand, one hundred"),
            (65_536, "sixty-five thousand, five hundred and thirty-six"),
            (1_001_001, "one million, one thousand and one"),
            (2_000_040, "two million and forty"),
        ] {
            assert_eq!(number_words(number), words);
        }
    }

    #[test]
    fn the_largest_number_has_words() {
        assert!(number_words(u64::MAX).starts_with("eighteen quintillion, four hundred and forty-six quadrillion"));
    }
}
