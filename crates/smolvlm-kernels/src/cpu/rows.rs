//! Operations that move rows.

use super::CpuBackend;
use super::shared::SharedRows;
use super::table::Table;
use super::tensor::{Stored, Tensor};
use crate::backend::FeatureRow;

pub(super) fn embed(ids: &[u32], table: &Table, out: &mut Tensor) {
    for (row, id) in ids.iter().enumerate() {
        table.row(*id as usize, out.row_mut(row));
    }
}

pub(super) fn scatter(features: &[FeatureRow], sources: &[&Tensor], to: &mut Tensor) {
    for feature in features {
        let source = sources[feature.source as usize].row::<f32>(feature.index as usize);
        to.row_mut(feature.row as usize).copy_from_slice(source);
    }
}

pub(super) fn gather(rows: &[u32], from: &Tensor, to: &mut Tensor) {
    for (i, row) in rows.iter().enumerate() {
        to.row_mut::<f32>(i).copy_from_slice(from.row(*row as usize));
    }
}

/// `out[I · side/scale + J]` is the block of rows `(I·scale + a) · side + J·scale + b`, `a` and then `b` ascending
/// (`SmolVLMConnector.pixel_shuffle`).
pub(super) fn pixel_shuffle(backend: &CpuBackend, x: &Tensor, side: usize, scale: usize) -> Tensor {
    let (width, blocks) = (x.width(), side / scale);
    let tokens = blocks * blocks;
    let mut out = backend.tensor(x.rows() / (scale * scale), width * scale * scale, Stored::F32);
    let (rows, shared) = (out.rows(), SharedRows::new(&mut out));
    backend.threads.run(rows, |token| {
        let (tile, local) = (token / tokens, token % tokens);
        let (block_row, block_column) = (local / blocks, local % blocks);
        for i in 0..scale * scale {
            let (a, b) = (i / scale, i % scale);
            let source = tile * side * side + (block_row * scale + a) * side + block_column * scale + b;
            // SAFETY: each part of each row is written once.
            unsafe { shared.segment::<f32>(token, i * width, width) }.copy_from_slice(x.row(source));
        }
    });
    out
}
