//! How learning rates change from step to step.

use std::f64::consts::PI;

use serde::Deserialize;

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// The full rate to the end.
    Constant,
    /// Straight down to zero.
    Linear,
    /// Half a cosine down to zero.
    Cosine,
}

/// A factor for each step: straight up from zero during the warm-up, then a shape (`get_*_schedule_with_warmup` of
/// transformers' optimization.py).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// After the warm-up.
    pub shape: Shape,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
    /// The factor never falls below this after the warm-up; the shape comes down to it.
    pub floor: f64,
}

impl Schedule {
    /// The factor of a step, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / rest as f64).min(1.0);
        let down = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        };
        self.floor + (1.0 - self.floor) * down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(shape: Shape, floor: f64, steps: &[u64]) -> Vec<f64> {
        let schedule = Schedule { shape, warmup: 4, total: 12, floor };
        steps.iter().map(|step| (schedule.factor(*step) * 1e6).round() / 1e6).collect()
    }

    /// Printed by `get_cosine_schedule_with_warmup(optimizer, 4, 12)` and its siblings.
    #[test]
    fn the_factors_are_those_of_transformers() {
        let steps = [0, 1, 3, 4, 6, 8, 11, 12, 20];
        let constant = factors(Shape::Constant, 0.0, &steps);
        assert_eq!(constant, [0.0, 0.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(factors(Shape::Linear, 0.0, &steps), [0.0, 0.25, 0.75, 1.0, 0.75, 0.5, 0.125, 0.0, 0.0]);
        let cosine = factors(Shape::Cosine, 0.0, &steps);
        assert_eq!(cosine, [0.0, 0.25, 0.75, 1.0, 0.853553, 0.5, 0.03806, 0.0, 0.0]);
    }

    #[test]
    fn a_floor_is_where_the_shape_ends() {
        assert_eq!(factors(Shape::Cosine, 0.1, &[2, 4, 8, 12]), [0.5, 1.0, 0.55, 0.1]);
    }

    #[test]
    fn no_warmup_and_no_steps_are_no_division_by_zero() {
        let schedule = Schedule { shape: Shape::Cosine, warmup: 0, total: 0, floor: 0.0 };
        assert_eq!(schedule.factor(0), 1.0);
        assert_eq!(schedule.factor(1), 0.0);
    }
}
