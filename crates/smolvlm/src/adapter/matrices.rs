//! What one module has, and how it is folded into the module's weight.

/// Products below which starting threads costs more than they save.
const WORTH_THREADS: usize = 1 << 20;

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
    /// f64, in the order of ranks and inputs whatever the threads.
    pub fn fold(&self, weight: &mut [f32], scaling: f64) {
        let [outputs, inputs] = self.shape();
        let large = weight.len() * self.rank >= WORTH_THREADS;
        let threads = if large { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
        if threads == 1 {
            return self.fold_rows(weight, 0, scaling);
        }
        let rows = outputs.div_ceil(threads);
        std::thread::scope(|scope| {
            for (part, weight) in weight.chunks_mut(rows * inputs).enumerate() {
                scope.spawn(move || self.fold_rows(weight, part * rows, scaling));
            }
        });
    }

    /// The same of some rows, from `first` on.
    fn fold_rows(&self, weight: &mut [f32], first: usize, scaling: f64) {
        let inputs = self.a.len() / self.rank;
        let mut sums = vec![0.0_f64; inputs];
        for (output, row) in (first..).zip(weight.chunks_mut(inputs)) {
            sums.fill(0.0);
            for (b, a) in self.b[output * self.rank..][..self.rank].iter().zip(self.a.chunks(inputs)) {
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

    #[test]
    fn threads_change_no_bit() {
        let (rank, inputs, outputs) = (8, 512, 300);
        let numbers = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
        let (a, b) = (numbers(rank * inputs, 0.37), numbers(outputs * rank, 0.71));
        let large = LoraMatrices { module: "m".to_owned(), rank, a, b, magnitude: Some(numbers(outputs, 0.13)) };
        let mut together = numbers(outputs * inputs, 0.11);
        assert!(together.len() * rank >= WORTH_THREADS);
        let mut alone = together.clone();
        large.fold(&mut together, 0.7);
        large.fold_rows(&mut alone, 0, 0.7);
        assert!(together == alone);
    }
}
