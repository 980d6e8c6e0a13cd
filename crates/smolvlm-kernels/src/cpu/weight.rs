//! Matrices packed into panels.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::matmul::{Dot, PANEL, chunks};
use super::panel::{TURN, gated_row, pack_columns, pack_output, row_of, unpack_output};
use super::shared::SharedRows;
use super::tensor::{Pool, Pooled};
use super::threads::Threads;
use crate::aligned::{Aligned, numbers};
use crate::packed::{Arrangement, PackedMatrix, PackedShape, TRAILER, number_bytes, panel_bytes};
use crate::view::{Format, MatrixView};

/// A linear layer's matrix, `[outputs, inputs]`, in panels of 32 outputs.
///
/// Its layout is that of [`packed`](crate::packed), wherever it lies.
pub struct Weight {
    outputs: usize,
    inputs: usize,
    format: Format,
    bytes: Bytes,
}

/// Memory of a matrix: our own, or a file's.
pub(super) enum Bytes {
    Own(Aligned),
    /// So many bytes of a recycled buffer.
    Pooled(Pooled, usize),
    Mapped(PackedMatrix),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(memory) => memory,
            Self::Pooled(memory, len) => &memory[..*len],
            Self::Mapped(matrix) => matrix.bytes(),
        }
    }
}

