//! Buffers that start on a cache line, so that a vector load never crosses two.

use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through slices of another type")] [u64; 8]);

/// Bytes on a cache line.
pub(crate) const LINE: usize = size_of::<Line>();

mod sealed {
    /// Numbers of which every bit pattern is one.
    pub(crate) trait Plain: Copy + Default + Send + Sync + 'static {}
    impl Plain for f32 {}
    impl Plain for u16 {}
    impl Plain for u8 {}
    impl Plain for i32 {}
}
pub(crate) use sealed::Plain;

/// Bytes that start on a cache line and fill whole lines, zero at first.
#[derive(Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
}

impl Aligned {
    /// At least `bytes` bytes, all zero.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        Self { lines: vec![Line::default(); bytes.div_ceil(LINE)] }
    }

    /// Makes it hold at least `bytes` bytes; new ones are zero.
    pub(crate) fn grow(&mut self, bytes: usize) {
        if self.len() < bytes {
            self.lines.resize(bytes.div_ceil(LINE), Line::default());
        }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `lines` owns that many initialised bytes.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LINE) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * LINE) }
    }
}

/// Bytes as numbers.
///
/// # Panics
/// When they are not aligned for `T`, or end inside a number.
pub(crate) fn numbers<T: Plain>(bytes: &[u8]) -> &[T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>()), "whole numbers");
    // SAFETY: the bytes are initialised, aligned by the assertion, and every pattern of them is a `T`.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// As [`numbers`], to be written.
///
/// # Panics
/// As there.
pub(crate) fn numbers_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>()), "whole numbers");
    // SAFETY: as in `numbers`, and the borrow is unique.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// Numbers as bytes.
pub(crate) fn bytes<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: numbers of these types have no padding, and any alignment does for bytes.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}
