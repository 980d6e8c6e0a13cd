//! Sight without a model: what is in a picture, from its pixels alone.

use std::collections::VecDeque;
use std::sync::LazyLock;

use smolvlm_scenes::Picture;

const COLOURS: [(&str, [f32; 3]); 9] = [
    ("red", [220.0, 30.0, 35.0]),
    ("orange", [245.0, 135.0, 20.0]),
    ("yellow", [245.0, 220.0, 40.0]),
    ("green", [30.0, 150.0, 60.0]),
    ("blue", [35.0, 85.0, 215.0]),
    ("purple", [125.0, 45.0, 170.0]),
    ("pink", [250.0, 140.0, 190.0]),
    ("black", [20.0, 20.0, 22.0]),
    ("white", [250.0, 250.0, 248.0]),
];
/// Least distance from the background of what is an object: half of what the generator promises.
const FOREGROUND: f32 = 35.0;
/// Pixels below which a patch is no object.
const LEAST_AREA: usize = 14;

/// Something in a picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) colour: &'static str,
    pub(crate) shape: &'static str,
    /// Middle of its bounding box, in parts of the picture.
    pub(crate) at: (f32, f32),
    /// Width and height of its bounding box, in pixels.
    pub(crate) extent: (f32, f32),
    /// In pixels.
    pub(crate) area: usize,
}

impl Seen {
    /// Column and row of a grid of `cols` × `rows`.
    pub(crate) fn cell(&self, cols: usize, rows: usize) -> (usize, usize) {
        ((self.at.0 * cols as f32) as usize, (self.at.1 * rows as f32) as usize)
    }
}

/// Everything in a picture, in any order.
pub(crate) fn see(picture: &Picture) -> Vec<Seen> {
    patches(picture).into_iter().map(|patch| recognise(picture, &patch)).collect()
}

/// Connected pixels that are not background.
pub(crate) fn patches(picture: &Picture) -> Vec<Vec<(usize, usize)>> {
    let (width, height) = (picture.width, picture.height);
    let mut open: Vec<bool> = (0..width * height).map(|at| is_foreground(picture, at % width, at / width)).collect();
    let mut patches = Vec::new();
    for start in 0..open.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let (mut patch, mut queue) = (Vec::new(), VecDeque::from([start]));
        while let Some(at) = queue.pop_front() {
            let (x, y) = (at % width, at / width);
            patch.push((x, y));
            for (x, y) in neighbours(x, y).filter(|&(x, y)| x < width && y < height) {
                if std::mem::take(&mut open[y * width + x]) {
                    queue.push_back(y * width + x);
                }
            }
        }
        if patch.len() >= LEAST_AREA {
            patches.push(patch);
        }
    }
    patches
}

fn neighbours(x: usize, y: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..9).filter(|&at| at != 4).map(move |at| ((x + at % 3).wrapping_sub(1), (y + at / 3).wrapping_sub(1)))
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [f32; 3] {
    let at = (y * picture.width + x) * 3;
    std::array::from_fn(|channel| f32::from(picture.rgb[at + channel]))
}

/// The background is a plane between the corners, where no object lies.
fn is_foreground(picture: &Picture, x: usize, y: usize) -> bool {
    let (right, bottom) = (picture.width - 1, picture.height - 1);
    let (across, down) = (x as f32 / right as f32, y as f32 / bottom as f32);
    let corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)].map(|(x, y)| pixel(picture, x, y));
    let shares = [(1.0 - across) * (1.0 - down), across * (1.0 - down), (1.0 - across) * down, across * down];
    let ground: [f32; 3] =
        std::array::from_fn(|channel| corners.iter().zip(shares).map(|(corner, share)| corner[channel] * share).sum());
    distance(pixel(picture, x, y), ground) > FOREGROUND
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

fn recognise(picture: &Picture, patch: &[(usize, usize)]) -> Seen {
    let bounds = patch.iter().fold([usize::MAX, usize::MAX, 0, 0], |[left, top, right, bottom], &(x, y)| {
        [left.min(x), top.min(y), right.max(x), bottom.max(y)]
    });
    let [left, top, right, bottom] = bounds;
    let (width, height) = (right - left + 1, bottom - top + 1);
    let mut mask = vec![false; width * height];
    patch.iter().for_each(|&(x, y)| mask[(y - top) * width + x - left] = true);
    let inside = |x: usize, y: usize| {
        neighbours(x, y).all(|(x, y)| {
            (left..=right).contains(&x) && (top..=bottom).contains(&y) && mask[(y - top) * width + x - left]
        })
    };
    let inner: Vec<_> = patch.iter().copied().filter(|&(x, y)| inside(x, y)).collect();
    let counted = if inner.len() < 4 { patch } else { &inner };
    let mut mean = [0.0; 3];
    for &(x, y) in counted {
        pixel(picture, x, y).iter().zip(&mut mean).for_each(|(level, sum)| *sum += level / counted.len() as f32);
    }
    let nearest = COLOURS.iter().min_by(|a, b| distance(a.1, mean).total_cmp(&distance(b.1, mean)));
    Seen {
        colour: nearest.expect("nine colours").0,
        shape: shape(&mask, width, height),
        at: (
            (left + right + 1) as f32 / 2.0 / picture.width as f32,
            (top + bottom + 1) as f32 / 2.0 / picture.height as f32,
        ),
        extent: (width as f32, height as f32),
        area: patch.len(),
    }
}

