//! Numbers along a line, with ticks at round ones.

/// From numbers to places.
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Where both lie, in pixels.
    places: (f64, f64),
}

/// Ticks that an axis has at most.
const MOST_TICKS: f64 = 7.0;

impl Axis {
    /// From `low` to `high`.
    pub(super) fn between(low: f64, high: f64, places: (f64, f64)) -> Self {
        // Equal ends would leave nothing to divide by.
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, places }
    }

    /// From 0 to a count of at least 1.
    pub(super) fn counts(last: f64, places: (f64, f64)) -> Self {
        Self::between(0.0, last.max(1.0), places)
    }

    /// All of these numbers between two ticks; zero is at the end when it is near.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone, places: (f64, f64)) -> Self {
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
        let low = if low >= 0.0 && low < 0.4 * high { 0.0 } else { low };
        let room = Self::between(low, high, places);
        let step = room.step();
        Self::between((room.low / step).floor() * step, (room.high / step).ceil() * step, places)
    }

    /// Where a number lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (start, end) = self.places;
        start + (end - start) * (value - self.low) / (self.high - self.low)
    }

    /// Places and names of the ticks.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let step = self.step();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (self.low / step - 1e-9).ceil();
        let values = (0..=MOST_TICKS as usize + 1).map(|tick| (first + tick as f64) * step);
        let inside = values.take_while(|value| *value <= self.high + step * 1e-9);
        inside.map(|value| (self.at(value), named(value, decimals))).collect()
    }

    /// 1, 2 or 5 times a power of ten, so that there are few ticks.
    fn step(&self) -> f64 {
        let least = (self.high - self.low) / MOST_TICKS;
        let power = 10_f64.powf(least.log10().floor());
        let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= least * (1.0 - 1e-9));
        times.unwrap_or(10.0) * power
    }
}

/// A number with its thousands apart.
fn named(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut name = String::new();
    for (at, digit) in whole.char_indices() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !name.ends_with('-') {
            name.push(',');
        }
        name.push(digit);
    }
    name + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(names(&Axis::counts(1000.0, (0.0, 1.0))), ["0", "200", "400", "600", "800", "1,000"]);
        assert_eq!(names(&Axis::counts(24.0, (0.0, 1.0))), ["0", "5", "10", "15", "20"]);
        let losses = Axis::fitting([0.02, 3.4].into_iter(), (100.0, 0.0));
        assert_eq!(names(&losses), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5"]);
        assert_eq!((losses.at(0.0), losses.at(3.5)), (100.0, 0.0));
        assert_eq!(
            names(&Axis::fitting([2.31, 2.34].into_iter(), (1.0, 0.0))),
            ["2.310", "2.315", "2.320", "2.325", "2.330", "2.335", "2.340"]
        );
        assert!(names(&Axis::fitting([1.0, 1.0].into_iter(), (1.0, 0.0))).len() > 1);
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([named(20_000.0, 0), named(999.5, 1), named(-1234.0, 0)], ["20,000", "999.5", "-1,234"]);
    }
}
