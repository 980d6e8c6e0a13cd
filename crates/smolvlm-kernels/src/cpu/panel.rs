//! Panels of packed matrices, output by output and input by input.

use half::bf16;

use super::lanes::nearest_bf16;
use super::matmul::{CHUNK, PANEL, STEP};
use crate::packed::{Arrangement, PANEL_CHUNK, Q4_CHUNK, TRAILER, number_bytes};
use crate::quantise::{self, GROUP, Q4Group};
use crate::view::Format;

/// Rows of a gate, or of what it opens, side by side in a panel.
pub(super) const TURN: usize = PANEL / 2;

/// Which row of a gate and an up matrix, one below the other, is an output of their panels; none for those that fill up
/// the last one.
pub(super) fn gated_row(output: usize, width: usize) -> Option<usize> {
    let (panel, column) = (output / PANEL, output % PANEL);
    let index = panel * TURN + column % TURN;
    (index < width).then_some(if column < TURN { index } else { width + index })
}

/// The same of any arrangement in panels of `outputs` rows.
pub(super) fn row_of(arrangement: Arrangement, output: usize, outputs: usize) -> Option<usize> {
    match arrangement {
        Arrangement::GateUp => gated_row(output, outputs / 2),
        Arrangement::Stacked | Arrangement::Table => (output < outputs).then_some(output),
    }
}

/// Writes a panel of floats, input by input; what `row` leaves alone is zero.
pub(super) fn pack_columns(format: Format, inputs: usize, panel: &mut [u8], row: impl Fn(usize, &mut [f32; PANEL])) {
    let steps = panel.as_chunks_mut::<STEP>().0.as_chunks_mut::<PANEL>().0;
    let mut numbers = [0.0; PANEL];
    if format == Format::F32 {
        let (used, unused) = steps.split_at_mut(inputs);
        for (input, step) in used.iter_mut().enumerate() {
            row(input, &mut numbers);
            for i in 0..PANEL {
                step[i] = numbers[i].to_le_bytes();
            }
        }
        return unused.fill([[0; STEP]; PANEL]);
    }
    let mut second = [0.0; PANEL];
    let (used, unused) = steps.split_at_mut(inputs.div_ceil(2));
    for (pair, step) in used.iter_mut().enumerate() {
        row(2 * pair, &mut numbers);
        if 2 * pair + 1 < inputs {
            row(2 * pair + 1, &mut second);
        } else {
            second = [0.0; PANEL];
        }
        for i in 0..PANEL {
            let pair = u32::from(nearest_bf16(numbers[i])) | u32::from(nearest_bf16(second[i])) << 16;
            step[i] = pair.to_le_bytes();
        }
    }
    unused.fill([[0; STEP]; PANEL]);
}

/// Reads one output's numbers from its panel.
pub(super) fn unpack_output(format: Format, column: usize, panel: &[u8], out: &mut [f32]) {
    let steps = panel.as_chunks::<STEP>().0;
    let size = number_bytes(format);
    let step = |panel: &[u8]| {
        let at = panel.len() - TRAILER + column * STEP;
        f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]])
    };
    match format {
        Format::F32 => {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = f32::from_le_bytes(steps[i * PANEL + column]));
        }
        Format::Bf16 => out.iter_mut().enumerate().for_each(|(i, out)| {
            let pair = steps[i / 2 * PANEL + column];
            *out = bf16::from_le_bytes([pair[i % 2 * 2], pair[i % 2 * 2 + 1]]).to_f32();
        }),
        Format::Q8 => {
            let step = step(panel);
            out.iter_mut().enumerate().for_each(|(i, out)| {
                *out = step * f32::from(steps[i / STEP * PANEL + column][i % STEP].cast_signed());
            });
        }
        Format::Q4 => {
            let (step, chunks) = (step(panel), out.len().div_ceil(CHUNK / size));
            let mut wide = vec![0; chunks * PANEL_CHUNK];
            expand_q4(panel, chunks, &mut wide);
            let steps = wide.as_chunks::<STEP>().0;
            out.iter_mut().enumerate().for_each(|(i, out)| {
                *out = step * f32::from(steps[i / STEP * PANEL + column][i % STEP].cast_signed());
            });
        }
    }
}

