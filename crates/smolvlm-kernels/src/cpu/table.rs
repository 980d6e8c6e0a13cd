//! Tables of rows.

use half::bf16;

use super::weight::Bytes;
use crate::aligned::Aligned;
use crate::packed::{Arrangement, PackedMatrix, PackedShape, number_bytes};
use crate::quantise;
use crate::view::{Format, MatrixView};

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
