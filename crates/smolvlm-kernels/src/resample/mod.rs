//! Passes of a separable resize over 8-bit RGB: weighted sums of pixels in fixed point, rounded and clipped to 8 bits.
//!
//! Sums are integers, so every instruction set gives the same bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

/// The weights of one pass: output `i` is the sum of its weights times the inputs from `spans[i].first` on, shifted right
/// by `bits`.
#[derive(Debug, Clone)]
pub struct Taps<W> {
    bits: u32,
    spans: Vec<Span>,
    weights: Vec<W>,
    inputs: usize,
}

/// Which inputs one output reads, and where its weights lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First input.
    pub first: usize,
    /// Number of inputs.
    pub len: usize,
    /// Where its weights begin.
    pub offset: usize,
}

impl<W> Taps<W> {
    /// Weights in fixed point with `bits` fractional bits, for lines of `inputs` pixels. 255 times the sum of an output's
    /// absolute weights, and a half, must stay within 31 bits.
    ///
    /// # Panics
    /// If a span reads outside the inputs or the weights, or `bits` is above 30.
    pub fn new(bits: u32, inputs: usize, spans: Vec<Span>, weights: Vec<W>) -> Self {
        let inside = |span: &Span| span.first + span.len <= inputs && span.offset + span.len <= weights.len();
        assert!(bits <= 30 && spans.iter().all(inside), "spans read outside their {inputs} inputs or weights");
        Self { bits, spans, weights, inputs }
    }

    /// Pixels of a resized line.
    pub fn outputs(&self) -> usize {
        self.spans.len()
    }

    /// The spans, one for each output.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The weights of a span.
    pub fn weights(&self, span: Span) -> &[W] {
        &self.weights[span.offset..span.offset + span.len]
    }

    /// What makes a shift round.
    fn half(&self) -> i32 {
        (1 << self.bits) >> 1
    }
}

/// A weight, with the fastest passes for its type.
pub trait Weight: Copy + Into<i32> + Sized {
    /// Resizes `rgb`, lines of `taps.inputs` pixels, along the lines. The buffers hold whole lines.
    fn horizontal(rgb: &[u8], taps: &Taps<Self>, out: &mut [u8]) {
        portable::horizontal(rgb, taps, out);
    }

    /// Resizes `rgb`, `taps.inputs` lines of `line` bytes, across the lines.
    fn vertical(rgb: &[u8], line: usize, taps: &Taps<Self>, out: &mut [u8]) {
        portable::vertical(rgb, line, taps, out);
    }
}

impl Weight for i32 {}

impl Weight for i16 {
    fn horizontal(rgb: &[u8], taps: &Taps<i16>, out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if avx2::is_available() {
            return avx2::horizontal(rgb, taps, out);
        }
        portable::horizontal(rgb, taps, out);
    }

    fn vertical(rgb: &[u8], line: usize, taps: &Taps<i16>, out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if avx2::is_available() {
            return avx2::vertical(rgb, line, taps, out);
        }
        portable::vertical(rgb, line, taps, out);
    }
}

/// Resizes `[height, taps.inputs, 3]` to `[height, taps.outputs(), 3]`.
///
/// # Panics
/// If `rgb` does not hold whole lines.
pub fn horizontal<W: Weight>(rgb: &[u8], taps: &Taps<W>) -> Vec<u8> {
    let line = taps.inputs * 3;
    assert!(line > 0 && rgb.len().is_multiple_of(line), "{} bytes are no whole lines of {line}", rgb.len());
    let mut out = vec![0; rgb.len() / line * taps.outputs() * 3];
    if !out.is_empty() {
        W::horizontal(rgb, taps, &mut out);
    }
    out
}

/// Resizes `[taps.inputs, width, 3]` to `[taps.outputs(), width, 3]`.
///
/// # Panics
/// If `rgb` does not have that shape.
pub fn vertical<W: Weight>(rgb: &[u8], width: usize, taps: &Taps<W>) -> Vec<u8> {
    let line = width * 3;
    assert_eq!(rgb.len(), taps.inputs * line, "lines of {width} pixels");
    let mut out = vec![0; taps.outputs() * line];
    if !out.is_empty() {
        W::vertical(rgb, line, taps, &mut out);
    }
    out
}

fn clip(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Spans of every length over `inputs` pixels, with weights whose sums stay in range.
    fn taps(random: &mut rand_chacha::ChaCha8Rng, inputs: usize, outputs: usize) -> Taps<i16> {
        let mut spans = Vec::new();
        let mut weights = Vec::new();
        for _ in 0..outputs {
            let len = random.random_range(1..=inputs.min(23));
            spans.push(Span { first: random.random_range(0..=inputs - len), len, offset: weights.len() });
            weights.extend((0..len).map(|_| random.random_range(-9000i32..20000).div_euclid(len as i32) as i16));
        }
        // The extremes a weight can have.
        weights[0] = i16::MAX;
        Taps::new(14, inputs, spans, weights)
    }

    #[test]
    fn fast_passes_equal_the_portable_ones_byte_for_byte() {
        let seed = 20_261_124;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for case in 0..300 {
            let (inputs, outputs) = (random.random_range(1..60), random.random_range(1..50));
            let other = random.random_range(1..40);
            let rgb: Vec<u8> = (0..inputs * other * 3).map(|_| random.random()).collect();
            let taps = taps(&mut random, inputs, outputs);
            let mut expected = vec![0; outputs * other * 3];
            portable::horizontal(&rgb, &taps, &mut expected);
            assert!(horizontal(&rgb, &taps) == expected, "horizontal, seed {seed}, case {case}");
            portable::vertical(&rgb, other * 3, &taps, &mut expected);
            assert!(vertical(&rgb, other, &taps) == expected, "vertical, seed {seed}, case {case}");
        }
    }

    #[test]
    fn the_portable_passes_are_rounded_sums() {
        let spans = vec![Span { first: 0, len: 2, offset: 0 }, Span { first: 1, len: 1, offset: 2 }];
        let taps = Taps::new(2, 2, spans, vec![3i32, -1, 2]);
        // (3·10 − 20 + 2) >> 2, (2·20 + 2) >> 2, clipped at both ends.
        assert_eq!(horizontal(&[10, 200, 0, 20, 0, 255], &taps), [3, 150, 0, 10, 0, 128]);
        assert_eq!(vertical(&[10, 200, 0, 20, 0, 255], 1, &taps), [3, 150, 0, 10, 0, 128]);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_span_outside_its_inputs_is_refused() {
        let _ = Taps::new(1, 2, vec![Span { first: 1, len: 2, offset: 0 }], vec![1i16, 1]);
    }
}
