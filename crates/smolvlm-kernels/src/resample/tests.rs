//! Every instruction set against the plain passes.

use rand::{RngExt, SeedableRng};

use super::*;

/// Spans of every length over `inputs` pixels, in any order, with weights whose sums stay in range.
fn scattered(random: &mut rand_chacha::ChaCha8Rng, inputs: usize, outputs: usize) -> Taps<i16> {
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

/// Spans as a filter has them: of about equal length, moving on evenly.
fn even(random: &mut rand_chacha::ChaCha8Rng, inputs: usize, outputs: usize) -> Taps<i16> {
    let support = (6 * inputs / outputs).clamp(6, 40).min(inputs);
    let mut spans = Vec::new();
    let mut weights = Vec::new();
    for output in 0..outputs {
        let first = (output * inputs / outputs).min(inputs - support);
        spans.push(Span { first, len: support, offset: weights.len() });
        weights.extend((0..support).map(|_| random.random_range(-30_000i32..32_000) as i16));
    }
    Taps::new(15, inputs, spans, weights)
}

#[test]
fn every_instruction_set_gives_the_portable_passes_bytes() {
    let seed = 20_261_124;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for case in 0..300 {
        let (inputs, outputs) = (random.random_range(1..150), random.random_range(1..130));
        let other = random.random_range(1..40);
        let extremes = case % 3 == 0;
        let value = |random: &mut rand_chacha::ChaCha8Rng| -> u8 {
            if extremes { [0, 255][random.random_range(0..2)] } else { random.random() }
        };
        let rgb: Vec<u8> = (0..inputs * other * 3).map(|_| value(&mut random)).collect();
        let taps =
            if case % 2 == 0 { even(&mut random, inputs, outputs) } else { scattered(&mut random, inputs, outputs) };
        let mut across = vec![0; outputs * other * 3];
        let mut down = across.clone();
        portable::across(&rgb, &taps, &mut across);
        portable::down(Rows { rgb: &rgb, first: 0, line: other * 3 }, &taps, 0..outputs, &mut down);
        for set in Instructions::available() {
            let mut found = vec![1; across.len()];
            let pass = Across { arranged: arrange(&taps, set), taps: taps.clone() };
            pass.apply(&rgb, &mut found);
            assert!(found == across, "across, {set:?}, seed {seed}, case {case}");
            found.fill(1);
            let pass = Down { instructions: set, taps: taps.clone() };
            pass.apply(&rgb, 0, other * 3, 0..outputs, &mut found);
            assert!(found == down, "down, {set:?}, seed {seed}, case {case}");
        }
    }
}

#[test]
fn lines_from_the_middle_are_those_of_the_whole() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (inputs, outputs, line) = (60, 90, 99);
    let rgb: Vec<u8> = (0..inputs * line).map(|_| random.random()).collect();
    let pass = Down::new(even(&mut random, inputs, outputs));
    let mut whole = vec![0; outputs * line];
    pass.apply(&rgb, 0, line, 0..outputs, &mut whole);
    for part in [0..1, 3..10, 40..73, 80..90] {
        let reads = pass.reads(part.clone());
        let mut out = vec![0; part.len() * line];
        pass.apply(&rgb[reads.start * line..reads.end * line], reads.start, line, part.clone(), &mut out);
        assert!(out == whole[part.start * line..part.end * line], "{part:?}");
    }
}

#[test]
fn the_portable_passes_are_rounded_sums() {
    let spans = vec![Span { first: 0, len: 2, offset: 0 }, Span { first: 1, len: 1, offset: 2 }];
    let taps = Taps::new(2, 2, spans, vec![3i32, -1, 2]);
    let rgb = [10, 200, 0, 20, 0, 255];
    // (3·10 − 20 + 2) >> 2, (2·20 + 2) >> 2, clipped at both ends.
    let expected = [3, 150, 0, 10, 0, 128];
    let mut out = [0; 6];
    Across::new(taps.clone()).apply(&rgb, &mut out);
    assert_eq!(out, expected);
    Down::new(taps).apply(&rgb, 0, 3, 0..2, &mut out);
    assert_eq!(out, expected);
}

#[test]
#[should_panic(expected = "outside")]
fn a_span_outside_its_inputs_is_refused() {
    let _ = Taps::new(1, 2, vec![Span { first: 1, len: 2, offset: 0 }], vec![1i16, 1]);
}

#[test]
#[should_panic(expected = "not all there")]
fn lines_that_are_missing_are_refused() {
    let taps = Taps::new(1, 4, vec![Span { first: 1, len: 3, offset: 0 }], vec![1i16, 1, 1]);
    Down::new(taps).apply(&[0; 9], 2, 3, 0..1, &mut [0; 3]);
}
