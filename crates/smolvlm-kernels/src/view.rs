//! Borrowed numbers as they lie in a file, and the formats they are packed to.

use half::{bf16, f16};

/// How a backend stores a weight and rounds the activations that meet it. Sums are always accumulated in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats; activations are not rounded.
    F32,
    /// bfloat16; activations are rounded to bfloat16 where they enter a product.
    Bf16,
    /// 8-bit integers with one step for each output; activations are rounded to 8-bit integers with one step for each
    /// row. Sums of products are exact. See [`quantise::q8`](crate::quantise::q8).
    Q8,
    /// 4-bit integers with a factor for every 32 inputs and one step for each output; activations as for
    /// [`Q8`](Self::Q8). See [`quantise::q4`](crate::quantise::q4).
    Q4,
}

impl Format {
    /// All of them, most exact first.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8, Self::Q4];

    /// Its name in files and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether weights are rounded to integers.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// How keys, values and attention are rounded beside weights of this format.
    pub fn of_attention(self) -> Self {
        if self == Self::F32 { Self::F32 } else { Self::Bf16 }
    }
}

/// Little-endian numbers in a file, of any alignment.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// IEEE single precision.
    F32(&'a [u8]),
    /// bfloat16.
    Bf16(&'a [u8]),
    /// IEEE half precision.
    F16(&'a [u8]),
}

impl Elements<'_> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(bytes) => bytes.len() / 4,
            Self::Bf16(bytes) | Self::F16(bytes) => bytes.len() / 2,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Widens the numbers from `start` on into `out`.
    ///
    /// # Panics
    /// When fewer than `out.len()` numbers are left.
    pub fn widen(&self, start: usize, out: &mut [f32]) {
        let count = out.len();
        match self {
            Self::F32(bytes) => {
                let (words, _) = bytes[start * 4..(start + count) * 4].as_chunks::<4>();
                out.iter_mut().zip(words).for_each(|(o, w)| *o = f32::from_le_bytes(*w));
            }
            Self::Bf16(bytes) => {
                let (words, _) = bytes[start * 2..(start + count) * 2].as_chunks::<2>();
                out.iter_mut().zip(words).for_each(|(o, w)| *o = bf16::from_le_bytes(*w).to_f32());
            }
            Self::F16(bytes) => {
                let (words, _) = bytes[start * 2..(start + count) * 2].as_chunks::<2>();
                out.iter_mut().zip(words).for_each(|(o, w)| *o = f16::from_le_bytes(*w).to_f32());
            }
        }
    }
}

/// A row-major matrix `[rows, cols]` as it lies in a file.
#[derive(Debug, Clone, Copy)]
pub struct MatrixView<'a> {
    rows: usize,
    cols: usize,
    elements: Elements<'a>,
}

impl<'a> MatrixView<'a> {
    /// A view of `rows × cols` numbers.
    ///
    /// # Panics
    /// When `elements` does not hold exactly `rows × cols` numbers.
    pub fn new(rows: usize, cols: usize, elements: Elements<'a>) -> Self {
        assert_eq!(elements.len(), rows * cols, "a matrix of {rows} × {cols} needs as many numbers");
        Self { rows, cols, elements }
    }

    /// Rows (outputs of a linear layer).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs of a linear layer).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` as it lies in the file, if that holds bfloat16.
    pub fn bf16_row(&self, row: usize) -> Option<&'a [u8]> {
        match self.elements {
            Elements::Bf16(bytes) => Some(&bytes[2 * row * self.cols..][..2 * self.cols]),
            Elements::F32(_) | Elements::F16(_) => None,
        }
    }

    /// Widens row `row` into `out`, which holds `cols` numbers.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.elements.widen(row * self.cols, &mut out[..self.cols]);
    }
}
