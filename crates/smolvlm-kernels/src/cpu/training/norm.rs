//! Backward of norms.

use super::Floats;
use super::linear::add_in_bands;
use crate::backend::Norm;
use crate::cpu::CpuBackend;
use crate::cpu::lanes::NormSums;
use crate::cpu::linear::row_norm;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::training::NormGradients;

/// Statistics of a row are computed again: they cost less than a product by far.
pub(super) fn backward(
    backend: &CpuBackend,
    x: &Tensor,
    norm: &Norm<'_, CpuBackend>,
    dy: &Tensor,
    onto: Option<Tensor>,
    gradients: NormGradients<'_, CpuBackend>,
) -> Tensor {
    let (rows, width) = (x.rows(), x.width());
    let fresh = onto.is_none();
    let mut dx = onto.unwrap_or_else(|| backend.tensor(rows, width, Stored::F32));
    let shared = SharedRows::new(&mut dx);
    let norm = row_norm(norm);
    let kernels = backend.isa.rows.training();
    // What nobody asks for is added up all the same: it costs two operations a number.
    let mut unused = [Floats::zeros(width), Floats::zeros(width)];
    let [unused_weight, unused_bias] = &mut unused;
    let sums = &mut [gradients.weight.unwrap_or(unused_weight), gradients.bias.unwrap_or(unused_bias)];
    add_in_bands(backend, rows, sums, |row, sums| {
        // SAFETY: each row is written once.
        let dx = unsafe { shared.segment::<f32>(row, 0, width) };
        if fresh {
            dx.fill(0.0);
        }
        let (weight, bias) = sums.split_at_mut(width);
        kernels.norm_backward(x.row(row), dy.row(row), &norm, dx, NormSums { weight, bias });
    });
    dx
}
