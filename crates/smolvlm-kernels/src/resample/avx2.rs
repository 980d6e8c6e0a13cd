//! The passes with AVX2, for 16-bit weights: products of pairs are added in 32 bits by one instruction.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Rows, Span, Taps, clip};

/// Inputs taken at once by the horizontal pass: twelve bytes of a 16-byte load.
const STEP: usize = 4;
/// Bytes of one load.
const LOAD: usize = 16;
/// Rows resized together: two in each register.
const ROWS: usize = 4;
/// Bytes of one block of the vertical pass.
const BLOCK: usize = 32;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Weights two by two as one 32-bit number, each span padded by zeros to whole steps.
#[derive(Debug)]
pub(super) struct Pairs {
    spans: Vec<Span>,
    pairs: Vec<i32>,
}

impl Pairs {
    /// Spans come to read up to `STEP − 1` inputs more than they have; those have weight zero.
    pub(super) fn new(taps: &Taps<i16>) -> Self {
        let mut pairs = Vec::with_capacity(taps.weights.len());
        let pad = |&span: &Span| {
            let offset = pairs.len();
            for step in taps.weights(span).chunks(STEP) {
                let weight = |i: usize| i32::from(step.get(i).copied().unwrap_or(0));
                pairs.push(weight(0) & 0xFFFF | weight(1) << 16);
                pairs.push(weight(2) & 0xFFFF | weight(3) << 16);
            }
            Span { first: span.first, len: span.len.next_multiple_of(STEP), offset }
        };
        let spans = taps.spans.iter().map(pad).collect();
        Self { spans, pairs }
    }

    /// Bytes from a row's start up to which its outputs read.
    fn reach(&self) -> usize {
        let end = |span: &Span| (span.first + span.len - STEP) * 3 + LOAD;
        self.spans.iter().map(end).max().unwrap_or(0)
    }
}

/// As [`super::Across::apply`]; no span is empty.
pub(super) fn across(rgb: &[u8], taps: &Taps<i16>, pairs: &Pairs, out: &mut [u8]) {
    assert!(is_available());
    let (row, out_row) = (taps.inputs * 3, taps.outputs() * 3);
    assert_eq!(rgb.len() / row, out.len() / out_row);
    let reach = pairs.reach().max(row);
    let mut padded = Vec::new();
    for (group, out_group) in out.chunks_mut(out_row * ROWS).enumerate() {
        let start = group * ROWS * row;
        let rows = out_group.len() / out_row;
        let inside = start + (ROWS - 1) * row + reach <= rgb.len();
        if inside {
            // SAFETY: the machine has AVX2; four rows that may each be read `reach` bytes far lie in `rgb`, and
            // `out_group` holds as many rows.
            unsafe { four_rows(&rgb[start..], row, pairs, taps, out_group) };
        } else {
            // The last rows are read from a copy with room behind each; rows that are missing are zero.
            padded.clear();
            padded.resize(ROWS * reach, 0);
            let mut resized = vec![0; ROWS * out_row];
            for (line, copy) in rgb[start..].chunks_exact(row).zip(padded.chunks_exact_mut(reach)) {
                copy[..row].copy_from_slice(line);
            }
            // SAFETY: as above, with rows of `reach` bytes.
            unsafe { four_rows(&padded, reach, pairs, taps, &mut resized) };
            out_group.copy_from_slice(&resized[..rows * out_row]);
        }
    }
}

