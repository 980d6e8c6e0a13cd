//! Plain Rust.
//!
//! The transform is the integer algorithm of Loeffler, Ligtenberg and Moschytz with 13-bit constants: columns first,
//! keeping two fractional bits, then rows. Intermediates are 16 bits wide, wrapping and saturating where
//! libjpeg-turbo's x86 vector code does, so that broken files too decode as they do there; files of sane coefficients
//! never get that far.

use super::{Block, SIDE, ycc_pixel};

/// A row of eight values, one per lane.
type Row = [i16; 8];

/// Fractional bits of the constants.
const CONSTANT_BITS: u32 = 13;
/// Fractional bits kept between the passes.
const PASS_BITS: u32 = 2;

/// As [`super::inverse_dct`].
pub(super) fn inverse_dct(blocks: &[Block], quantisation: &[u16; 64], samples: &mut [u8], stride: usize) {
    for (index, block) in blocks.iter().enumerate() {
        inverse(block, quantisation, &mut samples[index * SIDE..], stride);
    }
}

fn inverse(block: &Block, quantisation: &[u16; 64], output: &mut [u8], stride: usize) {
    if block[1..].iter().all(|&coefficient| coefficient == 0) {
        return constant(block[0].wrapping_mul(quantisation[0] as i16), output, stride);
    }
    let mut rows = [[0; 8]; 8];
    for (y, row) in rows.iter_mut().enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = block[y * 8 + x].wrapping_mul(quantisation[y * 8 + x] as i16);
        }
    }
    let columns = if rows[1..].iter().flatten().all(|&value| value == 0) {
        [rows[0].map(|value| value << PASS_BITS); 8]
    } else {
        pass::<{ CONSTANT_BITS - PASS_BITS }>(&rows)
    };
    let samples = transpose(&pass::<{ CONSTANT_BITS + PASS_BITS + 3 }>(&transpose(&columns)));
    for (y, row) in samples.iter().enumerate() {
        output[y * stride..][..8].copy_from_slice(&row.map(to_sample));
    }
}

/// A block whose only coefficient is the (dequantised) DC: all samples equal.
fn constant(dc: i16, output: &mut [u8], stride: usize) {
    for y in 0..SIDE {
        output[y * stride..][..SIDE].fill(constant_sample(dc));
    }
}

/// The samples of a block whose only coefficient is the (dequantised) DC.
#[inline]
pub(super) fn constant_sample(dc: i16) -> u8 {
    to_sample(((i32::from(dc << PASS_BITS) + 16) >> (PASS_BITS + 3)) as i16)
}

/// Samples are centred at 128 and clipped.
#[inline]
fn to_sample(value: i16) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

#[inline]
fn transpose(rows: &[Row; 8]) -> [Row; 8] {
    std::array::from_fn(|y| std::array::from_fn(|x| rows[x][y]))
}

/// One pass over eight columns at once; `SHIFT` removes the fractional bits, rounding half up.
#[inline]
fn pass<const SHIFT: u32>(rows: &[Row; 8]) -> [Row; 8] {
    let mut output = [[0; 8]; 8];
    for lane in 0..8 {
        let column = transform(std::array::from_fn(|row| rows[row][lane]));
        for (row, value) in output.iter_mut().zip(column) {
            let rounded = value.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
            row[lane] = rounded.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        }
    }
    output
}

/// The one-dimensional transform, scaled by 2^13·√8. Constants are sums of the algorithm's cosines times 2^13.
#[inline]
fn transform(input: [i16; 8]) -> [i32; 8] {
    let wide = |value: i16| i32::from(value) << CONSTANT_BITS;
    let dot = |a: i16, x: i32, b: i16, y: i32| (i32::from(a) * x).wrapping_add(i32::from(b) * y);

    let low = dot(input[2], 4433, input[6], -10704);
    let high = dot(input[2], 10703, input[6], 4433);
    let sum = wide(input[0].wrapping_add(input[4]));
    let difference = wide(input[0].wrapping_sub(input[4]));
    let even =
        [sum.wrapping_add(high), difference.wrapping_add(low), difference.wrapping_sub(low), sum.wrapping_sub(high)];

    let (s73, s51) = (input[7].wrapping_add(input[3]), input[5].wrapping_add(input[1]));
    let a = dot(s73, -6436, s51, 9633);
    let b = dot(s73, 9633, s51, 6437);
    let odd = [
        dot(input[1], 4926, input[7], -7373).wrapping_add(b),
        dot(input[3], 4177, input[5], -20995).wrapping_add(a),
        dot(input[5], -4176, input[3], -20995).wrapping_add(b),
        dot(input[7], -4927, input[1], -7373).wrapping_add(a),
    ];
    std::array::from_fn(|i| if i < 4 { even[i].wrapping_add(odd[i]) } else { even[7 - i].wrapping_sub(odd[7 - i]) })
}

/// As [`super::double`].
#[inline(always)]
pub(super) fn double(near: &[u8], far: Option<&[u8]>, sums: &mut [u16], out: &mut [u8]) {
    let width = near.len();
    match far {
        None => {
            for (sum, &sample) in sums[1..=width].iter_mut().zip(near) {
                *sum = u16::from(sample);
            }
        }
        Some(far) => {
            for ((sum, &near), &far) in sums[1..=width].iter_mut().zip(near).zip(far) {
                *sum = 3 * u16::from(near) + u16::from(far);
            }
        }
    }
    // Repeating the outermost samples gives what libjpeg's special cases for the first and last column give.
    sums[0] = sums[1];
    sums[width + 1] = sums[width];
    match far {
        None => across::<2>(sums, 1, 2, out),
        Some(_) => across::<4>(sums, 8, 7, out),
    }
}

/// Doubles `sums` across with weights ¾ and ¼ and the two biases that libjpeg dithers the rounding with.
#[inline(always)]
fn across<const SHIFT: u32>(sums: &[u16], left_bias: u16, right_bias: u16, out: &mut [u8]) {
    let pairs = out.as_chunks_mut::<2>().0.iter_mut();
    for (((pair, &left), &here), &right) in pairs.zip(sums).zip(&sums[1..]).zip(&sums[2..]) {
        let here = 3 * here;
        let (left, right) = ((here + left + left_bias) >> SHIFT, (here + right + right_bias) >> SHIFT);
        *pair = (left | right << 8).to_le_bytes();
    }
}

/// As [`super::ycc_to_rgb`].
pub(super) fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    for (((pixel, &y), &cb), &cr) in out.as_chunks_mut::<3>().0.iter_mut().zip(y).zip(cb).zip(cr) {
        *pixel = ycc_pixel(y, cb, cr);
    }
}
