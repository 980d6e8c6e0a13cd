//! Working memory of one thread, kept from call to call.

use std::cell::RefCell;

thread_local! {
    static NUMBERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with `len` numbers of arbitrary contents.
pub(super) fn with<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = NUMBERS.with_borrow_mut(|free| free.pop()).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = body(&mut buffer[..len]);
    NUMBERS.with_borrow_mut(|free| free.push(buffer));
    result
}
