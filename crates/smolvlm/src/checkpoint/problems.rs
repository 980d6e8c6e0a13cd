//! Many faults, one error.

use std::cell::RefCell;

use crate::{Error, Result};

/// How many faults an error spells out; the rest are counted.
const SHOWN: usize = 20;

/// Longest piece of a file's own text that a message repeats.
const QUOTED: usize = 160;

/// Collects faults so that a user sees all of them at once. Keeps at most [`SHOWN`] texts however many there are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    shown: RefCell<Vec<String>>,
    hidden: RefCell<usize>,
}

impl Problems {
    /// Notes one fault.
    pub(super) fn add(&self, problem: impl Into<String>) {
        let mut shown = self.shown.borrow_mut();
        if shown.len() < SHOWN {
            shown.push(problem.into());
        } else {
            *self.hidden.borrow_mut() += 1;
        }
    }

    /// Nothing when there was no fault; else one checkpoint error, headed by `what`.
    pub(super) fn into_result(self, what: &str) -> Result<()> {
        let (shown, hidden) = (self.shown.into_inner(), self.hidden.into_inner());
        match shown.as_slice() {
            [] => Ok(()),
            [only] => Err(Error::checkpoint(format!("{what}: {only}"))),
            several => {
                let mut message = format!("{what}: {} problems\n  - {}", shown.len() + hidden, several.join("\n  - "));
                if hidden > 0 {
                    message.push_str(&format!("\n  … and {hidden} more"));
                }
                Err(Error::checkpoint(message))
            }
        }
    }
}

/// Text from a file, fit for a message: control characters escaped, long text cut.
pub(super) fn quoted(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars().take(QUOTED) {
        match character {
            '"' | '\'' => short.push(character),
            _ => short.extend(character.escape_debug()),
        }
    }
    if text.chars().nth(QUOTED).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let problems = Problems::default();
        for i in 0..25 {
            problems.add(format!("fault {i}"));
        }
        let message = problems.into_result("weights").unwrap_err().to_string();
        assert!(message.starts_with("weights: 25 problems\n  - fault 0\n"), "{message}");
        assert!(message.contains("fault 19") && !message.contains("fault 20"), "{message}");
        assert!(message.ends_with("… and 5 more"), "{message}");
    }

    #[test]
    fn text_from_a_file_cannot_flood_or_disturb_a_message() {
        assert_eq!(quoted("\"a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n");
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), QUOTED + 1);
    }
}
