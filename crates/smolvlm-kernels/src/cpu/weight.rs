//! Matrices packed into panels, and tables of rows.

use half::bf16;
use rayon::prelude::*;

use super::matmul::PANEL;
use crate::aligned::{Aligned, Plain};
use crate::view::{Format, MatrixView};

/// A linear layer's matrix, `[outputs, inputs]`, in panels of 64 outputs.
pub struct Weight {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

/// The numbers of a packed matrix, one panel after another; missing outputs and inputs are zeros.
pub(super) enum Panels {
    /// `[panels, inputs, 64]`.
    F32(Aligned<f32>),
    /// `[panels, inputs / 2, 64, 2]`, the number of inputs rounded up to even.
    Bf16(Aligned<u16>),
}

impl Weight {
    /// Rows of `parts` one below the other.
    pub(super) fn stacked(parts: &[MatrixView<'_>], format: Format) -> Self {
        let inputs = parts[0].cols();
        assert!(parts.iter().all(|part| part.cols() == inputs), "stacked matrices have one width");
        let outputs = parts.iter().map(MatrixView::rows).sum();
        Self::packed(outputs, inputs, format, |output, row| {
            let mut local = output;
            for part in parts {
                if local < part.rows() {
                    return part.row(local, row);
                }
                local -= part.rows();
            }
        })
    }

    /// Gate and up rows in turns of 32, so that one panel holds 32 of each and the product can be formed in place.
    /// A last panel is filled with zero rows.
    pub(super) fn gate_up(gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Self {
        assert_eq!((gate.rows(), gate.cols()), (up.rows(), up.cols()), "gate and up have one shape");
        let width = gate.rows();
        let outputs = width.div_ceil(PANEL / 2) * PANEL;
        let mut weight = Self::packed(outputs, gate.cols(), format, |output, row| {
            let (panel, column) = (output / PANEL, output % PANEL);
            let (source, column) = if column < PANEL / 2 { (gate, column) } else { (up, column - PANEL / 2) };
            let index = panel * (PANEL / 2) + column;
            if index < width {
                source.row(index, row);
            } else {
                row.fill(0.0);
            }
        });
        weight.outputs = 2 * width;
        weight
    }

    fn packed(outputs: usize, inputs: usize, format: Format, row: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let panels = match format {
            Format::F32 => Panels::F32(pack(outputs, inputs, row, |value: f32| value, 1)),
            Format::Bf16 => Panels::Bf16(pack(outputs, inputs, row, |value| bf16::from_f32(value).to_bits(), 2)),
        };
        Self { outputs, inputs, panels }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes of the packed matrix.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(data) => data.len() * 4,
            Panels::Bf16(data) => data.len() * 2,
        }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }
}

/// Packs rows into panels of `[inputs / group, 64, group]`.
fn pack<T: Plain>(
    outputs: usize,
    inputs: usize,
    row: impl Fn(usize, &mut [f32]) + Sync,
    convert: impl Fn(f32) -> T + Sync,
    group: usize,
) -> Aligned<T> {
    let padded = inputs.next_multiple_of(group);
    let mut data = Aligned::zeroed(outputs.div_ceil(PANEL) * PANEL * padded);
    data.par_chunks_mut(PANEL * padded).enumerate().for_each(|(panel, chunk)| {
        let mut values = vec![0.0; inputs];
        for column in 0..PANEL.min(outputs - panel * PANEL) {
            row(panel * PANEL + column, &mut values);
            for (i, value) in values.iter().enumerate() {
                chunk[(i / group * PANEL + column) * group + i % group] = convert(*value);
            }
        }
    });
    data
}

/// A matrix of which single rows are read.
pub struct Table {
    width: usize,
    rows: TableRows,
}

enum TableRows {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Table {
    pub(super) fn new(matrix: MatrixView<'_>, format: Format) -> Self {
        let width = matrix.cols();
        let mut row = vec![0.0; width];
        let mut each = |sink: &mut dyn FnMut(&[f32])| {
            for i in 0..matrix.rows() {
                matrix.row(i, &mut row);
                sink(&row);
            }
        };
        let rows = match format {
            Format::F32 => {
                let mut data = Vec::with_capacity(matrix.rows() * width);
                each(&mut |row| data.extend_from_slice(row));
                TableRows::F32(data)
            }
            Format::Bf16 => {
                let mut data = Vec::with_capacity(matrix.rows() * width);
                each(&mut |row| data.extend(row.iter().map(|value| bf16::from_f32(*value))));
                TableRows::Bf16(data)
            }
        };
        Self { width, rows }
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.width..(row + 1) * self.width;
        match &self.rows {
            TableRows::F32(data) => out.copy_from_slice(&data[range]),
            TableRows::Bf16(data) => out.iter_mut().zip(&data[range]).for_each(|(o, v)| *o = v.to_f32()),
        }
    }
}
