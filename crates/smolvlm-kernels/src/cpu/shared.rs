//! One output matrix written by many threads, each its own part.

use std::marker::PhantomData;

use super::tensor::Tensor;

/// A tensor's numbers, writable in disjoint parts from several threads.
pub(super) struct SharedRows<'a> {
    data: *mut f32,
    rows: usize,
    width: usize,
    borrow: PhantomData<&'a mut Tensor>,
}

// SAFETY: the pointer stands for a unique borrow of the tensor; `segment` hands out parts that callers keep disjoint.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    pub(super) fn new(tensor: &'a mut Tensor) -> Self {
        let (rows, width) = (tensor.rows(), tensor.width());
        Self { data: tensor.data_mut().as_mut_ptr(), rows, width, borrow: PhantomData }
    }

    /// `len` numbers of `row` from column `first` on.
    ///
    /// # Safety
    /// No two live segments overlap, on any thread.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn segment(&self, row: usize, first: usize, len: usize) -> &mut [f32] {
        assert!(row < self.rows && first + len <= self.width, "a segment inside the matrix");
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.width + first), len) }
    }
}
