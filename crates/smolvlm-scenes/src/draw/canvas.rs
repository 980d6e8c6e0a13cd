//! A picture in the making.

use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform};

use super::{Background, Rgb, shapes};
use crate::dice::Dice;
use crate::held::Split;
use crate::sample::Picture;
use crate::vocabulary::Shape;

/// The longer side of a canvas, in its own units. Small pictures have a pixel a unit.
const LONG_SIDE: f32 = 128.0;

/// The size of a picture: pixels across and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format(pub(crate) usize, pub(crate) usize);

impl Format {
    /// A tile of the demonstration model.
    pub(crate) const TILE: Self = Self(128, 128);
    const TRAINED: &'static [Self] = &[Self(160, 120), Self(120, 160), Self(144, 144), Self(192, 192), Self(192, 144)];
    const HELD: &'static [Self] = &[Self(176, 144), Self(136, 168), Self(224, 224)];

    /// Mostly one tile; for evaluation every second one is a format that is held out.
    pub(crate) fn draw(dice: &mut Dice, split: Split) -> Self {
        match split {
            Split::Train if dice.chance(0.3) => *dice.pick(Self::TRAINED),
            Split::Held if dice.coin() => *dice.pick(Self::HELD),
            _ => Self::TILE,
        }
    }

    /// Pixels a unit.
    fn scale(self) -> f32 {
        self.0.max(self.1) as f32 / LONG_SIDE
    }

    /// Units across and down.
    pub(crate) fn units(self) -> (f32, f32) {
        (self.0 as f32 / self.scale(), self.1 as f32 / self.scale())
    }
}

/// Draws in units of which the longer side has 128.
pub(crate) struct Canvas {
    pixmap: Pixmap,
    scale: f32,
}

impl Canvas {
    pub(crate) fn new(format: Format, background: &Background) -> Self {
        // A format is a constant of this crate of at most some thousand pixels a side.
        #[allow(clippy::unwrap_used, reason = "sizes are above 0 and small")]
        let mut pixmap = Pixmap::new(format.0 as u32, format.1 as u32).unwrap();
        background.paint(pixmap.data_mut(), format.0, format.1);
        Self { pixmap, scale: format.scale() }
    }

    /// A shape of the given radius around a point, turned by `degrees`.
    pub(crate) fn shape(&mut self, shape: Shape, paint: Rgb, (x, y): (f32, f32), radius: f32, degrees: f32) {
        let place = Transform::from_translate(x, y).pre_scale(radius, radius).pre_rotate(degrees);
        self.fill(shapes::path(shape), paint, place);
    }

    /// A rectangle by its left, top, width and height; nothing for one that is empty.
    pub(crate) fn rectangle(&mut self, paint: Rgb, [left, top, width, height]: [f32; 4]) {
        if let Some(rectangle) = Rect::from_xywh(left, top, width, height) {
            self.fill(&PathBuilder::from_rect(rectangle), paint, Transform::identity());
        }
    }

    /// A closed outline of points.
    pub(crate) fn polygon(&mut self, paint: Rgb, points: &[(f32, f32)]) {
        if let Some(path) = shapes::polygon(points) {
            self.fill(&path, paint, Transform::identity());
        }
    }

    /// Straight strokes from point to point.
    pub(crate) fn line(&mut self, paint: Rgb, points: &[(f32, f32)], width: f32) {
        if let Some(path) = shapes::open_line(points) {
            let stroke = Stroke { width, ..Stroke::default() };
            let place = Transform::from_scale(self.scale, self.scale);
            self.pixmap.stroke_path(&path, &solid(paint), &stroke, place, None);
        }
    }

    /// A path in units, under `place`.
    pub(super) fn fill(&mut self, path: &Path, paint: Rgb, place: Transform) {
        let place = place.post_scale(self.scale, self.scale);
        self.pixmap.fill_path(path, &solid(paint), FillRule::Winding, place, None);
    }

    /// The picture.
    pub(crate) fn finish(self) -> Picture {
        let (width, height) = (self.pixmap.width() as usize, self.pixmap.height() as usize);
        let mut rgb = vec![0; 3 * width * height];
        for (to, [red, green, blue, _]) in rgb.as_chunks_mut().0.iter_mut().zip(self.pixmap.data().as_chunks().0) {
            *to = [*red, *green, *blue];
        }
        Picture { width, height, rgb }
    }
}

fn solid([red, green, blue]: Rgb) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(Color::from_rgba8(red, green, blue, 255));
    paint
}
