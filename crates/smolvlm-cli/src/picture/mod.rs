//! Pictures in a terminal.

mod blocks;
mod inline;
mod sixel;

use smolvlm::Result;
use smolvlm_scenes::Picture;

use crate::args::PicturesArg;

/// How a terminal is given a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Kitty,
    Iterm,
    Sixel,
    /// Half blocks in 24-bit colour.
    TrueColour,
    /// Half blocks in 256 colours.
    Indexed,
    None,
}

/// Columns of a terminal that does not say.
const COLUMNS: usize = 80;
/// Most columns of a picture.
const MOST_COLUMNS: usize = 72;
/// Pixels that share a column of half blocks: a tile of 128 pixels becomes 43 columns and 22 lines.
const PIXELS_PER_COLUMN: usize = 3;

impl Protocol {
    /// What was asked for; else what standard output understands.
    pub(crate) fn choose(asked: PicturesArg) -> Self {
        use std::io::IsTerminal;
        match asked {
            PicturesArg::Auto => {
                Self::detect(std::io::stdout().is_terminal(), |name| std::env::var(name).unwrap_or_default())
            }
            PicturesArg::Kitty => Self::Kitty,
            PicturesArg::Iterm => Self::Iterm,
            PicturesArg::Sixel => Self::Sixel,
            PicturesArg::Blocks => Self::TrueColour,
            PicturesArg::Blocks256 => Self::Indexed,
            PicturesArg::None => Self::None,
        }
    }

    /// What a terminal says of itself in the environment; a variable that is not set reads as empty.
    fn detect(is_terminal: bool, variable: impl Fn(&str) -> String) -> Self {
        let (term, program) = (variable("TERM"), variable("TERM_PROGRAM"));
        let set = |name: &str| !variable(name).is_empty();
        if !is_terminal || set("NO_COLOR") || term == "dumb" {
            return Self::None;
        }
        // Multiplexers pass text on, and no pictures; their variables say nothing of the terminal around them.
        let multiplexed = set("TMUX") || set("STY") || term.starts_with("screen") || term.starts_with("tmux");
        if !multiplexed {
            if set("KITTY_WINDOW_ID") || term == "xterm-kitty" || term == "xterm-ghostty" || program == "ghostty" {
                return Self::Kitty;
            }
            if ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) || variable("LC_TERMINAL") == "iTerm2" {
                return Self::Iterm;
            }
            if term.starts_with("foot") || term.starts_with("mlterm") || term == "contour" || term.contains("sixel") {
                return Self::Sixel;
            }
        }
        match variable("COLORTERM").as_str() {
            "truecolor" | "24bit" => Self::TrueColour,
            _ if term.contains("direct") => Self::TrueColour,
            _ if term.contains("256") => Self::Indexed,
            _ => Self::None,
        }
    }

    /// Whether anything is shown in colour.
    pub(crate) fn has_colour(self) -> bool {
        self != Self::None
    }

    /// What shows a picture on lines of its own; empty where none can be shown.
    ///
    /// # Errors
    /// When the picture cannot be encoded.
    pub(crate) fn show(self, picture: &Picture) -> Result<String> {
        let columns = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0));
        let columns = columns.min(MOST_COLUMNS).min(picture.width.div_ceil(PIXELS_PER_COLUMN)).max(1);
        match self {
            Self::Kitty => inline::kitty(picture, columns),
            Self::Iterm => inline::iterm(picture, columns),
            Self::Sixel => Ok(sixel::encode(picture)),
            Self::TrueColour => Ok(blocks::draw(picture, columns, blocks::Palette::TrueColour)),
            Self::Indexed => Ok(blocks::draw(picture, columns, blocks::Palette::Indexed)),
            Self::None => Ok(String::new()),
        }
    }
}

/// Pictures side by side, in rows of at most `across`; all cells have the size of the largest.
pub(crate) fn side_by_side(pictures: &[&Picture], across: usize) -> Picture {
    const GAP: usize = 4;
    let cell = |size: fn(&Picture) -> usize| pictures.iter().map(|picture| size(picture)).max().unwrap_or(1);
    let (width, height) = (cell(|picture| picture.width), cell(|picture| picture.height));
    let across = across.min(pictures.len()).max(1);
    let down = pictures.len().div_ceil(across).max(1);
    let sheet_width = across * (width + GAP) - GAP;
    let sheet_height = down * (height + GAP) - GAP;
    let mut sheet = Picture { width: sheet_width, height: sheet_height, rgb: vec![0; 3 * sheet_width * sheet_height] };
    for (place, picture) in pictures.iter().enumerate() {
        let (left, top) = (place % across * (width + GAP), place / across * (height + GAP));
        for (y, line) in picture.rgb.chunks_exact(3 * picture.width.max(1)).enumerate() {
            let at = ((top + y) * sheet_width + left) * 3;
            sheet.rgb[at..at + line.len()].copy_from_slice(line);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Protocol {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        Protocol::detect(true, |name| value(name).to_owned())
    }

    #[test]
    fn a_terminal_gets_what_it_says_it_understands() {
        for (variables, expected) in [
            (&[("TERM", "xterm-kitty")][..], Protocol::Kitty),
            (&[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1")], Protocol::Kitty),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Protocol::Iterm),
            (&[("TERM", "foot")], Protocol::Sixel),
            (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Protocol::TrueColour),
            (&[("TERM", "xterm-256color")], Protocol::Indexed),
            (&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")], Protocol::Indexed),
            (&[("TERM", "vt100")], Protocol::None),
            (&[("TERM", "dumb"), ("COLORTERM", "truecolor")], Protocol::None),
            (&[("TERM", "xterm-kitty"), ("NO_COLOR", "1")], Protocol::None),
        ] {
            assert_eq!(detect(variables), expected, "{variables:?}");
        }
        assert_eq!(Protocol::detect(false, |_| "xterm-kitty".to_owned()), Protocol::None);
    }

    #[test]
    fn pictures_stand_in_rows() {
        let grey = |width, height, level| Picture { width, height, rgb: vec![level; 3 * width * height] };
        let (a, b, c) = (grey(2, 3, 10), grey(4, 2, 20), grey(1, 1, 30));
        let sheet = side_by_side(&[&a, &b, &c], 2);
        assert_eq!((sheet.width, sheet.height), (4 + 4 + 4, 3 + 4 + 3));
        let level = |x: usize, y: usize| sheet.rgb[(y * sheet.width + x) * 3];
        assert_eq!([level(0, 0), level(2, 0), level(8, 0), level(11, 1), level(0, 7)], [10, 0, 20, 20, 30]);
    }
}