/// # Safety
/// The machine has AVX2. `rgb` holds at least `3 × row + pairs.reach()` bytes, `out` four rows of outputs.
#[target_feature(enable = "avx2")]
unsafe fn four_rows(rgb: &[u8], row: usize, pairs: &Pairs, taps: &Taps<i16>, out: &mut [u8]) {
    const NONE: i8 = -1;
    // Colours of inputs 0 and 1, then 2 and 3, each byte widened to 16 bits: r r g g b b – –.
    #[rustfmt::skip]
    let first = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE));
    #[rustfmt::skip]
    let second = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        6, NONE, 9, NONE, 7, NONE, 10, NONE, 8, NONE, 11, NONE, NONE, NONE, NONE, NONE));
    let half = _mm256_set1_epi32(taps.half());
    let bits = _mm_cvtsi32_si128(taps.bits as i32);
    let out_row = taps.outputs() * 3;
    let base = rgb.as_ptr();
    for (index, span) in pairs.spans.iter().enumerate() {
        let (mut upper, mut lower) = (half, half);
        for step in 0..span.len / STEP {
            let at = (span.first + step * STEP) * 3;
            let weights = span.offset + step * 2;
            let left = _mm256_set1_epi32(pairs.pairs[weights]);
            let right = _mm256_set1_epi32(pairs.pairs[weights + 1]);
            // SAFETY: `at + 16` is at most `reach`, see `Pairs::reach`.
            let (one, two) = unsafe {
                let load = |line: usize| _mm_loadu_si128(base.add(line * row + at).cast());
                (_mm256_set_m128i(load(1), load(0)), _mm256_set_m128i(load(3), load(2)))
            };
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(one, first), left));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(two, first), left));
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(one, second), right));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(two, second), right));
        }
        let words = _mm256_packs_epi32(_mm256_sra_epi32(upper, bits), _mm256_sra_epi32(lower, bits));
        let bytes = _mm256_packus_epi16(words, words);
        // A row's three colours and a zero are one 32-bit number; rows 0 and 2 are in the low half, 1 and 3 in the high.
        let pixels = [
            _mm256_extract_epi32::<0>(bytes),
            _mm256_extract_epi32::<4>(bytes),
            _mm256_extract_epi32::<1>(bytes),
            _mm256_extract_epi32::<5>(bytes),
        ];
        for (line, pixel) in pixels.into_iter().enumerate() {
            let at = line * out_row + index * 3;
            out[at..at + 3].copy_from_slice(&pixel.to_le_bytes()[..3]);
        }
    }
}

/// As [`super::Down::apply`].
pub(super) fn down(rows: Rows<'_>, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8]) {
    assert!(is_available());
    let line = rows.line;
    for (&span, out_row) in taps.spans[outputs].iter().zip(out.chunks_exact_mut(line)) {
        let weights = taps.weights(span);
        let inputs = rows.of(span.first..span.first + span.len);
        let (blocks, tail) = out_row.as_chunks_mut::<BLOCK>();
        for (index, block) in blocks.iter_mut().enumerate() {
            // SAFETY: the machine has AVX2; `inputs` holds a row for each weight, with a block at this place.
            unsafe { block_of_rows(inputs, line, index * BLOCK, weights, taps, block) };
        }
        let first = line - tail.len();
        for (column, value) in (first..line).zip(tail) {
            let mut sum = taps.half();
            for (row, &weight) in inputs.chunks_exact(line).zip(weights) {
                sum += i32::from(weight) * i32::from(row[column]);
            }
            *value = clip(sum >> taps.bits);
        }
    }
}

/// # Safety
/// The machine has AVX2. `inputs` holds `weights.len()` rows of `line` bytes, each with `BLOCK` bytes from `at` on.
#[target_feature(enable = "avx2")]
unsafe fn block_of_rows(
    inputs: &[u8],
    line: usize,
    at: usize,
    weights: &[i16],
    taps: &Taps<i16>,
    out: &mut [u8; BLOCK],
) {
    let zero = _mm256_setzero_si256();
    let half = _mm256_set1_epi32(taps.half());
    let bits = _mm_cvtsi32_si128(taps.bits as i32);
    let mut sums = [half; 4];
    for (step, pair) in weights.chunks(2).enumerate() {
        let (left, right) = (i32::from(pair[0]), pair.get(1).map_or(0, |&weight| i32::from(weight)));
        let both = _mm256_set1_epi32(left & 0xFFFF | right << 16);
        // SAFETY: row `2 × step` is there; the next one is there unless the weights end, and is not read then.
        let (upper, lower) = unsafe {
            let row = inputs.as_ptr().add(2 * step * line + at);
            let lower = if pair.len() == 2 { row.add(line) } else { row };
            (_mm256_loadu_si256(row.cast()), _mm256_loadu_si256(lower.cast()))
        };
        let (low, high) = (_mm256_unpacklo_epi8(upper, lower), _mm256_unpackhi_epi8(upper, lower));
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), both));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), both));
        sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), both));
        sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), both));
    }
    for sum in &mut sums {
        *sum = _mm256_sra_epi32(*sum, bits);
    }
    let words = (_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
    // SAFETY: `out` has 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_packus_epi16(words.0, words.1)) };
}
