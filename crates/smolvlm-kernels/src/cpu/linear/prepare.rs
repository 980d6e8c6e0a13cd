//! The rows of a product as it takes them: normalised, rounded.

use crate::aligned::numbers_mut;
use crate::backend::Norm;
use crate::cpu::lanes::RowNorm;
use crate::cpu::matmul::Dot;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Pooled, Stored, Tensor};
use crate::cpu::{CpuBackend, scratch};

/// Up to this many rows are prepared by the calling thread: they cost less than a region.
const FEW_ROWS: usize = 4;
/// Rows that one task prepares.
const ROWS_AT_A_TIME: usize = 16;

/// The rows as the weight's products take them, with their steps if those are integers. None where `x` lies so already.
pub(super) fn prepare(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<&Norm<'_, CpuBackend>>,
    dot: Dot,
) -> Option<(Tensor, Pooled)> {
    let stored = match dot {
        Dot::F32 => Stored::F32,
        Dot::Bf16 => Stored::Bf16,
        Dot::U8I8 => Stored::U8,
    };
    if norm.is_none() && x.stored() == stored {
        return None;
    }
    let mut out = backend.tensor(x.rows(), x.width(), stored);
    let mut steps = backend.buffers.take(if stored == Stored::U8 { x.rows() * size_of::<f32>() } else { 0 });
    prepare_rows(backend, x, norm, &mut out, &mut steps);
    Some((out, steps))
}

/// Normalises and rounds each row of `x` to what `out` stores. `steps` takes an f32 for each row of integers.
pub(in crate::cpu) fn prepare_rows(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<&Norm<'_, CpuBackend>>,
    out: &mut Tensor,
    steps: &mut [u8],
) {
    let (rows, width, stored) = (x.rows(), x.width(), out.stored());
    let out = SharedRows::new(out);
    let all_steps = SharedRows::of(steps, size_of::<f32>());
    let norm = norm.map(row_norm);
    let kernels = &backend.isa.rows;
    let prepare = |row: usize, scratch: &mut [f32]| {
        let (wide, normed) = scratch.split_at_mut(width);
        let mut values = if x.stored() == Stored::F32 {
            x.row(row)
        } else {
            x.widen_row(row, wide);
            &*wide
        };
        // SAFETY: each row is prepared once.
        unsafe {
            if let Some(norm) = &norm {
                let target = if stored == Stored::F32 { out.segment(row, 0, width) } else { &mut normed[..width] };
                kernels.norm(values, norm, target);
                values = target;
            } else if stored == Stored::F32 {
                out.segment(row, 0, width).copy_from_slice(values);
            }
            match stored {
                Stored::F32 => (),
                Stored::Bf16 => kernels.round(values, out.segment(row, 0, width)),
                Stored::U8 => {
                    all_steps.segment::<f32>(row, 0, 1)[0] = kernels.quantise(values, out.segment(row, 0, width))
                }
            }
        }
    };
    let some = |first: usize, last: usize| {
        scratch::with(2 * width * size_of::<f32>(), |memory| {
            let memory = numbers_mut(memory);
            (first..last).for_each(|row| prepare(row, memory));
        });
    };
    if rows <= FEW_ROWS {
        return some(0, rows);
    }
    backend.threads.run(rows.div_ceil(ROWS_AT_A_TIME), |task| {
        some(task * ROWS_AT_A_TIME, ((task + 1) * ROWS_AT_A_TIME).min(rows));
    });
}

/// The norm of a row.
pub(in crate::cpu) fn row_norm<'a>(norm: &Norm<'a, CpuBackend>) -> RowNorm<'a> {
    match *norm {
        Norm::Rms { weight, eps } => RowNorm::Rms { weight, eps },
        Norm::Layer { weight, bias, eps } => RowNorm::Layer { weight, bias, eps },
    }
}
