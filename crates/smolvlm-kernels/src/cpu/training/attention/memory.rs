//! A head's matrices in the two forms that products take: rows, and panels.

use super::{BLOCK, IN_CHUNK};
use crate::cpu::matmul::PANEL;

/// Matrices of one head in the two forms that products take: rows, and panels.
pub(super) struct Sizes {
    pub(super) rows: usize,
    /// Numbers of a row of `d`, filled up to chunks.
    pub(super) width: usize,
    /// Rows filled up to whole panels.
    pub(super) padded: usize,
    /// Panels of `d` numbers.
    pub(super) wide: usize,
}

impl Sizes {
    pub(super) fn of(rows: usize, dim: usize) -> Self {
        Self {
            rows,
            width: dim.next_multiple_of(IN_CHUNK),
            padded: rows.next_multiple_of(PANEL),
            wide: dim.div_ceil(PANEL),
        }
    }

    /// `[rows, width]`, with rows to spare for kernels that read several at a time.
    pub(super) fn matrix(&self) -> usize {
        self.padded * self.width
    }

    /// Rows as outputs: `[row panels, width steps, 32]`.
    pub(super) fn across(&self) -> usize {
        self.padded * self.width
    }

    /// Rows as inputs: `[panels of d, padded rows as steps, 32]`.
    pub(super) fn along(&self) -> usize {
        self.wide * self.padded * PANEL
    }

    /// Tiles of one accumulated gradient.
    pub(super) fn tiles(&self, kernel_rows: usize) -> usize {
        self.rows.div_ceil(kernel_rows) * self.wide
    }
}

/// A head's numbers as they lie in scratch memory.
pub(super) struct Memory<'m> {
    pub(super) rows: &'m mut [f32],
    pub(super) slopes: &'m mut [f32],
    pub(super) keys_across: &'m mut [f32],
    pub(super) values_across: &'m mut [f32],
    pub(super) keys_along: &'m mut [f32],
    pub(super) queries_along: &'m mut [f32],
    pub(super) slopes_along: &'m mut [f32],
    /// `[BLOCK, padded rows]` each.
    pub(super) weights: &'m mut [f32],
    pub(super) scores: &'m mut [f32],
    /// `[padded rows, BLOCK]`.
    pub(super) turned: &'m mut [f32],
}

impl<'m> Memory<'m> {
    pub(super) fn cut(sizes: &Sizes, mut rest: &'m mut [f32]) -> Self {
        let mut take = |count: usize| {
            let (first, later) = std::mem::take(&mut rest).split_at_mut(count);
            rest = later;
            first
        };
        Self {
            rows: take(sizes.matrix()),
            slopes: take(sizes.matrix()),
            keys_across: take(sizes.across()),
            values_across: take(sizes.across()),
            keys_along: take(sizes.along()),
            queries_along: take(sizes.along()),
            slopes_along: take(sizes.along()),
            weights: take(BLOCK * sizes.padded),
            scores: take(BLOCK * sizes.padded),
            turned: take(BLOCK * sizes.padded),
        }
    }
}

impl Sizes {
    pub(super) fn put_across(&self, panels: &mut [f32], row: usize, numbers: &[f32]) {
        let panel = &mut panels[row / PANEL * self.width * PANEL..][..self.width * PANEL];
        for (step, number) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(numbers) {
            step[row % PANEL] = *number;
        }
    }

    pub(super) fn put_along(&self, panels: &mut [f32], row: usize, numbers: &[f32]) {
        for (panel, numbers) in panels.chunks_mut(self.padded * PANEL).zip(numbers.chunks(PANEL)) {
            panel[row * PANEL..][..numbers.len()].copy_from_slice(numbers);
        }
    }
}
