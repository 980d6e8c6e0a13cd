//! Pictures as upper half blocks: two pixels in each place of a letter.

use std::fmt::Write;

use smolvlm_scenes::Picture;

type Rgb = [u8; 3];

/// How a terminal is told a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    TrueColour,
    /// xterm's 256 colours: a cube of six levels each, and 24 greys.
    Indexed,
}

impl Palette {
    /// What follows `38;` or `48;`.
    fn code(self, [red, green, blue]: Rgb) -> String {
        match self {
            Self::TrueColour => format!("2;{red};{green};{blue}"),
            Self::Indexed => format!("5;{}", nearest([red, green, blue])),
        }
    }
}

/// A picture over so many columns, in lines that end in the terminal's own colours.
pub(super) fn draw(picture: &Picture, columns: usize, palette: Palette) -> String {
    let rows = (picture.height * columns).div_ceil(picture.width.max(1)).max(1);
    let small = shrunk(picture, columns, rows);
    let mut text = String::new();
    for row in (0..rows).step_by(2) {
        let mut last = (String::new(), String::new());
        for column in 0..columns {
            let upper = palette.code(small[row * columns + column]);
            if upper != last.0 {
                let _ = write!(text, "\x1b[38;{upper}m");
                last.0 = upper;
            }
            // A last line of an odd number has nothing below.
            let lower = small.get((row + 1) * columns + column).map(|&lower| palette.code(lower)).unwrap_or_default();
            if lower != last.1 {
                let _ = write!(text, "\x1b[48;{lower}m");
                last.1 = lower;
            }
            text.push('▀');
        }
        text += "\x1b[0m\n";
    }
    text
}

/// `[rows, columns]`, each the mean of the pixels that it stands for.
fn shrunk(picture: &Picture, columns: usize, rows: usize) -> Vec<Rgb> {
    let range = |at: usize, count: usize, extent: usize| {
        let from = at * extent / count;
        from..((at + 1) * extent / count).max(from + 1).min(extent)
    };
    let mean = |row: usize, column: usize| {
        let (mut sum, mut count) = ([0usize; 3], 0);
        for y in range(row, rows, picture.height) {
            for x in range(column, columns, picture.width) {
                let at = (y * picture.width + x) * 3;
                sum.iter_mut().zip(&picture.rgb[at..at + 3]).for_each(|(sum, level)| *sum += usize::from(*level));
                count += 1;
            }
        }
        sum.map(|sum| (sum / count.max(1)) as u8)
    };
    (0..rows).flat_map(|row| (0..columns).map(move |column| mean(row, column))).collect()
}

/// Number of the nearest of xterm's colours above the first 16, which people change.
fn nearest(colour: Rgb) -> usize {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let distance =
        |other: Rgb| -> i32 { colour.iter().zip(other).map(|(&a, b)| (i32::from(a) - i32::from(b)).pow(2)).sum() };
    let level = |value: u8| (0..6).min_by_key(|&at| LEVELS[at].abs_diff(value)).unwrap_or(0);
    let cube = colour.map(level);
    let grey = (usize::from(colour[0]) + usize::from(colour[1]) + usize::from(colour[2])) / 3;
    let step = (grey.saturating_sub(3) / 10).min(23);
    let grey_level = (8 + 10 * step) as u8;
    if distance([grey_level; 3]) < distance(cube.map(|at| LEVELS[at])) {
        232 + step
    } else {
        16 + 36 * cube[0] + 6 * cube[1] + cube[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_two_rows_of_pixels() {
        let picture =
            Picture { width: 2, height: 3, rgb: vec![9, 9, 9, 9, 9, 9, 0, 0, 255, 0, 0, 255, 1, 2, 3, 1, 2, 3] };
        let text = draw(&picture, 2, Palette::TrueColour);
        assert_eq!(text, "\x1b[38;2;9;9;9m\x1b[48;2;0;0;255m▀▀\x1b[0m\n\x1b[38;2;1;2;3m▀▀\x1b[0m\n");
    }

    #[test]
    fn colours_of_the_palette_are_found_again() {
        assert_eq!([nearest([255, 0, 0]), nearest([95, 135, 175]), nearest([8, 8, 8])], [196, 67, 232]);
        assert_eq!([nearest([238; 3]), nearest([255; 3]), nearest([128; 3])], [255, 231, 244]);
    }

    #[test]
    fn shrinking_takes_means() {
        let picture =
            Picture { width: 4, height: 1, rgb: [0, 10, 20, 40].iter().flat_map(|&level| [level; 3]).collect() };
        assert_eq!(shrunk(&picture, 2, 1), [[5; 3], [30; 3]]);
    }
}
