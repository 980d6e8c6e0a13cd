//! Attention inside tiles and over pages: which kernel computes it, and how that is started.

mod decoding;
mod paged;
mod tiles;

pub(super) use decoding::DECODE_PART;
pub(super) use paged::cached;
pub(super) use tiles::{tiles, tiles_with_sums};

/// The head size that the fast kernels are made for.
pub(super) const FAST_HEAD: usize = 64;
/// Warps of a block of the kernels for any head size, a row each.
pub(super) const WARPS: u32 = 4;
pub(super) const THREADS: u32 = 32 * WARPS;
/// Most numbers of a head there.
pub(super) const MOST_HEAD: usize = 160;
/// Threads of a block of the kernels for `mma.sync`.
const MMA_THREADS: u32 = 128;
/// Bytes of a row of a head that the kernels for `wgmma` keep, and of a block of keys and values: three of 128 rows each are on their way.
const WGMMA_ROW: usize = 2 * FAST_HEAD;
const WGMMA_STREAM: usize = 3 * 2 * 128 * WGMMA_ROW;
const BARRIER: usize = 8;

/// Shared memory of two blocks of 64 keys and values, whose rows are padded to whole products and 16 bytes more.
fn mma_shared(head: usize) -> u32 {
    (2 * 2 * 64 * (head.next_multiple_of(16) + 8) * 2) as u32
}
