//! Attention inside tiles, and over pages of keys and values.
//!
//! A block of query rows meets its keys in parts of 256: scores, softmax of the part, weighted values; the parts are
//! then merged in order by their maxima and sums. Parts begin at the same keys for every query, so a row's numbers are the
//! same whichever rows share its block, and whether one thread computes all parts or each a part.

mod block;
mod paged;
mod tiles;

use super::lanes::SoftmaxPart;
use super::matmul::{CHUNK, Dot, PANEL, chunks};
use crate::aligned::LINE;
use crate::backend::PAGE_TOKENS;

pub(super) use paged::paged;
pub(super) use tiles::tiles;

/// Keys of a part: their scores stay in the first-level cache.
const PART: usize = 256;
const PART_PAGES: usize = PART / PAGE_TOKENS;

/// Sizes of one head's work.
#[derive(Clone, Copy)]
struct HeadShape {
    dim: usize,
    /// Panels of a row of values.
    value_panels: usize,
    dot: Dot,
    number: usize,
}

impl HeadShape {
    fn new(dim: usize, dot: Dot) -> Self {
        Self { dim, value_panels: dim.div_ceil(PANEL), dot, number: if dot == Dot::F32 { 4 } else { 2 } }
    }

    /// Bytes of a panel over `inputs` numbers.
    fn panel(self, inputs: usize) -> usize {
        chunks(inputs, self.number) * CHUNK * PANEL
    }

    /// Bytes of a row of `inputs` numbers, an odd number of cache lines.
    fn row(self, inputs: usize) -> usize {
        ((chunks(inputs, self.number) * CHUNK / LINE) | 1) * LINE
    }
}

/// No part yet.
const NOTHING: SoftmaxPart = SoftmaxPart { max: f32::NEG_INFINITY, sum: 0.0 };

/// `d^-0.5`, by which scores are scaled.
fn score_scale(dim: usize) -> f32 {
    (dim as f32).powf(-0.5)
}
