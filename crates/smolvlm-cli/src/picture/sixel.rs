//! Pictures as DEC's sixels: bands of six lines, a run of columns for each colour.

use std::fmt::Write;

use smolvlm_scenes::Picture;

/// Levels of a channel: 216 colours, fewer than the 256 that terminals have.
const LEVELS: usize = 6;
/// Lines of a band.
const BAND: usize = 6;

/// Device control string with the picture at twice its size, and a line break.
pub(super) fn encode(picture: &Picture) -> String {
    const SCALE: usize = 2;
    let (width, height) = (SCALE * picture.width, SCALE * picture.height);
    let colour = |x: usize, y: usize| {
        let at = (y / SCALE * picture.width + x / SCALE) * 3;
        picture.rgb[at..at + 3].iter().fold(0, |colour, &level| colour * LEVELS + step(level))
    };
    let mut text = format!("\x1bPq\"1;1;{width};{height}");
    for colour in 0..LEVELS.pow(3) {
        let percent = |step: usize| step * 100 / (LEVELS - 1);
        let (red, green, blue) = (colour / LEVELS.pow(2), colour / LEVELS % LEVELS, colour % LEVELS);
        let _ = write!(text, "#{colour};2;{};{};{}", percent(red), percent(green), percent(blue));
    }
    for top in (0..height).step_by(BAND) {
        let mut used: Vec<usize> = (top..(top + BAND).min(height))
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| colour(x, y))
            .collect();
        used.sort_unstable();
        used.dedup();
        for wanted in used {
            let bits = |x: usize| {
                let lines = (0..BAND).filter(|line| top + line < height && colour(x, top + line) == wanted);
                lines.fold(0u8, |bits, line| bits | 1 << line)
            };
            let _ = write!(text, "#{wanted}");
            runs(&mut text, (0..width).map(bits));
            text.push('$');
        }
        text.push('-');
    }
    text + "\x1b\\\n"
}

/// The nearest of the levels.
fn step(level: u8) -> usize {
    (usize::from(level) * (LEVELS - 1) + 127) / 255
}

/// Columns, each of six bits; equal neighbours as `!COUNT`.
fn runs(text: &mut String, columns: impl Iterator<Item = u8>) {
    let mut columns = columns.peekable();
    while let Some(bits) = columns.next() {
        let mut count = 1;
        while columns.next_if_eq(&bits).is_some() {
            count += 1;
        }
        let letter = char::from(bits + 63);
        if count > 3 {
            let _ = write!(text, "!{count}{letter}");
        } else {
            (0..count).for_each(|_| text.push(letter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_has_a_run_for_each_colour() {
        let picture = Picture { width: 2, height: 3, rgb: [[255; 3], [0; 3]].concat().repeat(3) };
        let text = encode(&picture);
        let (head, body) = text.split_at(text.rfind("#215;2;100;100;100").unwrap() + 18);
        assert!(head.starts_with("\x1bPq\"1;1;4;6#0;2;0;0;0#1;2;0;0;20"));
        // Black in the right half, then white in the left one; all six lines of both.
        assert_eq!(body, "#0??~~$#215~~??$-\x1b\\\n");
    }
}
