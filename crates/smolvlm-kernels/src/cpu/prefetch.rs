//! Hints that memory will be needed soon. They change no result, and nothing where the processor has none.

use crate::aligned::LINE;

/// Brings bytes into the second-level cache, to be read.
#[inline(always)]
pub(super) fn read_soon(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch faults nowhere.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}

/// Brings `len` bytes of each of `rows` rows into the first-level cache, to be written.
#[inline(always)]
pub(super) fn write_soon(start: *const u8, rows: usize, stride: usize, len: usize) {
    for byte in (0..rows).flat_map(|row| (0..len).step_by(LINE).map(move |byte| row * stride + byte)) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch faults nowhere.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_ET0>(start.wrapping_add(byte).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, byte);
    }
}
