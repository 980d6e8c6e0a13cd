//! Operations that move rows.

use rayon::prelude::*;

use super::tensor::Tensor;
use super::weight::Table;
use crate::backend::FeatureRow;

pub(super) fn embed(ids: &[u32], table: &Table, out: &mut Tensor) {
    for (row, id) in ids.iter().enumerate() {
        table.row(*id as usize, out.row_mut(row));
    }
}

pub(super) fn scatter(features: &[FeatureRow], sources: &[&Tensor], to: &mut Tensor) {
    for feature in features {
        let source = sources[feature.source as usize].row(feature.index as usize);
        to.row_mut(feature.row as usize).copy_from_slice(source);
    }
}

pub(super) fn gather(rows: &[u32], from: &Tensor, to: &mut Tensor) {
    for (i, row) in rows.iter().enumerate() {
        to.row_mut(i).copy_from_slice(from.row(*row as usize));
    }
}

/// `out[I · side/scale + J]` is the block of rows `(I·scale + a) · side + J·scale + b`, `a` and then `b` ascending
/// (`SmolVLMConnector.pixel_shuffle`).
pub(super) fn pixel_shuffle(x: &Tensor, side: usize, scale: usize, out: &mut Tensor) {
    let (width, blocks) = (x.width(), side / scale);
    let tokens = blocks * blocks;
    let row_width = out.width();
    out.data_mut().par_chunks_mut(row_width).enumerate().for_each(|(token, row)| {
        let (tile, token) = (token / tokens, token % tokens);
        let (block_row, block_column) = (token / blocks, token % blocks);
        for (i, part) in row.chunks_mut(width).enumerate() {
            let (a, b) = (i / scale, i % scale);
            let source = tile * side * side + (block_row * scale + a) * side + block_column * scale + b;
            part.copy_from_slice(x.row(source));
        }
    });
}
