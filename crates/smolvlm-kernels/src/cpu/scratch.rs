//! Working memory of one thread, kept from call to call.

use std::cell::RefCell;

use crate::aligned::Aligned;

thread_local! {
    static MEMORY: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with at least `bytes` bytes of arbitrary contents that start on a cache line.
pub(super) fn with<R>(bytes: usize, body: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut memory = MEMORY.with_borrow_mut(|free| free.pop()).unwrap_or_default();
    memory.grow(bytes);
    let result = body(&mut memory);
    MEMORY.with_borrow_mut(|free| free.push(memory));
    result
}