impl Weight {
    /// Rows of `parts` one below the other.
    pub(super) fn stacked(threads: &Threads, parts: &[MatrixView<'_>], format: Format) -> Self {
        let inputs = parts[0].cols();
        assert!(parts.iter().all(|part| part.cols() == inputs), "stacked matrices have one width");
        let outputs = parts.iter().map(MatrixView::rows).sum();
        let mut weight = Self::empty(outputs, inputs, outputs.div_ceil(PANEL), format);
        weight.fill(threads, outputs, |output, row| {
            let mut local = output;
            for part in parts {
                if local < part.rows() {
                    return part.row(local, row);
                }
                local -= part.rows();
            }
        });
        weight
    }

    /// Gate and up rows in turns of 16, so that one panel holds 16 of each and the product can be formed in place.
    /// A last panel is filled with zero rows.
    pub(super) fn gate_up(threads: &Threads, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Self {
        assert_eq!((gate.rows(), gate.cols()), (up.rows(), up.cols()), "gate and up have one shape");
        let width = gate.rows();
        let mut weight = Self::empty(2 * width, gate.cols(), width.div_ceil(TURN), format);
        let filled = weight.panels() * PANEL;
        weight.fill(threads, filled, |output, row| match gated_row(output, width) {
            Some(index) if index < width => gate.row(index, row),
            Some(index) => up.row(index - width, row),
            None => row.fill(0.0),
        });
        weight
    }

    fn empty(outputs: usize, inputs: usize, panels: usize, format: Format) -> Self {
        let bytes = Aligned::zeroed(panels * panel_bytes(inputs, format));
        Self { outputs, inputs, format, bytes: Bytes::Own(bytes) }
    }

    /// Packs what `row` writes for each of `outputs` outputs of the panels, one after another. Memory beside them, and that of
    /// 4-bit integers, must be zero.
    fn fill(&mut self, threads: &Threads, outputs: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
        let (inputs, format) = (self.inputs, self.format);
        let (panels, stride) = (self.panels(), self.stride());
        let Bytes::Own(bytes) = &mut self.bytes else { unreachable!("a matrix in a file is not written") };
        let shared = SharedRows::of(bytes, stride);
        threads.run(panels, |panel| {
            // SAFETY: each panel is one task.
            let target = unsafe { shared.segment(panel, 0, stride) };
            let mut values = vec![0.0; inputs];
            for column in 0..PANEL.min(outputs - panel * PANEL) {
                row(panel * PANEL + column, &mut values);
                pack_output(format, column, &values, target);
            }
        });
    }

    /// Packs a matrix of floats again, from `[outputs, inputs]` numbers (gate rows before up rows).
    pub(super) fn refill(&mut self, threads: &Threads, arrangement: Arrangement, numbers: &[f32]) {
        let (outputs, inputs) = (self.outputs, self.inputs);
        assert!(numbers.len() == outputs * inputs && !self.format.is_quantised(), "the master of a matrix of floats");
        let filled = self.panels() * PANEL;
        self.fill(threads, filled, |output, row| match row_of(arrangement, output, outputs) {
            Some(index) => row.copy_from_slice(&numbers[index * inputs..][..inputs]),
            None => row.fill(0.0),
        });
    }

    /// The matrix that products by `x` of `[inputs, outputs]` need, in memory of `home`: `columns` writes some numbers of a
    /// row of `x`, from one on.
    pub(super) fn of_columns(
        threads: &Threads,
        home: &Arc<Pool>,
        (inputs, outputs): (usize, usize),
        format: Format,
        columns: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        let (panels, stride) = (outputs.div_ceil(PANEL), panel_bytes(inputs, format));
        let mut bytes = home.take(panels * stride);
        let shared = SharedRows::of(&mut bytes[..panels * stride], stride);
        threads.run(panels, |panel| {
            // SAFETY: each panel is one task.
            let target = unsafe { shared.segment(panel, 0, stride) };
            let first = panel * PANEL;
            pack_columns(format, inputs, target, |input, numbers| {
                columns(input, first, &mut numbers[..PANEL.min(outputs - first)]);
            });
        });
        Self { outputs, inputs, format, bytes: Bytes::Pooled(bytes, panels * stride) }
    }

    /// As [`of_columns`](Self::of_columns) into memory of its own, which a matrix of the same shape already has.
    pub(super) fn refill_columns(&mut self, threads: &Threads, numbers: &[f32]) {
        let (outputs, inputs, format, stride) = (self.outputs, self.inputs, self.format, self.stride());
        assert_eq!(numbers.len(), outputs * inputs, "the numbers of a transposed matrix");
        let shared = SharedRows::of(&mut self.bytes, stride);
        threads.run(outputs.div_ceil(PANEL), |panel| {
            // SAFETY: each panel is one task.
            let target = unsafe { shared.segment(panel, 0, stride) };
            let first = panel * PANEL;
            let count = PANEL.min(outputs - first);
            pack_columns(format, inputs, target, |input, to| {
                let row = &numbers[input * outputs + first..];
                match row.first_chunk() {
                    Some(row) if count == PANEL => *to = *row,
                    _ => to[..count].copy_from_slice(&row[..count]),
                }
            });
        });
    }

    /// The numbers that it stands for, `[outputs, inputs]`, gate rows before up rows.
    pub(super) fn numbers(&self, threads: &Threads, arrangement: Arrangement) -> Vec<f32> {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let mut numbers = Aligned::zeroed(outputs * inputs * size_of::<f32>());
        let shared = SharedRows::of(&mut numbers, inputs * size_of::<f32>());
        threads.run(self.panels(), |panel| {
            for column in 0..PANEL {
                if let Some(row) = row_of(arrangement, panel * PANEL + column, outputs) {
                    // SAFETY: every row belongs to one panel.
                    let row = unsafe { shared.segment::<f32>(row, 0, inputs) };
                    unpack_output(self.format, column, &self.bytes[panel * self.stride()..][..self.stride()], row);
                }
            }
        });
        crate::aligned::numbers(&numbers)[..outputs * inputs].to_vec()
    }

    /// A matrix that lies packed in a file.
    pub(super) fn mapped(matrix: PackedMatrix) -> Self {
        let PackedShape { rows, inputs, arrangement, format } = matrix.shape();
        assert_ne!(arrangement, Arrangement::Table, "the matrix of a linear layer");
        Self { outputs: rows, inputs, format, bytes: Bytes::Mapped(matrix) }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The packed matrix.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What its products are.
    pub(super) fn dot(&self) -> Dot {
        match self.format {
            Format::F32 => Dot::F32,
            Format::Bf16 => Dot::Bf16,
            Format::Q8 | Format::Q4 => Dot::U8I8,
        }
    }

    /// Chunks that a row's inputs fill.
    pub(super) fn chunks(&self) -> usize {
        input_chunks(self.inputs, self.format)
    }

    /// Bytes from one panel's beginning to the next's.
    pub(super) fn stride(&self) -> usize {
        panel_bytes(self.inputs, self.format)
    }

    pub(super) fn panels(&self) -> usize {
        self.bytes.len() / self.stride()
    }

    /// All bytes from a panel on.
    pub(super) fn panels_from(&self, panel: usize) -> &[u8] {
        &self.bytes[panel * self.stride()..]
    }

    /// The steps and the sums of a panel of integers.
    pub(super) fn trailer(&self, panel: usize) -> (&[f32; PANEL], &[i32; PANEL]) {
        let end = (panel + 1) * self.stride();
        let (steps, sums) = self.bytes[end - TRAILER..end].split_at(TRAILER / 2);
        let whole = "a trailer has 32 of each";
        (numbers(steps).try_into().expect(whole), numbers(sums).try_into().expect(whole))
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(memory) => memory,
            Self::Pooled(memory, len) => &mut memory[..*len],
            Self::Mapped(_) => unreachable!("a matrix in a file is not written"),
        }
    }
}

/// Chunks that `inputs` numbers fill where they meet a weight.
fn input_chunks(inputs: usize, format: Format) -> usize {
    chunks(inputs, number_bytes(format))
}
