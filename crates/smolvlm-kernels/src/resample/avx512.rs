//! The passes with AVX-512: each 32-bit lane adds two inputs times two 16-bit weights with one instruction (VNNI).
//!
//! Along the lines, bytes find their lanes by one permutation of 64 bytes (VBMI), so a group of outputs is summed at
//! once with tables that all rows share. Across the lines, two rows of outputs share the unpacked inputs.
//!
//! No vector goes through a method of arrays here: those are compiled without the instructions, and vectors would be handed
//! over in memory.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Rows, Taps};

/// Bytes of one load.
const WINDOW: usize = 64;
/// Most outputs of a group: their colours fill 15 of 16 lanes.
const PIXELS: usize = 5;
/// Rows that are resized together, so that a table is read once for all of them.
const ROWS: usize = 8;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// Whether lines are long enough to be read 64 bytes at a time.
pub(super) fn takes(taps: &Taps<i16>) -> bool {
    taps.inputs * 3 >= WINDOW
}

/// Weights along a line, for a few outputs at a time.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Group>,
    steps: Vec<Step>,
}

/// Some neighbouring outputs.
#[derive(Debug)]
struct Group {
    outputs: Range<usize>,
    steps: Range<usize>,
}

/// Two inputs of every output of a group.
#[derive(Debug)]
#[repr(align(64))]
struct Step {
    /// For each lane, where in the window its inputs are; bytes 1 and 3 of a lane stay zero whatever stands here.
    index: [u8; WINDOW],
    /// For each lane, their weights.
    weights: [i16; WINDOW / 2],
    /// The window's first byte, from the start of the line.
    offset: usize,
}

impl Groups {
    /// For lines that [`takes`] allows.
    pub(super) fn new(taps: &Taps<i16>) -> Self {
        let mut table = Self { groups: Vec::new(), steps: Vec::new() };
        let mut output = 0;
        while output < taps.outputs() {
            let most = PIXELS.min(taps.outputs() - output);
            // One output alone always fits: its two inputs are neighbours.
            let fitting = (1..=most).rev().find_map(|count| steps(taps, output..output + count));
            let (outputs, steps) = fitting.unwrap_or((output..output + 1, Vec::new()));
            output = outputs.end;
            let first = table.steps.len();
            table.steps.extend(steps);
            table.groups.push(Group { outputs, steps: first..table.steps.len() });
        }
        table
    }
}

/// The steps of these outputs, unless the inputs of one step do not lie in one window.
fn steps(taps: &Taps<i16>, outputs: Range<usize>) -> Option<(Range<usize>, Vec<Step>)> {
    let longest = taps.spans[outputs.clone()].iter().map(|span| span.len).max()?;
    let steps = (0..longest.div_ceil(2)).map(|number| step(taps, outputs.clone(), number)).collect::<Option<_>>()?;
    Some((outputs, steps))
}

fn step(taps: &Taps<i16>, outputs: Range<usize>, number: usize) -> Option<Step> {
    let spans = &taps.spans[outputs];
    let inputs = |i: usize| (2 * number..2 * number + 2).filter(move |&tap| tap < spans[i].len);
    let first = (0..spans.len()).flat_map(|i| inputs(i).map(move |tap| spans[i].first + tap)).min()?;
    let offset = (first * 3).min(taps.inputs * 3 - WINDOW);
    let mut step = Step { index: [0; WINDOW], weights: [0; WINDOW / 2], offset };
    for (i, &span) in spans.iter().enumerate() {
        for tap in inputs(i) {
            for color in 0..3 {
                let place = (span.first + tap) * 3 + color - offset;
                let slot = 2 * (3 * i + color) + tap % 2;
                step.index[2 * slot] = u8::try_from(place).ok().filter(|&place| usize::from(place) < WINDOW)?;
                step.weights[slot] = taps.weights(span)[tap];
            }
        }
    }
    Some(step)
}

