//! AVX2: two blocks, or 32 pixels, at a time.

use std::arch::x86_64::*;

use super::{Block, SIDE, portable};

/// Pixels converted at once.
const PIXELS: usize = 32;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// As [`super::inverse_dct`], whose caller has checked that the lines fit.
pub(super) fn inverse_dct(blocks: &[Block], quantisation: &[u16; 64], samples: &mut [u8], stride: usize) {
    assert!(is_available());
    let (pairs, last) = blocks.as_chunks::<2>();
    for (index, pair) in pairs.iter().enumerate() {
        let start = index * 2 * SIDE;
        // SAFETY: the machine has AVX2.
        let lines = unsafe { two_blocks(&pair[0], &pair[1], quantisation) };
        for (y, line) in lines.iter().enumerate() {
            samples[start + y * stride..][..2 * SIDE].copy_from_slice(line);
        }
    }
    if let [block] = last {
        let start = pairs.len() * 2 * SIDE;
        // SAFETY: the machine has AVX2.
        let lines = unsafe { two_blocks(block, block, quantisation) };
        for (y, line) in lines.iter().enumerate() {
            samples[start + y * stride..][..SIDE].copy_from_slice(&line[..SIDE]);
        }
    }
}

/// The eight lines of two blocks beside each other.
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn two_blocks(a: &Block, b: &Block, quantisation: &[u16; 64]) -> [[u8; 16]; 8] {
    let row = |block: &Block, y: usize| {
        // SAFETY: a row is 16 bytes of the block.
        unsafe { _mm_loadu_si128(block[y * SIDE..][..SIDE].as_ptr().cast()) }
    };
    let mut rows = [_mm256_setzero_si256(); 8];
    for (y, both) in rows.iter_mut().enumerate() {
        *both = _mm256_set_m128i(row(b, y), row(a, y));
    }
    // All bits of the first row but those of the DC.
    let others = _mm256_broadcastsi128_si256(_mm_setr_epi16(0, -1, -1, -1, -1, -1, -1, -1));
    let lower = rows[1..].iter().fold(_mm256_setzero_si256(), |any, &row| _mm256_or_si256(any, row));
    let any = _mm256_or_si256(lower, _mm256_and_si256(rows[0], others));
    if _mm256_testz_si256(any, any) == 1 {
        let sample = |block: &Block| [portable::constant_sample(block[0].wrapping_mul(quantisation[0] as i16)); SIDE];
        let mut line = [0; 16];
        line[..SIDE].copy_from_slice(&sample(a));
        line[SIDE..].copy_from_slice(&sample(b));
        return [line; 8];
    }
    for (y, both) in rows.iter_mut().enumerate() {
        // SAFETY: a row is 16 bytes of the table.
        let steps = unsafe { _mm_loadu_si128(quantisation[y * SIDE..][..SIDE].as_ptr().cast()) };
        *both = _mm256_mullo_epi16(*both, _mm256_broadcastsi128_si256(steps));
    }
    let columns = transpose(first_pass(rows));
    to_lines(pass::<18>(columns))
}

/// Down the columns. Where a block's rows below the first are all zero, its first row is only shifted: this wraps where
/// the transform would saturate.
#[inline]
#[target_feature(enable = "avx2")]
fn first_pass(rows: [__m256i; 8]) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    let lower = rows[1..].iter().fold(zero, |any, &row| _mm256_or_si256(any, row));
    let empty = _mm256_cmpeq_epi64(lower, zero);
    let empty = _mm256_and_si256(empty, _mm256_shuffle_epi32::<0b01_00_11_10>(empty));
    let columns = pass::<11>(rows);
    if _mm256_testz_si256(empty, empty) == 1 {
        return columns;
    }
    let shifted = _mm256_slli_epi16::<2>(rows[0]);
    columns.map(|column| _mm256_blendv_epi8(column, shifted, empty))
}

/// One pass over the 16 columns of two blocks; `SHIFT` removes the fractional bits. See `portable.rs: transform`.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const SHIFT: i32>(r: [__m256i; 8]) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    let (sum, difference) = (_mm256_add_epi16(r[0], r[4]), _mm256_sub_epi16(r[0], r[4]));
    let (s73, s51) = (_mm256_add_epi16(r[7], r[3]), _mm256_add_epi16(r[5], r[1]));
    let low = half::<SHIFT>([
        _mm256_unpacklo_epi16(zero, sum),
        _mm256_unpacklo_epi16(zero, difference),
        _mm256_unpacklo_epi16(r[2], r[6]),
        _mm256_unpacklo_epi16(s73, s51),
        _mm256_unpacklo_epi16(r[1], r[7]),
        _mm256_unpacklo_epi16(r[3], r[5]),
    ]);
    let high = half::<SHIFT>([
        _mm256_unpackhi_epi16(zero, sum),
        _mm256_unpackhi_epi16(zero, difference),
        _mm256_unpackhi_epi16(r[2], r[6]),
        _mm256_unpackhi_epi16(s73, s51),
        _mm256_unpackhi_epi16(r[1], r[7]),
        _mm256_unpackhi_epi16(r[3], r[5]),
    ]);
    let mut output = [zero; 8];
    for ((output, low), high) in output.iter_mut().zip(low).zip(high) {
        *output = _mm256_packs_epi32(low, high);
    }
    output
}

