//! Backwards of operations that move rows.

use std::ops::Range;

use super::Floats;
use crate::backend::FeatureRow;
use crate::cpu::CpuBackend;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::training::Dropout;

/// Columns of a task, where rows meet and columns do not.
const COLUMNS: usize = 64;

/// Rows are added in order; threads share the columns.
pub(super) fn embed_backward(backend: &CpuBackend, ids: &[u32], dy: &Tensor, gradient: &mut Floats) {
    let width = dy.width();
    let rows = gradient.len() / width;
    assert!(ids.iter().all(|id| (*id as usize) < rows), "ids of the table");
    let shared = SharedRows::of(gradient.bytes_mut(), width * size_of::<f32>());
    backend.threads.run(width.div_ceil(COLUMNS), |task| {
        let columns = task * COLUMNS..((task + 1) * COLUMNS).min(width);
        for (row, id) in ids.iter().enumerate() {
            // SAFETY: each task has its columns.
            let to = unsafe { shared.segment(*id as usize, columns.start, columns.len()) };
            backend.isa.rows.training().add(to, &dy.row(row)[columns.clone()]);
        }
    });
}

pub(super) fn scatter_backward(
    backend: &CpuBackend,
    features: &[FeatureRow],
    mut dy: Tensor,
    source_rows: &[usize],
) -> (Tensor, Vec<Tensor>) {
    let mut sources: Vec<Tensor> = source_rows.iter().map(|rows| zeros(backend, *rows, dy.width())).collect();
    for feature in features {
        let from = dy.row_mut::<f32>(feature.row as usize);
        let to = sources[feature.source as usize].row_mut(feature.index as usize);
        backend.isa.rows.training().add(to, from);
        from.fill(0.0);
    }
    (dy, sources)
}

/// Adds the rows of every tile to those of the first.
pub(super) fn add_over_tiles(backend: &CpuBackend, dy: &Tensor, gradient: &mut Floats) {
    let width = dy.width();
    let patches = gradient.len() / width;
    let shared = SharedRows::of(gradient.bytes_mut(), width * size_of::<f32>());
    backend.threads.run(patches, |patch| {
        // SAFETY: each patch is one task.
        let to = unsafe { shared.segment(patch, 0, width) };
        for row in (patch..dy.rows()).step_by(patches) {
            backend.isa.rows.training().add(to, dy.row(row));
        }
    });
}

pub(super) fn pixel_shuffle_backward(backend: &CpuBackend, dy: &Tensor, side: usize, scale: usize) -> Tensor {
    let (blocks, width) = (side / scale, dy.width() / (scale * scale));
    let mut out = backend.tensor(dy.rows() * scale * scale, width, Stored::F32);
    let shared = SharedRows::new(&mut out);
    backend.threads.run(dy.rows(), |token| {
        let (tile, local) = (token / (blocks * blocks), token % (blocks * blocks));
        for part in 0..scale * scale {
            let (y, x) = (local / blocks * scale + part / scale, local % blocks * scale + part % scale);
            // SAFETY: each row is written once.
            let to = unsafe { shared.segment::<f32>(tile * side * side + y * side + x, 0, width) };
            to.copy_from_slice(&dy.row(token)[part * width..][..width]);
        }
    });
    out
}

pub(super) fn gather_backward(backend: &CpuBackend, outputs: &[u32], dy: &Tensor, rows: usize) -> Tensor {
    let mut out = zeros(backend, rows, dy.width());
    for (i, row) in outputs.iter().enumerate() {
        backend.isa.rows.training().add(out.row_mut(*row as usize), dy.row(i));
    }
    out
}

pub(super) fn add(backend: &CpuBackend, mut to: Tensor, x: &Tensor) -> Tensor {
    assert!(to.rows() == x.rows() && to.width() == x.width(), "tensors of one shape");
    let (rows, width) = (to.rows(), to.width());
    let shared = SharedRows::new(&mut to);
    backend.threads.run(rows, |row| {
        // SAFETY: each row is one task.
        backend.isa.rows.training().add(unsafe { shared.segment(row, 0, width) }, x.row(row));
    });
    to
}

pub(super) fn copy(backend: &CpuBackend, x: &Tensor, rows: Range<usize>) -> Tensor {
    let mut out = backend.tensor(rows.len(), x.width(), Stored::F32);
    for (to, row) in rows.enumerate() {
        match x.stored() {
            Stored::F32 => out.row_mut::<f32>(to).copy_from_slice(x.row(row)),
            _ => x.widen(row, 0, out.row_mut(to)),
        }
    }
    out
}

pub(super) fn stack(backend: &CpuBackend, parts: &[Tensor]) -> Tensor {
    let width = parts.first().map_or(0, Tensor::width);
    let mut out = backend.tensor(parts.iter().map(Tensor::rows).sum(), width, Stored::F32);
    let sources = parts.iter().flat_map(|part| (0..part.rows()).map(move |row| part.row::<f32>(row)));
    for (to, row) in sources.enumerate() {
        out.row_mut::<f32>(to).copy_from_slice(row);
    }
    out
}

fn zeros(backend: &CpuBackend, rows: usize, width: usize) -> Tensor {
    let mut out = backend.tensor(rows, width, Stored::F32);
    (0..rows).for_each(|row| out.row_mut::<f32>(row).fill(0.0));
    out
}

pub(super) fn dropout(backend: &CpuBackend, mut x: Tensor, dropout: Dropout) -> Tensor {
    let (rows, width) = (x.rows(), x.width());
    let shared = SharedRows::new(&mut x);
    backend.threads.run(rows, |row| {
        // SAFETY: each row is one task.
        let numbers = unsafe { shared.segment::<f32>(row, 0, width) };
        let places = (row * width) as u64..;
        numbers.iter_mut().zip(places).for_each(|(x, place)| *x *= dropout.multiplier(place));
    });
    x
}
