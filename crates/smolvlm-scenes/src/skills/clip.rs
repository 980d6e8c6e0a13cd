//! Actors that move, appear, vanish and change colour, filmed.

use crate::dice::Dice;
use crate::draw::{Background, Canvas, Format, Rgb};
use crate::sample::Clip;
use crate::vocabulary::Kind;

/// Something that is filmed.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) kind: Kind,
    pub(super) paint: Rgb,
    pub(super) radius: f32,
    pub(super) degrees: f32,
    /// Where it is at some frames, in order; between them it moves evenly.
    pub(super) path: Vec<(usize, (f32, f32))>,
    /// The first frame that shows it.
    pub(super) from: usize,
    /// The first frame that shows it no more.
    pub(super) until: usize,
    /// From which frame on it has another colour.
    pub(super) repaint: Option<(usize, Rgb)>,
}

impl Actor {
    /// Still, seen all the time.
    pub(super) fn still(kind: Kind, paint: Rgb, radius: f32, degrees: f32, at: (f32, f32)) -> Self {
        Self { kind, paint, radius, degrees, path: vec![(0, at)], from: 0, until: usize::MAX, repaint: None }
    }

    fn at(&self, frame: usize) -> (f32, f32) {
        let after = self.path.iter().position(|&(time, _)| time >= frame);
        match after {
            None => self.path[self.path.len() - 1].1,
            Some(0) => self.path[0].1,
            Some(next) => {
                let ((start, from), (end, to)) = (self.path[next - 1], self.path[next]);
                let share = (frame - start) as f32 / (end - start) as f32;
                (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share)
            }
        }
    }

    fn draw(&self, canvas: &mut Canvas, frame: usize) {
        if (self.from..self.until).contains(&frame) {
            let paint = self.repaint.filter(|(from, _)| frame >= *from).map_or(self.paint, |(_, paint)| paint);
            canvas.shape(self.kind.shape, paint, self.at(frame), self.radius, self.degrees);
        }
    }
}

/// `count` frames of the actors, a second apart, sometimes two.
pub(super) fn film(dice: &mut Dice, actors: &[Actor], count: usize) -> Clip {
    let paints =
        actors.iter().flat_map(|actor| std::iter::once(actor.paint).chain(actor.repaint.map(|(_, paint)| paint)));
    let background = Background::draw(dice, paints);
    let step = if dice.chance(0.2) { 2.0 } else { 1.0 };
    let frame = |index| {
        let mut canvas = Canvas::new(Format::TILE, &background);
        actors.iter().for_each(|actor| actor.draw(&mut canvas, index));
        canvas.finish()
    };
    Clip { frames: (0..count).map(frame).collect(), times: (0..count).map(|index| index as f64 * step).collect() }
}