/// The transform of eight columns in 32 bits, from pairs of 16-bit inputs.
#[inline]
#[target_feature(enable = "avx2")]
fn half<const SHIFT: i32>([sum, difference, i26, s7351, i17, i35]: [__m256i; 6]) -> [__m256i; 8] {
    let dot = |inputs: __m256i, x: i16, y: i16| {
        let constants = i32::from(x) & 0xFFFF | i32::from(y) << 16;
        _mm256_madd_epi16(inputs, _mm256_set1_epi32(constants))
    };
    let round = _mm256_set1_epi32(1 << (SHIFT - 1));
    // 16 bits above a zero, shifted down to 13 fractional bits; the rounding enters here once for every output.
    let sum = _mm256_add_epi32(_mm256_srai_epi32::<3>(sum), round);
    let difference = _mm256_add_epi32(_mm256_srai_epi32::<3>(difference), round);
    let (low, high) = (dot(i26, 4433, -10704), dot(i26, 10703, 4433));
    let even = [
        _mm256_add_epi32(sum, high),
        _mm256_add_epi32(difference, low),
        _mm256_sub_epi32(difference, low),
        _mm256_sub_epi32(sum, high),
    ];
    let (a, b) = (dot(s7351, -6436, 9633), dot(s7351, 9633, 6437));
    let odd = [
        _mm256_add_epi32(dot(i17, 4926, -7373), b),
        _mm256_add_epi32(dot(i35, 4177, -20995), a),
        _mm256_add_epi32(dot(i35, -20995, -4176), b),
        _mm256_add_epi32(dot(i17, -7373, -4927), a),
    ];
    let mut output = [sum; 8];
    for i in 0..4 {
        output[i] = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(even[i], odd[i]));
        output[7 - i] = _mm256_srai_epi32::<SHIFT>(_mm256_sub_epi32(even[i], odd[i]));
    }
    output
}

/// Each block's rows become its columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
    let low = |i: usize, j: usize| _mm256_unpacklo_epi16(r[i], r[j]);
    let high = |i: usize, j: usize| _mm256_unpackhi_epi16(r[i], r[j]);
    // Pairs of rows, four columns each; then four rows and two columns each; then eight rows.
    let two = [low(0, 1), low(2, 3), low(4, 5), low(6, 7), high(0, 1), high(2, 3), high(4, 5), high(6, 7)];
    let four =
        [0, 2, 4, 6].map(|i| (_mm256_unpacklo_epi32(two[i], two[i + 1]), _mm256_unpackhi_epi32(two[i], two[i + 1])));
    let eight = |a: __m256i, b: __m256i| [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)];
    let [c0, c1] = eight(four[0].0, four[1].0);
    let [c2, c3] = eight(four[0].1, four[1].1);
    let [c4, c5] = eight(four[2].0, four[3].0);
    let [c6, c7] = eight(four[2].1, four[3].1);
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

/// Columns of both blocks to lines of bytes, centred at 128 and clipped.
#[inline]
#[target_feature(enable = "avx2")]
fn to_lines(c: [__m256i; 8]) -> [[u8; 16]; 8] {
    let packed = [0, 1, 2, 3].map(|i| _mm256_packs_epi16(c[i], c[i + 4]));
    let (c01, c45) = (_mm256_unpacklo_epi8(packed[0], packed[1]), _mm256_unpackhi_epi8(packed[0], packed[1]));
    let (c23, c67) = (_mm256_unpacklo_epi8(packed[2], packed[3]), _mm256_unpackhi_epi8(packed[2], packed[3]));
    let upper = (_mm256_unpacklo_epi16(c01, c23), _mm256_unpacklo_epi16(c45, c67));
    let lower = (_mm256_unpackhi_epi16(c01, c23), _mm256_unpackhi_epi16(c45, c67));
    let two_lines = [
        _mm256_unpacklo_epi32(upper.0, upper.1),
        _mm256_unpackhi_epi32(upper.0, upper.1),
        _mm256_unpacklo_epi32(lower.0, lower.1),
        _mm256_unpackhi_epi32(lower.0, lower.1),
    ];
    let mut lines = [[0; 16]; 8];
    for (two, out) in two_lines.into_iter().zip(lines.as_chunks_mut::<2>().0) {
        // From two lines of one block after two of the other to both blocks' first lines and both blocks' second.
        let beside = _mm256_permute4x64_epi64::<0b11_01_10_00>(two);
        let samples = _mm256_xor_si256(beside, _mm256_set1_epi8(i8::MIN));
        // SAFETY: two lines are 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), samples) };
    }
    lines
}

