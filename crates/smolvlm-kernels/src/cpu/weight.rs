//! Matrices packed into panels, and tables of rows.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use half::bf16;

use super::lanes::nearest_bf16;
use super::matmul::{CHUNK, Dot, PANEL, STEP, chunks};
use super::shared::SharedRows;
use super::tensor::{Pool, Pooled};
use super::threads::Threads;
use crate::aligned::{Aligned, numbers};
use crate::packed::{
    Arrangement, PANEL_CHUNK, PackedMatrix, PackedShape, Q4_CHUNK, TRAILER, number_bytes, panel_bytes,
};
use crate::quantise::{self, GROUP, Q4Group};
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
enum Bytes {
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

/// Rows of a gate, or of what it opens, side by side in a panel.
pub(super) const TURN: usize = PANEL / 2;

/// Which row of a gate and an up matrix, one below the other, is an output of their panels; none for those that fill up
/// the last one.
fn gated_row(output: usize, width: usize) -> Option<usize> {
    let (panel, column) = (output / PANEL, output % PANEL);
    let index = panel * TURN + column % TURN;
    (index < width).then_some(if column < TURN { index } else { width + index })
}

/// The same of any arrangement in panels of `outputs` rows.
fn row_of(arrangement: Arrangement, output: usize, outputs: usize) -> Option<usize> {
    match arrangement {
        Arrangement::GateUp => gated_row(output, outputs / 2),
        Arrangement::Stacked | Arrangement::Table => (output < outputs).then_some(output),
    }
}

/// Writes a panel of floats, input by input; what `row` leaves alone is zero.
fn pack_columns(format: Format, inputs: usize, panel: &mut [u8], row: impl Fn(usize, &mut [f32; PANEL])) {
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
fn unpack_output(format: Format, column: usize, panel: &[u8], out: &mut [f32]) {
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

/// Chunks that `inputs` numbers fill where they meet a weight.
fn input_chunks(inputs: usize, format: Format) -> usize {
    chunks(inputs, number_bytes(format))
}

/// Writes one output's weights into its panel.
fn pack_output(format: Format, column: usize, values: &[f32], panel: &mut [u8]) {
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

/// A matrix of which single rows are read.
///
/// `[rows, width]`; of 8-bit integers, followed by each row's step (f32). Four bits are too few for single rows, so
/// [`Format::Q4`] stores 8.
pub struct Table {
    rows: usize,
    width: usize,
    format: Format,
    bytes: Bytes,
}

impl Table {
    pub(super) fn new(matrix: MatrixView<'_>, format: Format) -> Self {
        let (rows, width) = (matrix.rows(), matrix.cols());
        let format = Self::stored_format(format);
        let mut bytes = Aligned::zeroed(Self::size(rows, width, format).unwrap_or(usize::MAX));
        let mut values = vec![0.0; width];
        let mut integers = vec![0; width];
        for row in 0..rows {
            matrix.row(row, &mut values);
            let place = &mut bytes[row * width * number_bytes(format)..];
            match format {
                Format::F32 => copy(place, values.iter().map(|value| value.to_le_bytes())),
                Format::Bf16 => copy(place, values.iter().map(|value| bf16::from_f32(*value).to_le_bytes())),
                Format::Q8 | Format::Q4 => {
                    let step = quantise::q8(&values, &mut integers);
                    copy(place, integers.iter().map(|integer| integer.to_le_bytes()));
                    copy(&mut bytes[rows * width + row * 4..], std::iter::once(step.to_le_bytes()));
                }
            }
        }
        Self { rows, width, format, bytes: Bytes::Own(bytes) }
    }

    /// A table that lies in a file.
    pub(super) fn mapped(matrix: PackedMatrix) -> Self {
        let PackedShape { rows, inputs, arrangement, format } = matrix.shape();
        assert_eq!(arrangement, Arrangement::Table, "a table");
        Self { rows, width: inputs, format, bytes: Bytes::Mapped(matrix) }
    }

    fn stored_format(format: Format) -> Format {
        if format.is_quantised() { Format::Q8 } else { format }
    }

    fn size(rows: usize, width: usize, format: Format) -> Option<usize> {
        PackedShape { rows, inputs: width, arrangement: Arrangement::Table, format }.bytes()
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The table as it is stored.
    pub fn bytes(&self) -> &[u8] {
        let size = Self::size(self.rows, self.width, self.format).unwrap_or_default();
        &self.bytes[..size]
    }

    /// Stores a table of floats again.
    pub(super) fn refill(&mut self, numbers: &[f32]) {
        assert_eq!(numbers.len(), self.rows * self.width, "the master of a table");
        match self.format {
            Format::F32 => copy(&mut self.bytes, numbers.iter().map(|value| value.to_le_bytes())),
            Format::Bf16 => copy(&mut self.bytes, numbers.iter().map(|value| bf16::from_f32(*value).to_le_bytes())),
            Format::Q8 | Format::Q4 => unreachable!("quantised tables do not learn"),
        }
    }

    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "a row of the table");
        let size = number_bytes(self.format);
        let bytes = &self.bytes[row * self.width * size..][..self.width * size];
        match self.format {
            Format::F32 => crate::Elements::F32(bytes).widen(0, out),
            Format::Bf16 => crate::Elements::Bf16(bytes).widen(0, out),
            Format::Q8 | Format::Q4 => {
                let step = &self.bytes[self.rows * self.width + row * 4..][..4];
                let step = f32::from_le_bytes([step[0], step[1], step[2], step[3]]);
                out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = step * f32::from(byte.cast_signed()));
            }
        }
    }
}

fn copy<const SIZE: usize>(to: &mut [u8], values: impl Iterator<Item = [u8; SIZE]>) {
    to.as_chunks_mut::<SIZE>().0.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}
