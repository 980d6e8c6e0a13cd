//! Passes of a separable resize over 8-bit RGB: weighted sums of pixels in fixed point, rounded and clipped to 8 bits.
//!
//! Sums are integers, so every instruction set gives the same bytes. What is fast, and what was tried, is in
//! `docs/preprocessing-speed.md`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

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

    /// The inputs that these outputs read.
    fn reads(&self, outputs: Range<usize>) -> Range<usize> {
        let spans = &self.spans[outputs];
        let first = spans.iter().map(|span| span.first).min().unwrap_or(0);
        let end = spans.iter().map(|span| span.first + span.len).max().unwrap_or(first);
        first..end
    }
}

/// The instructions that a pass is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Instructions {
    /// What this machine has, best first.
    fn available() -> Vec<Self> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            (avx512::is_available(), Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            (avx2::is_available(), Self::Avx2),
            (true, Self::Portable),
        ];
        sets.into_iter().filter_map(|(there, set)| there.then_some(set)).collect()
    }
}

/// A weight: `i16`, for which there are vector passes, or `i32`.
pub trait Weight: Copy + Into<i32> + Sized {
    /// Weights along a line as the fastest pass wants them.
    #[doc(hidden)]
    fn arrange(taps: &Taps<Self>) -> Arranged;

    /// As [`Across::apply`].
    #[doc(hidden)]
    fn across(pass: &Across<Self>, rgb: &[u8], out: &mut [u8]) {
        portable::across(rgb, &pass.taps, out);
    }

    /// As [`Down::apply`], with the outputs' own spans.
    #[doc(hidden)]
    fn down(pass: &Down<Self>, rows: Rows<'_>, outputs: Range<usize>, out: &mut [u8]) {
        portable::down(rows, &pass.taps, outputs, out);
    }
}

/// The weights of a pass along the lines, arranged for an instruction set.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arranged(Arrangement);

#[derive(Debug)]
enum Arrangement {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Groups),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Pairs),
    Portable,
}

/// Some lines of a picture: those from `first` on, `line` bytes each.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    rgb: &'a [u8],
    first: usize,
    line: usize,
}

impl<'a> Rows<'a> {
    /// The lines that a span reads.
    fn of(&self, reads: Range<usize>) -> &'a [u8] {
        &self.rgb[(reads.start - self.first) * self.line..(reads.end - self.first) * self.line]
    }
}

impl Weight for i32 {
    fn arrange(_: &Taps<Self>) -> Arranged {
        Arranged(Arrangement::Portable)
    }
}

impl Weight for i16 {
    fn arrange(taps: &Taps<Self>) -> Arranged {
        arrange(taps, Instructions::available()[0])
    }

    fn across(pass: &Across<Self>, rgb: &[u8], out: &mut [u8]) {
        match &pass.arranged.0 {
            #[cfg(target_arch = "x86_64")]
            Arrangement::Avx512(groups) => avx512::across(rgb, &pass.taps, groups, out),
            #[cfg(target_arch = "x86_64")]
            Arrangement::Avx2(pairs) => avx2::across(rgb, &pass.taps, pairs, out),
            Arrangement::Portable => portable::across(rgb, &pass.taps, out),
        }
    }

    fn down(pass: &Down<Self>, rows: Rows<'_>, outputs: Range<usize>, out: &mut [u8]) {
        match pass.instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512::down(rows, &pass.taps, outputs, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2::down(rows, &pass.taps, outputs, out),
            Instructions::Portable => portable::down(rows, &pass.taps, outputs, out),
        }
    }
}

#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only vector passes arrange weights"))]
fn arrange(taps: &Taps<i16>, instructions: Instructions) -> Arranged {
    Arranged(match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if avx512::takes(taps) => Arrangement::Avx512(avx512::Groups::new(taps)),
        #[cfg(target_arch = "x86_64")]
        // An empty span would read before its row; it has no weights to read either.
        Instructions::Avx512 | Instructions::Avx2 if taps.spans.iter().all(|span| span.len > 0) => {
            Arrangement::Avx2(avx2::Pairs::new(taps))
        }
        _ => Arrangement::Portable,
    })
}

/// A pass along the lines: `[height, inputs, 3]` to `[height, outputs, 3]`.
#[derive(Debug)]
pub struct Across<W> {
    taps: Taps<W>,
    arranged: Arranged,
}

impl<W: Weight> Across<W> {
    /// A pass with these weights, arranged for this machine.
    pub fn new(taps: Taps<W>) -> Self {
        Self { arranged: W::arrange(&taps), taps }
    }

    /// Resizes whole lines.
    ///
    /// # Panics
    /// If the buffers do not hold equally many whole lines.
    pub fn apply(&self, rgb: &[u8], out: &mut [u8]) {
        let (line, out_line) = (self.taps.inputs * 3, self.taps.outputs() * 3);
        assert!(line > 0 && out_line > 0, "lines without pixels");
        let rows = rgb.len() / line;
        assert!(rgb.len() == rows * line && out.len() == rows * out_line, "not whole lines of {line} bytes");
        if rows > 0 {
            W::across(self, rgb, out);
        }
    }
}

/// A pass across the lines: `[inputs, width, 3]` to `[outputs, width, 3]`.
#[derive(Debug)]
pub struct Down<W> {
    taps: Taps<W>,
    instructions: Instructions,
}

impl<W: Weight> Down<W> {
    /// A pass with these weights.
    pub fn new(taps: Taps<W>) -> Self {
        Self { taps, instructions: Instructions::available()[0] }
    }

    /// The lines that must be there to make these `outputs`.
    pub fn reads(&self, outputs: Range<usize>) -> Range<usize> {
        self.taps.reads(outputs)
    }

    /// Makes the lines `outputs`, of `line` bytes each, from `rgb`, which holds the lines from `first` on.
    ///
    /// # Panics
    /// If a line that is needed is not in `rgb`, or `out` does not hold the outputs.
    pub fn apply(&self, rgb: &[u8], first: usize, line: usize, outputs: Range<usize>, out: &mut [u8]) {
        let reads = self.reads(outputs.clone());
        assert!(first <= reads.start && (reads.end - first) * line <= rgb.len(), "lines {reads:?} are not all there");
        assert_eq!(out.len(), outputs.len() * line, "lines of {line} bytes");
        if !out.is_empty() {
            W::down(self, Rows { rgb, first, line }, outputs, out);
        }
    }
}

fn clip(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}