/// As [`super::double`].
pub(super) fn double(near: &[u8], far: Option<&[u8]>, sums: &mut [u16], out: &mut [u8]) {
    /// The plain code, compiled to AVX2.
    #[target_feature(enable = "avx2")]
    fn compiled(near: &[u8], far: Option<&[u8]>, sums: &mut [u16], out: &mut [u8]) {
        portable::double(near, far, sums, out);
    }
    assert!(is_available());
    // SAFETY: the machine has AVX2.
    unsafe { compiled(near, far, sums, out) }
}

/// As [`super::ycc_to_rgb`], for lines of equal length.
pub(super) fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    assert!(is_available());
    let (lines, tail) = out.as_chunks_mut::<{ 3 * PIXELS }>();
    let (y, y_tail) = y.as_chunks::<PIXELS>();
    let (cb, cb_tail) = cb.as_chunks::<PIXELS>();
    let (cr, cr_tail) = cr.as_chunks::<PIXELS>();
    for (((out, y), cb), cr) in lines.iter_mut().zip(y).zip(cb).zip(cr) {
        // SAFETY: the machine has AVX2.
        unsafe { pixels(y, cb, cr, out) };
    }
    portable::ycc_to_rgb(y_tail, cb_tail, cr_tail, tail);
}

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn pixels(y: &[u8; PIXELS], cb: &[u8; PIXELS], cr: &[u8; PIXELS], out: &mut [u8; 3 * PIXELS]) {
    // SAFETY: each has 32 bytes.
    let [y, cb, cr] = [y, cb, cr].map(|samples| unsafe { _mm256_loadu_si256(samples.as_ptr().cast()) });
    let zero = _mm256_setzero_si256();
    let low = half_of_pixels([y, cb, cr].map(|samples| _mm256_unpacklo_epi8(samples, zero)));
    let high = half_of_pixels([y, cb, cr].map(|samples| _mm256_unpackhi_epi8(samples, zero)));
    let colors = [0, 1, 2].map(|i| _mm256_packus_epi16(low[i], high[i]));
    for (part, masks) in INTERLEAVE.iter().enumerate() {
        let mut both = zero;
        for (color, mask) in colors.into_iter().zip(masks) {
            // SAFETY: a mask has 16 bytes.
            let mask = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(mask.as_ptr().cast())) };
            both = _mm256_or_si256(both, _mm256_shuffle_epi8(color, mask));
        }
        // SAFETY: 16 pixels, 48 bytes, are three such parts; the second 16 follow them.
        unsafe {
            let out = out.as_mut_ptr().add(16 * part);
            _mm_storeu_si128(out.cast(), _mm256_castsi256_si128(both));
            _mm_storeu_si128(out.add(48).cast(), _mm256_extracti128_si256::<1>(both));
        }
    }
}

/// Red, green and blue of 16 pixels as 16-bit numbers, not clipped yet.
///
/// Factors are made to fit 16 bits by taking whole multiples out: 1.402 = 1 + 0.402, 0.71414 = 1 − 0.28586,
/// 1.772 = 2 − 0.228. The product of twice a sample keeps the bit that rounds.
#[inline]
#[target_feature(enable = "avx2")]
fn half_of_pixels([y, cb, cr]: [__m256i; 3]) -> [__m256i; 3] {
    let center = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, center), _mm256_sub_epi16(cr, center));
    let scaled = |twice: __m256i, factor: i16| {
        let product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16(factor));
        _mm256_srai_epi16::<1>(_mm256_add_epi16(product, _mm256_set1_epi16(1)))
    };
    let (twice_cb, twice_cr) = (_mm256_add_epi16(cb, cb), _mm256_add_epi16(cr, cr));
    let r = _mm256_add_epi16(_mm256_add_epi16(y, cr), scaled(twice_cr, 26345));
    let b = _mm256_add_epi16(_mm256_add_epi16(y, twice_cb), scaled(twice_cb, -14942));
    let factors = _mm256_set1_epi32(-22554 & 0xFFFF | 18734 << 16);
    let green = |pairs: __m256i| {
        _mm256_srai_epi32::<16>(_mm256_add_epi32(_mm256_madd_epi16(pairs, factors), _mm256_set1_epi32(32768)))
    };
    let chroma = _mm256_packs_epi32(green(_mm256_unpacklo_epi16(cb, cr)), green(_mm256_unpackhi_epi16(cb, cr)));
    let g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), chroma);
    [r, g, b]
}

/// For each 16 bytes of 16 interleaved pixels, and each colour: which of the colour's bytes go where.
const INTERLEAVE: [[[i8; 16]; 3]; 3] = {
    let mut masks = [[[-1; 16]; 3]; 3];
    let mut byte = 0;
    while byte < 48 {
        masks[byte / 16][byte % 3][byte % 16] = (byte / 3) as i8;
        byte += 1;
    }
    masks
};
