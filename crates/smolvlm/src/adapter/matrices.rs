//! What one module has, and how it is folded into the module's weight.

/// The adapter of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraMatrices {
    /// `model.text_model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Rows of `a`, columns of `b`.
    pub rank: usize,
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
    /// Of DoRA: the length that each row of the weight is brought to, `[outputs]`.
    pub magnitude: Option<Vec<f32>>,
}

impl LoraMatrices {
    /// Of the matrix that it adapts: outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.b.len() / self.rank, self.a.len() / self.rank]
    }

    /// How many numbers it holds.
    pub fn parameter_count(&self) -> usize {
        self.a.len() + self.b.len() + self.magnitude.as_ref().map_or(0, Vec::len)
    }

    /// Makes a weight `W`, `[outputs, inputs]`, into `W + scaling · B · A`, with DoRA's rows brought to their lengths. Sums are
    /// f64, in the order of ranks and inputs.
    pub fn fold(&self, weight: &mut [f32], scaling: f64) {
        let inputs = self.a.len() / self.rank;
        let mut sums = vec![0.0_f64; inputs];
        for (output, (row, b)) in weight.chunks_mut(inputs).zip(self.b.chunks(self.rank)).enumerate() {
            sums.fill(0.0);
            for (b, a) in b.iter().zip(self.a.chunks(inputs)) {
                let b = f64::from(*b) * scaling;
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * f64::from(*a));
            }
            sums.iter_mut().zip(row.iter()).for_each(|(sum, x)| *sum += f64::from(*x));
            if let Some(magnitude) = &self.magnitude {
                let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
                // A row of zeros has no direction, and stays.
                let factor = if length > 0.0 { f64::from(magnitude[output]) / length } else { 0.0 };
                sums.iter_mut().for_each(|x| *x *= factor);
            }
            row.iter_mut().zip(&sums).for_each(|(x, sum)| *x = *sum as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrices(magnitude: Option<Vec<f32>>) -> LoraMatrices {
        // A = [1 2 0], B = [1; 3].
        LoraMatrices { module: "m".to_owned(), rank: 1, a: vec![1.0, 2.0, 0.0], b: vec![1.0, 3.0], magnitude }
    }

    #[test]
    fn a_weight_becomes_itself_and_the_scaled_product() {
        let mut weight = [1.0, 1.0, 1.0, 0.0, 0.0, 5.0];
        matrices(None).fold(&mut weight, 0.5);
        assert_eq!(weight, [1.5, 2.0, 1.0, 1.5, 3.0, 5.0]);
    }

    #[test]
    fn a_magnitude_is_the_length_of_every_row() {
        let mut weight = [2.0, 0.0, 0.0, -3.0, -6.0, 0.0];
        // Rows: [3 2 0] of length √13, and zeros, which stay.
        matrices(Some(vec![26.0, 7.0])).fold(&mut weight, 1.0);
        let expected = [3.0, 2.0, 0.0].map(|x: f64| (x * 26.0 / 13.0_f64.sqrt()) as f32);
        assert_eq!(weight[..3], expected);
        assert_eq!(weight[3..], [0.0; 3]);
    }
}
