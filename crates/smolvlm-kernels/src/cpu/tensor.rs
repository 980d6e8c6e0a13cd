//! Activations in recycled memory: after the first step, a step allocates nothing.

use std::sync::{Arc, Mutex};

use super::matmul::CHUNK;
use crate::aligned::{Aligned, LINE, Plain, numbers, numbers_mut};

/// Rows that tensors made for products are padded to: the most that a kernel reads at a time.
const ROW_STEP: usize = 16;

/// Memory of dropped buffers, to be used again.
#[derive(Default)]
pub(super) struct Pool {
    free: Mutex<Vec<Aligned>>,
}

impl Pool {
    /// At least `bytes` bytes of arbitrary contents, in the smallest free buffer that is large enough.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Pooled {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fitting = free.iter().enumerate().filter(|(_, buffer)| buffer.len() >= bytes);
        let best = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(i, _)| i);
        // A buffer too small is given up rather than kept beside the larger one.
        let found = best.map(|i| free.swap_remove(i)).or_else(|| {
            free.pop();
            None
        });
        drop(free);
        Pooled { memory: found.unwrap_or_else(|| Aligned::zeroed(bytes)), home: self.clone() }
    }
}

/// A buffer that goes back to its pool when dropped.
pub(super) struct Pooled {
    memory: Aligned,
    home: Arc<Pool>,
}

impl std::ops::Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl std::ops::DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.home.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(memory);
    }
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    /// Numbers that only enter products, as those round them.
    Bf16,
    /// The same of 8-bit products: 128 more than an integer from −127 to 127.
    U8,
}

impl Stored {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<u16>(),
            Self::U8 => size_of::<u8>(),
        }
    }
}

/// Activations `[rows, width]`, row-major.
///
/// Rows begin an odd number of cache lines apart, so that rows that are read side by side do not compete for the same
/// places of a cache. What a row has beyond its width, up to a whole chunk, is zero.
pub struct Tensor {
    rows: usize,
    width: usize,
    stored: Stored,
    stride: usize,
    memory: Pooled,
}

impl Tensor {
    /// A tensor whose contents are arbitrary: the caller writes every number.
    pub(super) fn new(home: &Arc<Pool>, rows: usize, width: usize, stored: Stored) -> Self {
        let stride = ((width * stored.bytes()).div_ceil(LINE) | 1) * LINE;
        let padded_rows = if stored == Stored::F32 { rows } else { rows.next_multiple_of(ROW_STEP) };
        let mut tensor = Self { rows, width, stored, stride, memory: home.take(padded_rows * stride) };
        tensor.clear_padding();
        tensor
    }

    fn clear_padding(&mut self) {
        let used = self.width * self.stored.bytes();
        let padded = used.next_multiple_of(CHUNK);
        if used < padded {
            for row in 0..self.rows {
                self.memory[row * self.stride + used..row * self.stride + padded].fill(0);
            }
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn stored(&self) -> Stored {
        self.stored
    }

    /// Bytes from one row's beginning to the next's.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Where `columns` f32 from number `first` on begin in the first of `rows` rows, all of which are there, and the
    /// bytes from one row to the next.
    pub(super) fn place(&self, row: usize, rows: usize, first: usize, columns: usize) -> (*const u8, usize) {
        assert!(self.stored == Stored::F32 && row + rows <= self.rows && first + columns <= self.width, "f32 rows");
        (self.memory[row * self.stride + first * size_of::<f32>()..].as_ptr(), self.stride)
    }

    /// All bytes from `row` on.
    pub(super) fn bytes_from(&self, row: usize) -> &[u8] {
        &self.memory[row * self.stride..]
    }

    pub(super) fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// One row.
    ///
    /// # Panics
    /// When `T` is not what is stored.
    pub(super) fn row<T: Plain>(&self, row: usize) -> &[T] {
        assert_eq!(size_of::<T>(), self.stored.bytes(), "the numbers as they are stored");
        numbers(&self.memory[row * self.stride..][..self.width * size_of::<T>()])
    }

    /// Widens a row of bfloat16.
    ///
    /// # Panics
    /// When those are not what is stored.
    pub(super) fn widen_row(&self, row: usize, out: &mut [f32]) {
        self.widen(row, 0, out);
    }

    /// Widens some bfloat16 of a row, from one on.
    ///
    /// # Panics
    /// As [`widen_row`](Self::widen_row).
    pub(super) fn widen(&self, row: usize, first: usize, out: &mut [f32]) {
        let bits = &self.row::<u16>(row)[first..];
        out.iter_mut().zip(bits).for_each(|(out, bits)| *out = f32::from_bits(u32::from(*bits) << 16));
    }

    /// One row, to be written.
    ///
    /// # Panics
    /// As [`row`](Self::row).
    pub(super) fn row_mut<T: Plain>(&mut self, row: usize) -> &mut [T] {
        assert_eq!(size_of::<T>(), self.stored.bytes(), "the numbers as they are stored");
        numbers_mut(&mut self.memory[row * self.stride..][..self.width * size_of::<T>()])
    }
}