/// Writes one output's weights into its panel.
pub(super) fn pack_output(format: Format, column: usize, values: &[f32], panel: &mut [u8]) {
    match format {
        Format::F32 => scatter(panel, column, values.iter().map(|value| value.to_le_bytes())),
        Format::Bf16 => scatter(panel, column, values.iter().map(|value| bf16::from_f32(*value).to_le_bytes())),
        Format::Q8 => {
            let mut integers = vec![0; values.len()];
            let step = quantise::q8(values, &mut integers);
            scatter(panel, column, integers.iter().map(|integer| integer.to_le_bytes()));
            write_trailer(panel, column, step, integers.iter().map(|integer| i32::from(*integer)).sum());
        }
        Format::Q4 => {
            let mut groups = vec![Q4Group::default(); values.len().div_ceil(GROUP)];
            let step = quantise::q4(values, &mut groups);
            let mut sum = 0;
            for (i, group) in groups.iter().enumerate() {
                let (chunk, high) = (&mut panel[i / 2 * Q4_CHUNK..][..Q4_CHUNK], i % 2);
                chunk[PANEL_CHUNK / 2 + high * PANEL + column] = group.factor.cast_unsigned();
                for (k, integer) in group.integers.iter().enumerate() {
                    let nibble = (integer + 8).cast_unsigned();
                    chunk[(k / STEP * PANEL + column) * STEP + k % STEP] |= nibble << (4 * high);
                    sum += i32::from(group.factor) * i32::from(*integer);
                }
            }
            write_trailer(panel, column, step, sum);
        }
    }
}

/// Writes one output's numbers, `SIZE` bytes each, where the kernels read them.
fn scatter<const SIZE: usize>(panel: &mut [u8], column: usize, values: impl Iterator<Item = [u8; SIZE]>) {
    let in_step = STEP / SIZE;
    for (i, value) in values.enumerate() {
        panel[(i / in_step * PANEL + column) * STEP + i % in_step * SIZE..][..SIZE].copy_from_slice(&value);
    }
}

fn write_trailer(panel: &mut [u8], column: usize, step: f32, sum: i32) {
    let trailer = panel.len() - TRAILER;
    panel[trailer + column * 4..][..4].copy_from_slice(&step.to_le_bytes());
    panel[trailer + TRAILER / 2 + column * 4..][..4].copy_from_slice(&sum.to_le_bytes());
}

/// Writes a 4-bit panel's integers, times their factors, as an 8-bit panel.
#[inline(always)]
pub(super) fn expand_q4(panel: &[u8], chunks: usize, out: &mut [u8]) {
    let packed = panel.as_chunks::<Q4_CHUNK>().0;
    for (packed, out) in packed.iter().zip(out.as_chunks_mut::<PANEL_CHUNK>().0).take(chunks) {
        let (bytes, factors) = packed.split_at(PANEL_CHUNK / 2);
        for (high, (out, factors)) in
            out.as_chunks_mut::<{ PANEL_CHUNK / 2 }>().0.iter_mut().zip(factors.as_chunks::<PANEL>().0).enumerate()
        {
            let steps = bytes.as_chunks::<{ PANEL * STEP }>().0;
            for (bytes, out) in steps.iter().zip(out.as_chunks_mut::<{ PANEL * STEP }>().0) {
                for i in 0..PANEL * STEP {
                    let nibble = (bytes[i] >> (4 * high)) & 15;
                    out[i] = nibble.wrapping_sub(8).wrapping_mul(factors[i / STEP]);
                }
            }
        }
    }
}