/// As [`super::Across::apply`], for lines that [`takes`] allows; `groups` are those of `taps`.
pub(super) fn across(rgb: &[u8], taps: &Taps<i16>, groups: &Groups, out: &mut [u8]) {
    assert!(is_available() && takes(taps));
    let (row, out_row) = (taps.inputs * 3, taps.outputs() * 3);
    let (mut rgb, mut out) = (rgb, out);
    while rgb.len() >= row {
        // SAFETY: the machine has the instructions, and the slices hold as many lines as each call takes.
        let lines = unsafe {
            match rgb.len() / row {
                ROWS.. => rows::<ROWS>(rgb, taps, groups, out),
                4.. => rows::<4>(rgb, taps, groups, out),
                2.. => rows::<2>(rgb, taps, groups, out),
                _ => rows::<1>(rgb, taps, groups, out),
            }
        };
        rgb = &rgb[lines * row..];
        out = &mut out[lines * out_row..];
    }
}

/// Resizes the first `R` lines, and returns their number.
///
/// # Safety
/// The machine [`is_available`]. `rgb` holds at least `R` lines of `taps.inputs` pixels, `out` as many of `taps.outputs()`;
/// `groups` were made from `taps`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn rows<const R: usize>(rgb: &[u8], taps: &Taps<i16>, groups: &Groups, out: &mut [u8]) -> usize {
    /// The low byte of every 16-bit number.
    const LOW: u64 = 0x5555_5555_5555_5555;
    let (row, out_row) = (taps.inputs * 3, taps.outputs() * 3);
    assert!(rgb.len() >= R * row && out.len() >= R * out_row);
    let half = _mm512_set1_epi32(taps.half());
    let bits = _mm_cvtsi32_si128(taps.bits as i32);
    for group in &groups.groups {
        let mut sums = [half; R];
        for step in &groups.steps[group.steps.clone()] {
            // SAFETY: both tables have 64 bytes.
            let (index, weights) = unsafe {
                (_mm512_load_si512(step.index.as_ptr().cast()), _mm512_load_si512(step.weights.as_ptr().cast()))
            };
            for (line, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `step` chose `offset` so that 64 bytes from it on are inside a line.
                let window = unsafe { _mm512_loadu_si512(rgb.as_ptr().add(line * row + step.offset).cast()) };
                let pairs = _mm512_maskz_permutexvar_epi8(LOW, index, window);
                *sum = _mm512_dpwssd_epi32(*sum, pairs, weights);
            }
        }
        let mask = (1 << (group.outputs.len() * 3)) - 1;
        for (line, sum) in sums.into_iter().enumerate() {
            let rounded = _mm512_max_epi32(_mm512_sra_epi32(sum, bits), _mm512_setzero_si512());
            let at = line * out_row + group.outputs.start * 3;
            // SAFETY: the mask keeps the bytes of this group's outputs, which are inside the line.
            unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, _mm512_cvtusepi32_epi8(rounded)) };
        }
    }
    R
}

/// Weights of two lines of outputs for two neighbouring lines of inputs: the first's pair, the second's pair.
type PairOfWeights = [i32; 2];

/// As [`super::Down::apply`].
pub(super) fn down(rows: Rows<'_>, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8]) {
    assert!(is_available());
    let line = rows.line;
    let mut weights = Vec::new();
    for (start, out) in outputs.clone().step_by(2).zip(out.chunks_mut(line * 2)) {
        let pair = start..(start + 2).min(outputs.end);
        let reads = taps.reads(pair.clone());
        shared_weights(taps, pair.clone(), reads.clone(), &mut weights);
        let inputs = rows.of(reads);
        let (first, second) = out.split_at_mut(line);
        // A line that is not wanted is summed and dropped.
        let second = if second.is_empty() { None } else { Some(second) };
        // SAFETY: the machine has the instructions; `inputs` holds the lines that `weights` are for.
        unsafe { two_lines(inputs, line, &weights, taps, first, second) };
    }
}

