//! From 8-bit colour to the numbers the vision tower reads.

/// Three values, one per colour.
pub type PerChannel = [f64; 3];

/// What the reference does to a pixel value after resizing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Factor applied to the 8-bit value; none when `do_rescale` is false.
    pub rescale: Option<f64>,
    /// Mean subtracted and deviation divided by, per colour; none when `do_normalize` is false.
    pub mean_std: Option<(PerChannel, PerChannel)>,
}

/// The order of the float operations; the two differ in the last bit for half of all values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Formula {
    /// `(f32(v · factor) − mean) / std`: the Pillow backend (`image_transforms.rescale`, `normalize`).
    Separate,
    /// `(v − mean / factor) / (std / factor)`: the torchvision backend (`_fuse_mean_std_and_rescale_factor`).
    Fused,
}

/// 8-bit value → normalised value, per colour: `[3][256]`.
pub type PixelTable = [[f32; 256]; 3];

impl Normalisation {
    /// The normalised value of every 8-bit value, bit-equal to the reference's.
    pub fn table(&self, formula: Formula) -> PixelTable {
        let mut table = [[0.0; 256]; 3];
        for (channel, values) in table.iter_mut().enumerate() {
            for (value, slot) in (0..=255u8).zip(values) {
                *slot = self.apply(formula, channel, value);
            }
        }
        table
    }

    fn apply(&self, formula: Formula, channel: usize, value: u8) -> f32 {
        let (shift, divisor) = match self.mean_std {
            Some((mean, std)) => (mean[channel] as f32, std[channel] as f32),
            None => return self.rescaled(formula, value),
        };
        match (formula, self.rescale) {
            (Formula::Fused, Some(factor)) => {
                let inverse = (1.0 / factor) as f32;
                (f32::from(value) - shift * inverse) / (divisor * inverse)
            }
            _ => (self.rescaled(formula, value) - shift) / divisor,
        }
    }

    fn rescaled(&self, formula: Formula, value: u8) -> f32 {
        match (formula, self.rescale) {
            (_, None) => f32::from(value),
            (Formula::Separate, Some(factor)) => (f64::from(value) * factor) as f32,
            (Formula::Fused, Some(factor)) => f32::from(value) * factor as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: Normalisation =
        Normalisation { rescale: Some(0.003_921_568_627_450_98), mean_std: Some(([0.5; 3], [0.5; 3])) };

    #[test]
    fn the_fused_formula_is_a_real_division_by_127_5() {
        for (value, found) in PUBLISHED.table(Formula::Fused)[1].iter().enumerate() {
            assert_eq!(found.to_bits(), ((value as f32 - 127.5) / 127.5).to_bits(), "value {value}");
        }
    }

    #[test]
    fn the_separate_formula_rounds_after_rescaling() {
        for (value, found) in PUBLISHED.table(Formula::Separate)[2].iter().enumerate() {
            let rescaled = (value as f64 * 0.003_921_568_627_450_98) as f32;
            assert_eq!(found.to_bits(), ((rescaled - 0.5) / 0.5).to_bits(), "value {value}");
        }
    }

    #[test]
    fn the_formulas_differ_in_the_last_bit_for_half_of_the_values() {
        let (fused, separate) = (PUBLISHED.table(Formula::Fused), PUBLISHED.table(Formula::Separate));
        let different = (0..256).filter(|&value| fused[0][value] != separate[0][value]).count();
        assert_eq!(different, 128);
        assert!((0..256).all(|value| (fused[0][value] - separate[0][value]).abs() <= 6e-8));
    }

    #[test]
    fn each_colour_has_its_own_mean_and_deviation() {
        let uneven = Normalisation { rescale: None, mean_std: Some(([0.0, 10.0, 0.0], [1.0, 1.0, 4.0])) };
        let table = uneven.table(Formula::Fused);
        assert_eq!((table[0][20], table[1][20], table[2][20]), (20.0, 10.0, 5.0));
    }
}
