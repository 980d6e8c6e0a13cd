//! Reply text as it comes: nothing of a stop string is ever shown.

/// Text that may be shown, and whether the reply ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextPiece {
    /// Text to show now; empty while a stop string may be under way.
    pub text: String,
    /// A stop string was completed.
    pub stopped: bool,
}

/// Holds back text that may turn out to be the beginning of a stop string.
#[derive(Debug, Clone, Default)]
pub struct TextFilter {
    stops: Vec<String>,
    held: String,
}

impl TextFilter {
    /// A filter for these stop strings, none of them empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds text; returns what may be shown.
    pub fn push(&mut self, text: &str) -> TextPiece {
        self.held.push_str(text);
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..end].to_owned();
            self.held.clear();
            return TextPiece { text, stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        TextPiece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, at the end of the reply.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(i, _)| i).filter(|i| *i > 0).rev();
    starts.into_iter().find(|length| text.ends_with(&stop[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut filter = TextFilter::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = String::new();
        for piece in pieces {
            let piece = filter.push(piece);
            shown += &piece.text;
            if piece.stopped {
                return (shown, true);
            }
        }
        (shown + &filter.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_not_shown() {
        assert_eq!(run(&["\nUser:"], &["Hi", "\nUs", "er: ", "x"]), ("Hi".to_owned(), true));
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_shown() {
        assert_eq!(run(&["abc", "é!"], &["xab", "d é", "?", "ab"]), ("xabd é?ab".to_owned(), false));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        assert_eq!(run(&["two", "one"], &["a one two"]), ("a ".to_owned(), true));
    }
}
