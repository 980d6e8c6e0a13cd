//! How a reply is scored.
//!
//! A reply is put in lower case and cut into words at everything that is not a letter, a digit, or a colon between digits;
//! spellings are made one (`color`, `center`, `crosses`, `three` → `colour`, `centre`, `cross`, `3`). Of these words those count
//! that belong to the class of answers, so "The large star is red." counts as `red` where a colour is asked. A reply is right
//! when the words that count end with the expected ones and are no more than in the reference answer: naming several
//! colours does not help.

/// The words that count, by what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Yes or no.
    YesNo,
    /// A colour.
    Colour,
    /// A shape.
    Shape,
    /// Colours and shapes.
    Object,
    /// Small or large.
    Size,
    /// Left, right, above, below, up, down.
    Side,
    /// First, second, third.
    Ordinal,
    /// What two pictures differ in: colour, shape, place, nothing.
    Feature,
    /// Rises or falls.
    Trend,
    /// A whole number.
    Number,
    /// A time as MM:SS.
    Time,
    /// Text that was read: every word but those of the sentence around it.
    Text,
    /// A caption: objects, places, what happens, times.
    Scene,
}

const COLOURS: &[&str] = &["red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white"];
const SHAPES: &[&str] = &["circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon"];
const SIDES: &[&str] = &["left", "right", "above", "below", "up", "down"];
const HAPPENINGS: &[&str] =
    &["top", "middle", "bottom", "centre", "appear", "vanish", "turn", "move", "collide", "nothing", "still"];
/// What stands around text in the reference answers. None of these is ever drawn as a word.
pub(crate) const AROUND_TEXT: &[&str] =
    &["it", "says", "the", "word", "is", "text", "reads", "number", "bar", "label", "highest", "lowest", "and"];

impl Class {
    /// The words of `text` that count, in order.
    pub fn extract(self, text: &str) -> Vec<String> {
        words(text, self == Self::Text).into_iter().filter(|word| self.counts(word)).collect()
    }

    fn counts(self, word: &str) -> bool {
        let is_number = || word.bytes().all(|byte| byte.is_ascii_digit());
        let is_time = || word.contains(':');
        match self {
            Self::YesNo => ["yes", "no"].contains(&word),
            Self::Colour => COLOURS.contains(&word),
            Self::Shape => SHAPES.contains(&word),
            Self::Object => COLOURS.contains(&word) || SHAPES.contains(&word),
            Self::Size => ["small", "large"].contains(&word),
            Self::Side => SIDES.contains(&word),
            Self::Ordinal => ["first", "second", "third"].contains(&word),
            Self::Feature => ["colour", "shape", "place", "nothing"].contains(&word),
            Self::Trend => ["rises", "falls"].contains(&word),
            Self::Number => is_number(),
            Self::Time => is_time(),
            Self::Text => !AROUND_TEXT.contains(&word),
            Self::Scene => [COLOURS, SHAPES, SIDES, HAPPENINGS].iter().any(|list| list.contains(&word)) || is_time(),
        }
    }
}

/// The expected answer of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which words count.
    pub class: Class,
    /// The words with which a right reply ends, among those that count.
    pub key: Vec<String>,
    /// How many words of the class a right reply has at most.
    pub most: usize,
}

impl Check {
    /// Expects `key`, as the reference `answer` has it.
    pub(crate) fn new(class: Class, key: &str, answer: &str) -> Self {
        let key = class.extract(key);
        Self { class, most: class.extract(answer).len().max(key.len()), key }
    }

    /// Whether `reply` is right.
    pub fn accepts(&self, reply: &str) -> bool {
        let found = self.class.extract(reply);
        !self.key.is_empty() && found.len() <= self.most && found.ends_with(&self.key)
    }
}

/// The words of a text, in lower case; in one spelling unless `verbatim`.
fn words(text: &str, verbatim: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let is_part = |character: char| character.is_alphanumeric() || character == ':';
    let pieces = lower.split(|character: char| !is_part(character)).flat_map(|piece| match time(piece) {
        Some(time) => vec![time],
        None => piece.split(':').map(str::to_owned).collect(),
    });
    let pieces = pieces.filter(|word| !word.is_empty());
    if verbatim { pieces.collect() } else { pieces.map(one_spelling).collect() }
}

