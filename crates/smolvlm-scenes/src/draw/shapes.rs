//! Outlines around the origin that fill a circle of radius 1.

use std::f32::consts::{PI, TAU};
use std::sync::LazyLock;

use tiny_skia::{Path, PathBuilder};

use crate::vocabulary::Shape;

static PATHS: LazyLock<Vec<Path>> = LazyLock::new(|| Shape::ALL.iter().map(|&shape| outline(shape)).collect());

/// The outline of a shape; y points down.
pub(super) fn path(shape: Shape) -> &'static Path {
    &PATHS[shape as usize]
}

/// A closed outline; nothing for fewer than three points.
pub(super) fn polygon(points: &[(f32, f32)]) -> Option<Path> {
    let mut builder = PathBuilder::new();
    push(&mut builder, points);
    builder.close();
    builder.finish().filter(|_| points.len() > 2)
}

/// An open line; nothing for fewer than two points.
pub(super) fn open_line(points: &[(f32, f32)]) -> Option<Path> {
    let mut builder = PathBuilder::new();
    push(&mut builder, points);
    builder.finish().filter(|_| points.len() > 1)
}

fn push(builder: &mut PathBuilder, points: &[(f32, f32)]) {
    for (index, &(x, y)) in points.iter().enumerate() {
        if index == 0 { builder.move_to(x, y) } else { builder.line_to(x, y) }
    }
}

/// `count` points of an arc, its ends included.
fn arc(centre: (f32, f32), radius: f32, from: f32, to: f32, count: usize) -> impl Iterator<Item = (f32, f32)> {
    (0..count).map(move |index| {
        let angle = from + (to - from) * index as f32 / (count - 1) as f32;
        (centre.0 + radius * angle.cos(), centre.1 + radius * angle.sin())
    })
}

#[allow(clippy::unwrap_used, reason = "every outline has an extent")]
fn outline(shape: Shape) -> Path {
    let mut builder = PathBuilder::new();
    match shape {
        Shape::Circle => builder.push_circle(0.0, 0.0, 0.95),
        Shape::Square => push(&mut builder, &[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
        Shape::Triangle => push(&mut builder, &[(0.0, -1.0), (0.98, 0.75), (-0.98, 0.75)]),
        Shape::Diamond => push(&mut builder, &[(0.0, -1.12), (0.72, 0.0), (0.0, 1.12), (-0.72, 0.0)]),
        Shape::Star => {
            let points: Vec<(f32, f32)> = (0..10)
                .map(|index| {
                    let radius = if index % 2 == 0 { 1.12 } else { 0.45 };
                    let angle = PI * index as f32 / 5.0 - PI / 2.0;
                    (radius * angle.cos(), radius * angle.sin())
                })
                .collect();
            push(&mut builder, &points);
        }
        Shape::Cross => {
            let (arm, end) = (0.34, 1.0);
            let corner = [(arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm), (arm, end)];
            let other: Vec<(f32, f32)> = corner.iter().map(|&(x, y)| (-x, -y)).collect();
            push(&mut builder, &corner);
            for (x, y) in other {
                builder.line_to(x, y);
            }
        }
        Shape::Heart => {
            builder.move_to(0.0, 1.0);
            builder.cubic_to(-0.55, 0.6, -1.08, 0.15, -1.08, -0.35);
            builder.cubic_to(-1.08, -0.98, -0.28, -1.12, 0.0, -0.48);
            builder.cubic_to(0.28, -1.12, 1.08, -0.98, 1.08, -0.35);
            builder.cubic_to(1.08, 0.15, 0.55, 0.6, 0.0, 1.0);
        }
        Shape::Ring => {
            builder.push_circle(0.0, 0.0, 1.0);
            // The hole runs the other way round, which empties it under the winding rule.
            builder.close();
            let hole: Vec<(f32, f32)> = arc((0.0, 0.0), 0.55, TAU, 0.0, 40).collect();
            push(&mut builder, &hole);
        }
        Shape::Moon => {
            // A disc less another of 0.8 whose centre lies 0.55 to the right; they meet at ±62° of the first.
            let (radius, inner, shift) = (1.0f32, 0.8f32, 0.55f32);
            let x = (shift * shift + radius * radius - inner * inner) / (2.0 * shift);
            let (outer_angle, y) = ((x / radius).acos(), (radius * radius - x * x).sqrt());
            let inner_angle = y.atan2(x - shift);
            let mut points: Vec<(f32, f32)> = arc((0.0, 0.0), radius, outer_angle, TAU - outer_angle, 28).collect();
            points.extend(arc((shift, 0.0), inner, TAU - inner_angle, inner_angle, 20));
            // Its middle is moved to the origin.
            points.iter_mut().for_each(|point| point.0 += 0.25);
            push(&mut builder, &points);
        }
    }
    builder.close();
    builder.finish().unwrap()
}
