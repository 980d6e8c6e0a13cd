//! Integer filter weights along one axis.

use smolvlm_kernels::resample::{Span, Taps};

use super::{Arithmetic, Filter};

/// Pillow's fixed point, and torch's when no weight is large (`PRECISION_BITS` in Pillow's `Resample.c`).
const MAX_BITS: u32 = 22;

/// The real weights of one pass, before they become integers.
#[derive(Debug)]
pub(super) struct RealTaps {
    inputs: usize,
    spans: Vec<Span>,
    weights: Vec<f64>,
}

impl RealTaps {
    /// Weights of `filter` from `inputs` samples to `outputs`: Pillow's `precompute_coeffs`, which torch shares.
    pub(super) fn new(filter: Filter, inputs: usize, outputs: usize) -> Self {
        let scale = inputs as f64 / outputs as f64;
        // Stretching the kernel when shrinking is what makes it an antialiasing filter.
        let stretch = scale.max(1.0);
        let (support, inverse) = (filter.radius() * stretch, 1.0 / stretch);
        let mut taps = Self { inputs, spans: Vec::with_capacity(outputs), weights: Vec::new() };
        for output in 0..outputs {
            let center = (output as f64 + 0.5) * scale;
            // A float-to-integer cast truncates and saturates at zero, which is the reference's `max(…, 0)`.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(inputs);
            taps.push_normalised(first, (first..end).map(|j| filter.at((j as f64 - center + 0.5) * inverse)));
        }
        taps
    }

    fn push_normalised(&mut self, first: usize, weights: impl Iterator<Item = f64>) {
        let offset = self.weights.len();
        self.weights.extend(weights);
        let own = &mut self.weights[offset..];
        let sum: f64 = own.iter().sum();
        if sum != 0.0 {
            own.iter_mut().for_each(|weight| *weight /= sum);
        }
        self.spans.push(Span { first, len: own.len(), offset });
    }

    /// The fixed point of this pass. Torch takes the smallest at which the largest weight needs all of 16 bits
    /// (`compute_indices_int16_weights_aa`), Pillow always the same.
    pub(super) fn bits(&self, arithmetic: Arithmetic) -> u32 {
        match arithmetic {
            Arithmetic::Pillow => MAX_BITS,
            Arithmetic::Torch => {
                let largest = self.weights.iter().copied().fold(0.0, f64::max);
                let fills_16_bits = |bits: u32| (0.5 + largest * f64::from(1 << (bits + 1))) as u32 >= 1 << 15;
                (0..MAX_BITS).find(|&bits| fills_16_bits(bits)).unwrap_or(MAX_BITS)
            }
        }
    }

    /// Weights at `bits` of fixed point, rounded half away from zero; `narrow` must hold the result.
    pub(super) fn quantised<W>(self, bits: u32, narrow: impl Fn(i32) -> W) -> Taps<W> {
        let one = f64::from(1 << bits);
        let weights = self.weights.iter().map(|w| narrow((w * one + 0.5f64.copysign(*w)) as i32)).collect();
        Taps::new(bits, self.inputs, self.spans, weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums of a pass are kept in 32 bits: 255 · Σ|w| must stay below 2^31 at every ratio.
    #[test]
    fn no_sum_of_weights_can_overflow_32_bits() {
        let sizes = (1..40).chain((40..400).step_by(13)).chain([512, 1080, 1920, 2048, 4032, 8192]);
        let sizes: Vec<usize> = sizes.collect();
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            for (&inputs, &outputs) in sizes.iter().flat_map(|i| sizes.iter().map(move |o| (i, o))) {
                let taps = RealTaps::new(filter, inputs, outputs).quantised(MAX_BITS, |weight| weight);
                for &span in taps.spans() {
                    let magnitude: i64 = taps.weights(span).iter().map(|&weight| i64::from(weight).abs()).sum();
                    let bound = magnitude * 255 + (1 << (MAX_BITS - 1));
                    assert!(bound < i64::from(i32::MAX), "{filter:?} {inputs} → {outputs}: {bound}");
                }
            }
        }
    }

    #[test]
    fn torch_weights_fit_16_bits() {
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            for (inputs, outputs) in [(1, 7), (7, 1), (640, 2048), (2048, 512), (100_000, 3), (5, 96)] {
                let real = RealTaps::new(filter, inputs, outputs);
                let bits = real.bits(Arithmetic::Torch);
                let taps = real.quantised(bits, |weight| weight);
                let fits = |&weight: &i32| i16::try_from(weight).is_ok();
                assert!(taps.spans().iter().all(|&span| taps.weights(span).iter().all(fits)), "{inputs} → {outputs}");
            }
        }
    }

    #[test]
    fn every_output_reads_inside_the_input() {
        for (inputs, outputs) in [(1, 1), (1, 50), (50, 1), (3, 2048), (997, 13)] {
            let taps = RealTaps::new(Filter::Lanczos, inputs, outputs);
            assert_eq!(taps.spans.len(), outputs);
            assert!(taps.spans.iter().all(|span| span.len > 0 && span.first + span.len <= inputs));
        }
    }
}