type Inside = fn(f32, f32) -> bool;

/// Shapes by formula, around the origin, y down.
const SHAPES: [(&str, Inside); 9] = [
    ("circle", |x, y| x * x + y * y < 0.9),
    ("square", |x, y| x.abs() < 0.8 && y.abs() < 0.8),
    ("triangle", |x, y| y < 0.75 && x.abs() < (y + 1.0) * 0.56),
    ("star", |x, y| {
        // Distance along one of five equal sectors, between the edges from a tip to the notches beside it.
        let (radius, angle) = (x.hypot(y), x.atan2(-y));
        let fifth = std::f32::consts::TAU / 5.0;
        let off = (angle.rem_euclid(fifth) - fifth / 2.0).abs();
        let (tip, notch): (f32, f32) = (1.12, 0.45);
        let from_tip = fifth / 2.0 - off;
        let edge = tip * notch * (fifth / 2.0).sin() / (notch * (fifth / 2.0 - from_tip).sin() + tip * from_tip.sin());
        radius < edge
    }),
    ("heart", |x, y| {
        let (x, y) = (x * 1.07, 0.22 - y * 1.08);
        (x * x + y * y - 1.0).powi(3) < x * x * y.powi(3)
    }),
    ("diamond", |x, y| x.abs() / 0.72 + y.abs() / 1.12 < 1.0),
    ("cross", |x, y| (x.abs() < 0.34 && y.abs() < 1.0) || (y.abs() < 0.34 && x.abs() < 1.0)),
    ("ring", |x, y| (0.302..1.0).contains(&(x * x + y * y))),
    ("moon", |x, y| {
        let x = x - 0.25;
        x * x + y * y < 1.0 && (x - 0.55).powi(2) + y * y > 0.64
    }),
];

/// A formula, turned a little, with the box that bounds it.
struct Template {
    name: &'static str,
    inside: Inside,
    turn: f32,
    /// Left, top, right, bottom.
    bounds: [f32; 4],
}

impl Template {
    fn new(name: &'static str, inside: Inside, turn: f32) -> Self {
        const STEPS: usize = 64;
        let mut template = Self { name, inside, turn, bounds: [9.0, 9.0, -9.0, -9.0] };
        let grid = |at: usize| (at as f32 + 0.5) / STEPS as f32 * 2.6 - 1.3;
        for (x, y) in (0..STEPS * STEPS).map(|at| (grid(at % STEPS), grid(at / STEPS))) {
            if template.has(x, y) {
                let [left, top, right, bottom] = template.bounds;
                template.bounds = [left.min(x), top.min(y), right.max(x), bottom.max(y)];
            }
        }
        template
    }

    fn has(&self, x: f32, y: f32) -> bool {
        let (sin, cos) = self.turn.sin_cos();
        (self.inside)(x * cos + y * sin, y * cos - x * sin)
    }

    /// Pixels in both over pixels in either, when fitted to the bounding box.
    fn overlap(&self, mask: &[bool], width: usize, height: usize) -> f32 {
        let [left, top, right, bottom] = self.bounds;
        let (mut both, mut either) = (0, 0);
        for (at, &drawn) in mask.iter().enumerate() {
            let x = left + ((at % width) as f32 + 0.5) / width as f32 * (right - left);
            let y = top + ((at / width) as f32 + 0.5) / height as f32 * (bottom - top);
            let formula = self.has(x, y);
            both += usize::from(drawn && formula);
            either += usize::from(drawn || formula);
        }
        both as f32 / either.max(1) as f32
    }
}

static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    let turns = || (-3..=3).map(|step| (step as f32 * 4.0f32).to_radians());
    SHAPES.iter().flat_map(|&(name, inside)| turns().map(move |turn| Template::new(name, inside, turn))).collect()
});

/// The shape whose template agrees in most pixels.
fn shape(mask: &[bool], width: usize, height: usize) -> &'static str {
    let scored = TEMPLATES.iter().map(|template| (template.name, template.overlap(mask, width, height)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).expect("nine shapes").0
}
