//! Every instruction set against the plain code.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Blocks of every kind: dense, sparse, of a DC alone, of a first row alone, sane and absurd.
fn block(random: &mut ChaCha8Rng) -> Block {
    let mut block = [0; 64];
    let reach = [1, 30, 2000, i32::from(i16::MAX)][random.random_range(0..4)];
    let value = |random: &mut ChaCha8Rng| match random.random_range(0..20) {
        0 => i16::MIN,
        1 => i16::MAX,
        _ => random.random_range(-reach..=reach) as i16,
    };
    let most = [1, 8, 64][random.random_range(0..3)];
    let sparse = random.random_range(1..8);
    for (place, coefficient) in block.iter_mut().enumerate().take(most) {
        if place == 0 || random.random_range(0..sparse) == 0 {
            *coefficient = value(random);
        }
    }
    block
}

#[test]
fn transforms_are_equal_for_sane_and_absurd_coefficients() {
    let seed = 20_261_124;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for case in 0..3000 {
        let blocks: Vec<Block> = (0..random.random_range(0..6)).map(|_| block(&mut random)).collect();
        let reach = [2, 256, 65_535][case % 3];
        let quantisation: [u16; 64] = std::array::from_fn(|_| random.random_range(0..=reach));
        let stride = blocks.len() * SIDE + random.random_range(0..9);
        let mut expected = vec![7; stride * SIDE];
        let mut found = expected.clone();
        portable::inverse_dct(&blocks, &quantisation, &mut expected, stride);
        inverse_dct(&blocks, &quantisation, &mut found, stride);
        assert!(found == expected, "seed {seed}, case {case}");
    }
}

#[test]
fn every_pair_of_chroma_samples_converts_equally() {
    let lines: Vec<u8> = (0..=255).collect();
    for cb in 0..=255 {
        for y in [0, 1, 77, 128, 254, 255] {
            let (y, cb) = ([y; 256], [cb; 256]);
            let (mut expected, mut found) = ([0; 768], [0; 768]);
            portable::ycc_to_rgb(&y, &cb, &lines, &mut expected);
            ycc_to_rgb(&y, &cb, &lines, &mut found);
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn lines_of_every_length_double_and_convert_equally() {
    let seed = 3;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for width in 1..200 {
        let mut line = |width: usize| -> Vec<u8> {
            (0..width)
                .map(|_| if width.is_multiple_of(3) { [0, 255][random.random_range(0..2)] } else { random.random() })
                .collect()
        };
        let (near, far) = (line(width), line(width));
        for far in [None, Some(far.as_slice())] {
            let (mut expected, mut found) = (vec![0; width * 2], vec![1; width * 2]);
            portable::double(&near, far, &mut vec![0; width + 2], &mut expected);
            double(&near, far, &mut vec![0; width + 2], &mut found);
            assert_eq!(found, expected, "seed {seed}, width {width}");
        }
        let (y, cb, cr) = (line(width), line(width + 1), line(width));
        let (mut expected, mut found) = (vec![0; width * 3], vec![1; width * 3]);
        portable::ycc_to_rgb(&y, &cb, &cr, &mut expected);
        ycc_to_rgb(&y, &cb, &cr, &mut found);
        assert_eq!(found, expected, "seed {seed}, width {width}");
    }
}

#[test]
fn a_constant_block_and_a_grey_pixel_are_what_they_say() {
    let mut block = [0; 64];
    block[0] = 8;
    let mut samples = [0; 64];
    inverse_dct(&[block], &[2; 64], &mut samples, 8);
    assert_eq!(samples, [130; 64]);
    let mut pixel = [0; 3];
    ycc_to_rgb(&[9], &[128], &[128], &mut pixel);
    assert_eq!(pixel, [9; 3]);
}

#[test]
#[should_panic(expected = "do not fit")]
fn lines_that_are_too_short_are_refused() {
    inverse_dct(&[[0; 64]; 2], &[1; 64], &mut [0; 200], 15);
}
