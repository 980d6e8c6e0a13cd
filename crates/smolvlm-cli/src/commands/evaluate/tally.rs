//! Shares of right answers, and how sure they are.

use super::ask::Answer;

/// Right answers among so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) right: usize,
    pub(super) of: usize,
}

/// Standard deviations on either side that 95 % of a normal distribution lie within.
const Z: f64 = 1.959_963_984_540_054;

impl Tally {
    pub(super) fn of(answers: &[Answer]) -> Self {
        Self { right: answers.iter().filter(|answer| answer.right).count(), of: answers.len() }
    }

    /// Several together.
    pub(super) fn sum(tallies: impl Iterator<Item = Self>) -> Self {
        tallies.fold(Self::default(), |sum, next| Self { right: sum.right + next.right, of: sum.of + next.of })
    }

    /// Share of right answers.
    pub(super) fn accuracy(self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }

    /// Wilson's score interval of 95 %: it stays within 0 and 1, and is no point where all answers are right.
    pub(super) fn interval(self) -> (f64, f64) {
        let (n, share) = (self.of.max(1) as f64, self.accuracy());
        let z2 = Z * Z / n;
        let middle = (share + z2 / 2.0) / (1.0 + z2);
        let half = Z / (1.0 + z2) * (share * (1.0 - share) / n + z2 / (4.0 * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // The first two as in Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        for (right, of, low, high) in
            [(81, 263, 0.255_291, 0.366_210), (0, 20, 0.0, 0.161_125), (10, 10, 0.722_467, 1.0)]
        {
            let (found_low, found_high) = Tally { right, of }.interval();
            assert!((found_low - low).abs() < 1e-4 && (found_high - high).abs() < 1e-4, "{found_low} {found_high}");
        }
    }
}
