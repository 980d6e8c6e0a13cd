//! What lies on the device: activations, weights, vectors.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use half::bf16;

use super::decode::Choice;
use super::device::Device;
use super::memory::{Block, Buffer};
use crate::packed::{Arrangement, PackedMatrix, unpack};
use crate::view::{Format, MatrixView};

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32,
    Bf16,
}

impl Element {
    /// How a format's weights are stored, and the activations that meet them.
    ///
    /// # Panics
    /// For integers, which this backend does not compute with.
    pub(super) fn of(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::Bf16 => Self::Bf16,
            Format::Q8 | Format::Q4 => panic!("{} on a GPU", format.name()),
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// As kernels name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Activations `[rows, width]`.
pub struct Tensor {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) element: Element,
    pub(super) memory: Memory,
    /// Of logits whose largest is found with them.
    pub(super) choice: Option<Choice>,
}

/// What keeps a tensor's numbers alive.
pub(super) enum Memory {
    /// Of an arena.
    Step(Block),
    Own(Buffer),
    Shared(Arc<Buffer>),
}

impl Tensor {
    pub(super) fn pointer(&self) -> CUdeviceptr {
        match &self.memory {
            Memory::Step(block) => block.pointer(),
            Memory::Own(buffer) => buffer.pointer(),
            Memory::Shared(buffer) => buffer.pointer(),
        }
    }

    pub(super) fn numbers(&self) -> usize {
        self.rows * self.width
    }
}

/// A matrix `[outputs, inputs]`, row-major. Rows of a gate and an up projection take turns.
pub struct Weight {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) element: Element,
    pub(super) data: Buffer,
}

/// A matrix of which rows are read.
pub type Table = Weight;

impl Weight {
    pub(super) fn stacked(device: &Arc<Device>, parts: &[MatrixView<'_>], format: Format) -> Self {
        let rows = parts.iter().flat_map(|part| (0..part.rows()).map(move |row| (part, row)));
        Self::of_rows(device, parts[0].cols(), format, rows)
    }

    pub(super) fn gate_up(device: &Arc<Device>, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Self {
        assert_eq!((gate.rows(), gate.cols()), (up.rows(), up.cols()), "a gate and an up projection");
        let rows = (0..gate.rows()).flat_map(|row| [(&gate, row), (&up, row)]);
        Self::of_rows(device, gate.cols(), format, rows)
    }

    /// A packed matrix in this backend's own layout.
    pub(super) fn unpacked(device: &Arc<Device>, matrix: &PackedMatrix) -> Self {
        let shape = matrix.shape();
        let numbers = unpack(matrix).numbers;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let view = MatrixView::new(shape.rows, shape.inputs, crate::view::Elements::F32(&bytes));
        if shape.arrangement != Arrangement::GateUp {
            return Self::stacked(device, &[view], shape.format);
        }
        let half = shape.rows / 2;
        let rows = (0..half).flat_map(|row| [(&view, row), (&view, half + row)]);
        Self::of_rows(device, shape.inputs, shape.format, rows)
    }

    fn of_rows<'a>(
        device: &Arc<Device>,
        inputs: usize,
        format: Format,
        rows: impl Iterator<Item = (&'a MatrixView<'a>, usize)>,
    ) -> Self {
        let element = Element::of(format);
        let (mut row, mut bytes, mut outputs) = (vec![0.0; inputs], Vec::new(), 0);
        for (matrix, index) in rows {
            outputs += 1;
            if let (Element::Bf16, Some(stored)) = (element, matrix.bf16_row(index)) {
                bytes.extend_from_slice(stored);
                continue;
            }
            matrix.row(index, &mut row);
            match element {
                Element::F32 => bytes.extend(row.iter().flat_map(|value| value.to_le_bytes())),
                Element::Bf16 => bytes.extend(row.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
            }
        }
        Self { outputs, inputs, element, data: Buffer::of(device, &bytes) }
    }
}

/// Numbers of a bias or a norm, in both formats: products add biases in the format of their result.
pub struct Vector {
    pub(super) f32: Buffer,
    pub(super) bf16: Buffer,
}

impl Vector {
    pub(super) fn new(device: &Arc<Device>, values: &[f32]) -> Self {
        let rounded: Vec<u16> = values.iter().map(|value| bf16::from_f32(*value).to_bits()).collect();
        Self { f32: Buffer::of(device, values), bf16: Buffer::of(device, &rounded) }
    }
}
