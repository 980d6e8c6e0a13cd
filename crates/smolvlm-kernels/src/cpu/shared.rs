//! One output written by many threads, each its own part.

use std::marker::PhantomData;

use super::tensor::Tensor;
use crate::aligned::Plain;

/// Rows of bytes, writable in disjoint parts from several threads.
pub(super) struct SharedRows<'a> {
    bytes: *mut u8,
    len: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: the pointer stands for a unique borrow of the bytes; `segment` hands out parts that callers keep disjoint.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    pub(super) fn new(tensor: &'a mut Tensor) -> Self {
        let stride = tensor.stride();
        Self::of(tensor.memory_mut(), stride)
    }

    pub(super) fn of(bytes: &'a mut [u8], stride: usize) -> Self {
        Self { bytes: bytes.as_mut_ptr(), len: bytes.len(), stride, borrow: PhantomData }
    }

    /// Bytes from one row's beginning to the next's.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Where `len` bytes from byte `first` on begin in the first of `rows` rows, all of which are there.
    pub(super) fn start(&self, row: usize, rows: usize, first: usize, len: usize) -> *mut u8 {
        assert!((row + rows - 1) * self.stride + first + len <= self.len, "rows inside the matrix");
        self.bytes.wrapping_add(row * self.stride + first)
    }

    /// `count` numbers of `row` from number `first` on.
    ///
    /// # Safety
    /// No two live segments overlap, on any thread.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn segment<T: Plain>(&self, row: usize, first: usize, count: usize) -> &mut [T] {
        let start = row * self.stride + first * size_of::<T>();
        assert!(start + count * size_of::<T>() <= self.len, "a segment inside the rows");
        let place = self.bytes.wrapping_add(start).cast::<T>();
        assert!(place.is_aligned(), "a segment of whole numbers");
        // SAFETY: in bounds and aligned by the assertions, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(place, count) }
    }
}
