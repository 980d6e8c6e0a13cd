//! Reading a packed matrix number by number: for backends that keep another layout, and for checking.

use half::bf16;

use super::{Arrangement, PackedMatrix, Q4_CHUNK, TRAILER, number_bytes, panel_bytes};
use crate::cpu::matmul::{PANEL, STEP};
use crate::quantise::GROUP;
use crate::view::Format;

/// A matrix out of its layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// `[rows, inputs]`, row-major; gate rows before up rows. Of a quantised format: whole numbers, factors multiplied
    /// in.
    pub numbers: Vec<f32>,
    /// Of a quantised format: what each row's whole numbers are multiples of.
    pub steps: Vec<f32>,
}

/// Reads every number of a packed matrix.
pub fn unpack(matrix: &PackedMatrix) -> Unpacked {
    let shape = matrix.shape();
    let number: fn(&PackedMatrix, usize, usize) -> f32 = match shape.arrangement {
        Arrangement::Table => table_number,
        Arrangement::Stacked | Arrangement::GateUp => panel_number,
    };
    let each = (0..shape.rows).flat_map(|row| (0..shape.inputs).map(move |input| (row, input)));
    let numbers = each.map(|(row, input)| number(matrix, row, input)).collect();
    let rows = if shape.format.is_quantised() { shape.rows } else { 0 };
    Unpacked { numbers, steps: (0..rows).map(|row| f32_at(matrix.bytes(), step_place(matrix, row))).collect() }
}

fn table_number(matrix: &PackedMatrix, row: usize, input: usize) -> f32 {
    let shape = matrix.shape();
    let bytes = &matrix.bytes()[(row * shape.inputs + input) * number_bytes(shape.format)..];
    decoded(bytes, shape.format)
}

fn panel_number(matrix: &PackedMatrix, row: usize, input: usize) -> f32 {
    let shape = matrix.shape();
    let (panel, column) = place(matrix, row);
    let panel = &matrix.bytes()[panel * panel_bytes(shape.inputs, shape.format)..];
    if shape.format == Format::Q4 {
        let (chunk, half, k) = (&panel[input / (2 * GROUP) * Q4_CHUNK..], input / GROUP % 2, input % GROUP);
        let pair = chunk[(k / STEP * PANEL + column) * STEP + k % STEP];
        let integer = f32::from((pair >> (4 * half)) & 15) - 8.0;
        let factors = &chunk[GROUP * PANEL..];
        return f32::from(factors[half * PANEL + column].cast_signed()) * integer;
    }
    let size = number_bytes(shape.format);
    let (step, part) = (input * size / STEP, input * size % STEP);
    decoded(&panel[(step * PANEL + column) * STEP + part..], shape.format)
}

fn decoded(bytes: &[u8], format: Format) -> f32 {
    match format {
        Format::F32 => f32_at(bytes, 0),
        Format::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Format::Q8 | Format::Q4 => f32::from(bytes[0].cast_signed()),
    }
}

/// The panel of a row, and its column there.
fn place(matrix: &PackedMatrix, row: usize) -> (usize, usize) {
    let (turn, width) = (PANEL / 2, matrix.shape().rows / 2);
    match matrix.shape().arrangement {
        Arrangement::GateUp if row < width => (row / turn, row % turn),
        Arrangement::GateUp => ((row - width) / turn, turn + (row - width) % turn),
        Arrangement::Stacked | Arrangement::Table => (row / PANEL, row % PANEL),
    }
}

fn step_place(matrix: &PackedMatrix, row: usize) -> usize {
    let shape = matrix.shape();
    if shape.arrangement == Arrangement::Table {
        return shape.rows * shape.inputs + row * 4;
    }
    let (panel, column) = place(matrix, row);
    (panel + 1) * panel_bytes(shape.inputs, shape.format) - TRAILER + column * 4
}

fn f32_at(bytes: &[u8], place: usize) -> f32 {
    f32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}
