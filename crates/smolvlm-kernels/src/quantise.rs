//! How weights become integers.

/// Inputs that share a factor in [`q4`].
pub const GROUP: usize = 32;
/// The largest magnitude of a group's factor: times −8, it still fits 8 bits.
const MOST_FACTOR: f64 = 15.0;

/// Rounds one output's weights to integers from −127 to 127, in steps of a 127th of the largest magnitude; returns the
/// step.
///
/// # Panics
/// When `integers` is shorter than `weights`.
pub fn q8(weights: &[f32], integers: &mut [i8]) -> f32 {
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    if !(largest > 0.0 && largest.is_finite()) {
        integers[..weights.len()].fill(0);
        return 0.0;
    }
    let inverse = 127.0 / f64::from(largest);
    for (integer, weight) in integers[..weights.len()].iter_mut().zip(weights) {
        *integer = (f64::from(*weight) * inverse).round_ties_even() as i8;
    }
    (f64::from(largest) / 127.0) as f32
}

/// One group of [`q4`]: 4-bit integers from −8 to 7 and the factor they are multiplied by, −15 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Q4Group {
    /// A weight is `step × factor × integer`.
    pub integers: [i8; GROUP],
    /// Its sign lets the largest magnitude be −8 of the group's steps.
    pub factor: i8,
}

/// Rounds one output's weights in groups of 32; returns the step.
///
/// A group's own step brings its largest weight to −8. The output's step is a 15th of the largest of those; of the two
/// factors on either side of a group's own step, and the next one up, that of the least squared error is taken.
/// `factor × integer` fits 8 bits, so sums over an output's inputs are sums of whole numbers.
///
/// # Panics
/// When `groups` are fewer than `weights` fill.
pub fn q4(weights: &[f32], groups: &mut [Q4Group]) -> f32 {
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    if !(largest > 0.0 && largest.is_finite()) {
        groups[..weights.len().div_ceil(GROUP)].fill(Q4Group::default());
        return 0.0;
    }
    let step = (f64::from(largest) / 8.0 / MOST_FACTOR) as f32;
    for (group, weights) in groups[..weights.len().div_ceil(GROUP)].iter_mut().zip(weights.chunks(GROUP)) {
        *group = q4_group(weights, f64::from(step));
    }
    step
}

fn q4_group(weights: &[f32], step: f64) -> Q4Group {
    let extreme =
        weights.iter().fold(0.0_f32, |extreme, weight| if weight.abs() > extreme.abs() { *weight } else { extreme });
    let own = f64::from(extreme) / -8.0 / step;
    let sign = if own < 0.0 { -1.0 } else { 1.0 };
    let candidates = [0.0, 1.0, 2.0].map(|more| (own.abs().floor() + more).clamp(1.0, MOST_FACTOR) * sign);
    let mut best = (f64::INFINITY, Q4Group::default());
    for factor in candidates {
        let mut group = Q4Group { factor: factor as i8, ..Q4Group::default() };
        let mut error = 0.0;
        for (integer, weight) in group.integers.iter_mut().zip(weights) {
            let rounded = (f64::from(*weight) / (step * factor)).round_ties_even().clamp(-8.0, 7.0);
            *integer = rounded as i8;
            error += (f64::from(*weight) - rounded * factor * step).powi(2);
        }
        if error < best.0 {
            best = (error, group);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i) as f32 * 0.37).sin() * (1.0 + (i / 32) as f32)).collect()
    }

    #[test]
    fn eight_bits_are_off_by_half_a_step_at_most() {
        let weights = wave(100);
        let mut integers = [0; 100];
        let step = q8(&weights, &mut integers);
        for (weight, integer) in weights.iter().zip(integers) {
            assert!((weight - f32::from(integer) * step).abs() <= step * 0.5001);
        }
        assert!(integers.iter().any(|integer| integer.unsigned_abs() == 127));
    }

    #[test]
    fn four_bits_are_off_by_little_of_their_groups_largest() {
        let weights = wave(150);
        let mut groups = [Q4Group::default(); 5];
        let step = q4(&weights, &mut groups);
        for (group, weights) in groups.iter().zip(weights.chunks(GROUP)) {
            let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            for (integer, weight) in group.integers.iter().zip(weights) {
                let value = step * f32::from(group.factor) * f32::from(*integer);
                assert!((weight - value).abs() <= largest / 6.0, "{weight} became {value}, of {largest}");
            }
        }
    }

    #[test]
    fn nothing_but_zeros_stays_so_and_what_is_not_finite_becomes_it() {
        let mut integers = [1; 3];
        assert_eq!((q8(&[0.0; 3], &mut integers), integers), (0.0, [0; 3]));
        let mut groups = [Q4Group { factor: 3, ..Q4Group::default() }];
        assert_eq!((q4(&[f32::INFINITY, 1.0], &mut groups), groups[0].factor), (0.0, 0));
    }
}
