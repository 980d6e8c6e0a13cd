//! What lies behind everything.

use super::{Rgb, distance};
use crate::dice::Dice;

/// Calm colours, from light to dark.
const TONES: &[Rgb] = &[
    [252, 252, 250],
    [236, 236, 232],
    [214, 216, 220],
    [250, 242, 220],
    [222, 236, 248],
    [226, 242, 222],
    [168, 172, 178],
    [150, 160, 150],
    [176, 160, 140],
    [96, 100, 106],
    [66, 76, 96],
    [52, 60, 50],
    [40, 38, 48],
    [24, 26, 34],
];
/// Least distance between a background and what is drawn on it: half that between the two nearest paints.
const CONTRAST: f32 = 70.0;

/// A plain tone, or a gradient between two, with or without fine grain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Background {
    from: Rgb,
    to: Rgb,
    /// Whether the gradient runs down rather than across.
    down: bool,
    /// Levels by which single pixels differ.
    grain: u8,
}

impl Background {
    /// One on which all of `paints` show.
    pub(crate) fn draw(dice: &mut Dice, paints: impl Iterator<Item = Rgb> + Clone) -> Self {
        let shows = |tone: Rgb| paints.clone().all(|paint| distance(tone, paint) >= CONTRAST);
        let fit: Vec<Rgb> = TONES.iter().copied().filter(|&tone| shows(tone)).collect();
        let from = if fit.is_empty() { TONES[6] } else { *dice.pick(&fit) };
        let shift = dice.between(-26.0, 26.0);
        let other = from.map(|level| (f32::from(level) + shift).clamp(0.0, 255.0) as u8);
        let to = if dice.chance(0.3) && shows(other) { other } else { from };
        let grain = if dice.chance(0.2) { dice.whole(2, 6) as u8 } else { 0 };
        Self { from, to, down: dice.coin(), grain }
    }

    /// One plain tone.
    pub(crate) fn plain(tone: Rgb) -> Self {
        Self { from: tone, to: tone, down: false, grain: 0 }
    }

    /// The tone at the start; the others are near.
    pub(crate) fn tone(&self) -> Rgb {
        self.from
    }

    /// Paints `[height, width, 4]`, every pixel.
    pub(super) fn paint(&self, rgba: &mut [u8], width: usize, height: usize) {
        if self.from == self.to && self.grain == 0 {
            let [red, green, blue] = self.from;
            rgba.as_chunks_mut().0.fill([red, green, blue, 255]);
            return;
        }
        let steps = if self.down { height } else { width };
        let tones: Vec<Rgb> = (0..steps).map(|step| self.between(step, steps)).collect();
        let mut noise = 0x9e37_79b9u32;
        for (y, row) in rgba.chunks_exact_mut(4 * width).enumerate() {
            for (x, pixel) in row.as_chunks_mut().0.iter_mut().enumerate() {
                let [red, green, blue] = tones[if self.down { y } else { x }];
                *pixel = [red, green, blue, 255];
                if self.grain == 0 {
                    continue;
                }
                // A linear congruential step (Numerical Recipes); its top bits are even enough for grain.
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let shift = ((u64::from(noise) * (2 * u64::from(self.grain) + 1)) >> 32) as i16 - i16::from(self.grain);
                for level in &mut pixel[..3] {
                    *level = (i16::from(*level) + shift).clamp(0, 255) as u8;
                }
            }
        }
    }

    fn between(&self, step: usize, steps: usize) -> Rgb {
        let share = step as f32 / steps.max(2) as f32;
        std::array::from_fn(|channel| {
            let (from, to) = (f32::from(self.from[channel]), f32::from(self.to[channel]));
            (from + (to - from) * share).round() as u8
        })
    }
}
