//! f32 numbers that stay from step to step.

use std::ops::{Deref, DerefMut};

use crate::aligned::{Aligned, numbers, numbers_mut};

/// Master weights, gradients or moments, in memory of their own.
pub struct Floats {
    memory: Aligned,
    len: usize,
}

impl Floats {
    pub(super) fn zeros(len: usize) -> Self {
        Self { memory: Aligned::zeroed(len * size_of::<f32>()), len }
    }

    /// Their bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl From<&[f32]> for Floats {
    fn from(values: &[f32]) -> Self {
        let mut floats = Self::zeros(values.len());
        floats.copy_from_slice(values);
        floats
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &numbers(&self.memory)[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut numbers_mut(&mut self.memory)[..self.len]
    }
}