/// A time as minutes and seconds without leading zeros, so that `0:04` and `00:04` are one; nothing for other words.
fn time(piece: &str) -> Option<String> {
    let (minutes, seconds) = piece.split_once(':')?;
    let number = |part: &str| (part.len() <= 4).then(|| part.parse::<u32>().ok()).flatten();
    Some(format!("{}:{:02}", number(minutes)?, number(seconds)?))
}

fn one_spelling(word: String) -> String {
    const NUMBERS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    if let Some(number) = NUMBERS.iter().position(|&name| name == word) {
        return number.to_string();
    }
    let same = match word.as_str() {
        "color" => "colour",
        "center" => "centre",
        "big" | "larger" | "bigger" => "large",
        "little" | "smaller" => "small",
        "position" => "place",
        "none" => "0",
        "upwards" | "upward" => "up",
        "downwards" | "downward" => "down",
        "disappears" | "disappear" | "vanishes" => "vanish",
        "appears" => "appear",
        "turns" | "becomes" => "turn",
        "moves" => "move",
        "collides" => "collide",
        "rise" | "rising" => "rises",
        "fall" | "falling" => "falls",
        other => {
            let single = other.strip_suffix("es").filter(|stem| SHAPES.contains(stem));
            let single = single.or_else(|| other.strip_suffix('s').filter(|stem| SHAPES.contains(stem)));
            match other.trim_start_matches('0') {
                "" if !other.is_empty() => "0",
                digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits,
                _ => single.unwrap_or(other),
            }
        }
    };
    same.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(class: Class, key: &str, answer: &str, reply: &str) -> bool {
        Check::new(class, key, answer).accepts(reply)
    }

    #[test]
    fn a_sentence_and_a_word_are_the_same_answer() {
        for reply in ["red", "Red.", "The star is red.", " it is RED "] {
            assert!(accepts(Class::Colour, "red", "red", reply), "{reply}");
        }
        for reply in ["", "blue", "redder", "red or blue", "blue or red", "the star"] {
            assert!(!accepts(Class::Colour, "red", "red", reply), "{reply}");
        }
    }

    #[test]
    fn numbers_may_be_words() {
        assert!(accepts(Class::Number, "3", "3", "There are three stars."));
        assert!(accepts(Class::Number, "0", "0", "none"));
        assert!(accepts(Class::Number, "1", "There is 1 star.", "one"));
        assert!(!accepts(Class::Number, "3", "3", "There are 13 stars."));
        assert!(!accepts(Class::Number, "3", "3", "2 or 3"));
    }

    #[test]
    fn times_are_compared_as_times() {
        assert!(accepts(Class::Time, "00:04", "00:04", "It appears at 0:04."));
        assert!(accepts(Class::Time, "01:10", "01:10", "1:10"));
        for wrong in ["00:40", "04:00", "4", "00:14"] {
            assert!(!accepts(Class::Time, "00:04", "00:04", wrong), "{wrong}");
        }
    }

    #[test]
    fn text_is_the_whole_of_what_was_read() {
        assert!(accepts(Class::Text, "PLUM", "The word is PLUM.", "plum"));
        assert!(accepts(Class::Text, "PLUM", "PLUM", "It says \"PLUM\"."));
        for wrong in ["PLUMB", "PLU M", "PL", "RED PLUM"] {
            assert!(!accepts(Class::Text, "PLUM", "The word is PLUM.", wrong), "{wrong}");
        }
        assert!(accepts(Class::Text, "ONE", "ONE", "one") && !accepts(Class::Text, "ONE", "ONE", "1"));
    }

    #[test]
    fn captions_must_name_everything_in_order() {
        let answer = "A red star at the top left and a blue ring in the centre.";
        let key = "red star top left, blue ring centre";
        assert!(accepts(Class::Scene, key, answer, answer) && accepts(Class::Scene, key, answer, key));
        assert!(!accepts(Class::Scene, key, answer, "blue ring centre, red star top left"));
        assert!(!accepts(Class::Scene, key, answer, "red star top left"));
        assert!(!accepts(Class::Scene, key, answer, &format!("green moon top right, {key}")));
    }

    #[test]
    fn an_empty_expectation_is_never_met() {
        assert!(!Check { class: Class::Colour, key: Vec::new(), most: 3 }.accepts("nothing of it"));
    }
}
