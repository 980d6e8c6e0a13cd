//! Buffers that start on a cache line, so that a vector load never crosses two.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through slices of another type")] [u8; 64]);

mod sealed {
    pub(crate) trait Plain: Copy + Default + Send + Sync + 'static {}
    impl Plain for f32 {}
    impl Plain for u16 {}
}
pub(crate) use sealed::Plain;

/// A fixed-size, zero-initialised buffer of `T` aligned to 64 bytes.
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        Self { lines: vec![Line([0; 64]); lines], len, elements: PhantomData }
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `lines` owns at least `len * size_of::<T>()` initialised bytes at an alignment of 64, and every bit
        // pattern is a valid `T` (`Plain` is sealed to number types).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