/// The weights of one or two outputs over all lines that either reads, zero where one does not.
fn shared_weights(taps: &Taps<i16>, outputs: Range<usize>, reads: Range<usize>, weights: &mut Vec<PairOfWeights>) {
    weights.clear();
    weights.resize(reads.len().div_ceil(2), [0; 2]);
    for (which, &span) in taps.spans[outputs].iter().enumerate() {
        for (place, &weight) in (span.first - reads.start..).zip(taps.weights(span)) {
            weights[place / 2][which] |= (i32::from(weight) & 0xFFFF) << (16 * (place % 2));
        }
    }
}

/// # Safety
/// The machine [`is_available`]. `inputs` holds whole lines of `line` bytes, one or two for each of `weights`; `first` and
/// `second` are one line each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn two_lines(
    inputs: &[u8],
    line: usize,
    weights: &[PairOfWeights],
    taps: &Taps<i16>,
    first: &mut [u8],
    mut second: Option<&mut [u8]>,
) {
    let lines = inputs.len() / line;
    assert!(weights.len() == lines.div_ceil(2) && first.len() == line);
    assert!(second.as_ref().is_none_or(|second| second.len() == line));
    for at in (0..line).step_by(WINDOW) {
        let mask = if line - at >= WINDOW { u64::MAX } else { (1 << (line - at)) - 1 };
        let mut sums = [[_mm512_set1_epi32(taps.half()); 4]; 2];
        for (step, pair) in weights.iter().enumerate() {
            // The last of an odd number of lines has itself for a neighbour, with weight zero.
            let lower = (2 * step + 1).min(lines - 1);
            // SAFETY: both lines are in `inputs`, and the mask ends with them.
            let (upper, lower) = unsafe {
                let load = |row: usize| _mm512_maskz_loadu_epi8(mask, inputs.as_ptr().add(row * line + at).cast());
                (load(2 * step), load(lower))
            };
            let pixels = paired(upper, lower);
            for (sums, &weights) in sums.iter_mut().zip(pair) {
                let weights = _mm512_set1_epi32(weights);
                for (sum, pixels) in sums.iter_mut().zip(pixels) {
                    *sum = _mm512_dpwssd_epi32(*sum, pixels, weights);
                }
            }
        }
        let (one, two) = (clipped(sums[0], taps.bits), clipped(sums[1], taps.bits));
        // SAFETY: the mask ends with the lines.
        unsafe {
            _mm512_mask_storeu_epi8(first.as_mut_ptr().add(at).cast(), mask, one);
            if let Some(second) = &mut second {
                _mm512_mask_storeu_epi8(second.as_mut_ptr().add(at).cast(), mask, two);
            }
        }
    }
}

/// Bytes of two lines side by side in 32 bits, in the order that [`clipped`] undoes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn paired(upper: __m512i, lower: __m512i) -> [__m512i; 4] {
    let zero = _mm512_setzero_si512();
    let (low, high) = (_mm512_unpacklo_epi8(upper, lower), _mm512_unpackhi_epi8(upper, lower));
    [
        _mm512_unpacklo_epi8(low, zero),
        _mm512_unpackhi_epi8(low, zero),
        _mm512_unpacklo_epi8(high, zero),
        _mm512_unpackhi_epi8(high, zero),
    ]
}

/// Sums shifted, clipped to bytes, and put back in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn clipped(sums: [__m512i; 4], bits: u32) -> __m512i {
    let bits = _mm_cvtsi32_si128(bits as i32);
    let low = _mm512_packs_epi32(_mm512_sra_epi32(sums[0], bits), _mm512_sra_epi32(sums[1], bits));
    let high = _mm512_packs_epi32(_mm512_sra_epi32(sums[2], bits), _mm512_sra_epi32(sums[3], bits));
    _mm512_packus_epi16(low, high)
}
