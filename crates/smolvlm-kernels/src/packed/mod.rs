//! Matrices as they lie packed in a file, ready for products: a layout that is the same on every machine.
//!
//! All numbers are little-endian. A matrix begins at a multiple of [`ALIGNMENT`] bytes of its file.
//!
//! # Panels
//! A matrix `[outputs, inputs]` of a linear layer is cut into panels of 32 outputs, one after another; missing outputs
//! and inputs are zeros. In a panel, four bytes of each of the 32 outputs stand side by side (one f32, two bfloat16,
//! or four 8-bit integers: one *step*), then the next four bytes of each, up to a whole number of *chunks* of 64 bytes
//! an output: `[steps, 32, 4 bytes]`.
//!
//! - **f32, bf16**: nothing else.
//! - **q8**: the steps are followed by 32 f32 (what each output's integers are multiples of) and 32 i32 (the sum of
//!   each output's integers).
//! - **q4**: for every 64 inputs 1,024 bytes `[8 steps, 32, 4 bytes]`, each with an integer of the first 32 inputs in
//!   its low and one of the last 32 in its high four bits, 8 more than the integer, then 32 factors (i8) of the first
//!   and 32 of the last 32 inputs. A weight is `step × factor × integer`. After all chunks come steps and sums as for
//!   q8; a sum is that of `factor × integer`. Missing inputs have the factor 0.
//!
//! # Arrangements
//! See [`Arrangement`]: rows of several matrices one after another, gate and up rows in turns, or a table of rows.

mod unpack;

use std::ops::Range;
use std::sync::Arc;

pub use unpack::{Unpacked, unpack};

use crate::cpu::matmul::{CHUNK, PANEL, STEP};
use crate::mapped::MappedFile;
use crate::quantise::GROUP;
use crate::view::Format;

/// Every packed matrix begins at a multiple of as many bytes.
pub const ALIGNMENT: usize = 64;

/// The sizes that the layout is made of, by name: files of others cannot be read.
pub const GEOMETRY: [(&str, usize); 5] = [
    ("outputs_per_panel", PANEL),
    ("bytes_per_step", STEP),
    ("bytes_per_chunk", CHUNK),
    ("inputs_per_group", GROUP),
    ("alignment", ALIGNMENT),
];

/// After the integers of a panel: the step of each output, then the sum of its integers.
pub(crate) const TRAILER: usize = PANEL * (size_of::<f32>() + size_of::<i32>());
/// Bytes of a chunk of a panel as the kernels take it.
pub(crate) const PANEL_CHUNK: usize = PANEL * CHUNK;
/// Bytes of a chunk (64 inputs) of a 4-bit panel: two integers a byte, then the factors of two groups.
pub(crate) const Q4_CHUNK: usize = PANEL_CHUNK / 2 + 2 * PANEL;

/// How the rows of a packed matrix follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrangement {
    /// In panels, in order.
    Stacked,
    /// Two matrices of one shape, gate and up: each panel holds 16 gate rows, then the 16 up rows at the same places.
    /// The last panel is filled with zero rows.
    GateUp,
    /// No panels: row-major, `[rows, width]`; of 8-bit integers, followed by each row's step (f32).
    Table,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stacked, Self::GateUp, Self::Table];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stacked => "stacked",
            Self::GateUp => "gate_up",
            Self::Table => "table",
        }
    }
}

/// What a packed matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedShape {
    /// Rows of all matrices in it: outputs.
    pub rows: usize,
    /// Numbers in a row.
    pub inputs: usize,
    /// How rows follow each other.
    pub arrangement: Arrangement,
    /// How numbers are stored.
    pub format: Format,
}

impl PackedShape {
    /// Bytes of the packed matrix. None when they are more than a machine can address, for an odd number of rows of gate
    /// and up, and for a table of 4-bit integers, which are too few for single rows.
    pub fn bytes(&self) -> Option<usize> {
        let panels = match self.arrangement {
            Arrangement::Stacked => self.rows.div_ceil(PANEL),
            Arrangement::GateUp if self.rows.is_multiple_of(2) => (self.rows / 2).div_ceil(PANEL / 2),
            Arrangement::Table if self.format != Format::Q4 => return self.table_bytes(),
            Arrangement::GateUp | Arrangement::Table => return None,
        };
        // Twice what a panel of the largest numbers needs: rounding up cannot overflow then.
        self.inputs.checked_mul(8 * PANEL)?;
        panels.checked_mul(panel_bytes(self.inputs, self.format))
    }

    fn table_bytes(&self) -> Option<usize> {
        let steps = if self.format.is_quantised() { self.rows.checked_mul(4)? } else { 0 };
        self.rows.checked_mul(self.inputs)?.checked_mul(number_bytes(self.format))?.checked_add(steps)
    }
}

/// Bytes of an activation that meets a weight.
pub(crate) fn number_bytes(format: Format) -> usize {
    match format {
        Format::F32 => 4,
        Format::Bf16 => 2,
        Format::Q8 | Format::Q4 => 1,
    }
}

/// Bytes from one panel's beginning to the next's.
pub(crate) fn panel_bytes(inputs: usize, format: Format) -> usize {
    let chunks = (inputs * number_bytes(format)).div_ceil(CHUNK);
    match format {
        Format::F32 | Format::Bf16 => chunks * PANEL_CHUNK,
        Format::Q8 => chunks * PANEL_CHUNK + TRAILER,
        Format::Q4 => chunks * Q4_CHUNK + TRAILER,
    }
}

/// A packed matrix in a mapped file: as many bytes as its shape asks for, at a place that kernels can read.
///
/// Nothing is known about the numbers in it.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    shape: PackedShape,
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl PackedMatrix {
    /// The matrix in `range` of `file`. None when the range is not all in the file, is not aligned, or is not as long as
    /// the shape asks for.
    pub fn new(shape: PackedShape, file: Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        let bytes = file.bytes().get(range.clone())?;
        let fits = Some(bytes.len()) == shape.bytes() && range.start.is_multiple_of(ALIGNMENT);
        fits.then_some(Self { shape, file, range })
    }

    /// What it is.
    pub fn shape(&self) -> PackedShape {
        self.shape
    }

    /// Its bytes, as the file has them.
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }
}
