//! Activations in recycled memory: after the first step, a step allocates nothing.

use std::sync::{Arc, Mutex};

/// Memory of dropped buffers, to be used again.
pub(super) struct Pool<T> {
    free: Mutex<Vec<Vec<T>>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { free: Mutex::default() }
    }
}

/// The pools of one backend.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) f32: Arc<Pool<f32>>,
    pub(super) bf16: Arc<Pool<u16>>,
}

impl<T: Copy + Default> Pool<T> {
    /// `len` numbers of arbitrary contents, in the smallest free buffer that is large enough.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Pooled<T> {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fitting = free.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
        let best = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(i, _)| i);
        // A buffer too small is given up rather than kept beside the larger one.
        let found = best.map(|i| free.swap_remove(i)).or_else(|| {
            free.pop();
            None
        });
        drop(free);
        let mut data = found.unwrap_or_else(|| Vec::with_capacity(len));
        data.resize(len, T::default());
        Pooled { data, home: self.clone() }
    }
}

/// A buffer that goes back to its pool when dropped.
pub(super) struct Pooled<T> {
    data: Vec<T>,
    home: Arc<Pool<T>>,
}

impl<T> std::ops::Deref for Pooled<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data
    }
}

impl<T> std::ops::DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.home.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(data);
    }
}

/// Activations `[rows, width]`, f32, row-major.
pub struct Tensor {
    rows: usize,
    width: usize,
    data: Pooled<f32>,
}

impl Tensor {
    /// A tensor whose contents are arbitrary: the caller writes every number.
    pub(super) fn new(home: &Arc<Pool<f32>>, rows: usize, width: usize) -> Self {
        Self { rows, width, data: home.take(rows * width) }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All numbers, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.width..][..self.width]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.width..][..self.width]
    }
}
