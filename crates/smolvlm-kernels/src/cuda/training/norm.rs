//! Norms backwards.

use super::CudaBackend;
use super::rows::column_blocks;
use crate::backend::Norm;
use crate::cuda::device::error;
use crate::cuda::launch::{Module, Shape};
use crate::cuda::linear::convert;
use crate::cuda::tensor::{Element, Tensor};
use crate::training::NormGradients;

/// Times eight numbers of a row that a lane holds, as kernels are named.
const CHUNKS: [usize; 3] = [1, 3, 8];
/// Numbers of the widest row: eight for each chunk and lane.
const MOST_WIDTH: usize = 256 * CHUNKS[2];

/// As `training_rows.cu` declares it.
#[repr(C)]
struct NormBackward {
    x: u64,
    dy: u64,
    weight: u64,
    out: u64,
    of_rows: u64,
    weight_sums: u64,
    bias_sums: u64,
    rows: u32,
    width: u32,
    rows_per_block: u32,
    adds: u32,
    centred: u32,
    eps: f32,
}

/// The gradient of `x`, stored as it is, added to `onto`.
pub(super) fn backward(
    backend: &CudaBackend,
    x: &Tensor,
    norm: &Norm<'_, CudaBackend>,
    dy: &Tensor,
    onto: Option<Tensor>,
    gradients: NormGradients<'_, CudaBackend>,
) -> Tensor {
    let (weight, eps, centred) = match norm {
        Norm::Rms { weight, eps } => (weight, *eps, 0),
        Norm::Layer { weight, eps, .. } => (weight, *eps, 1),
    };
    let adds = u32::from(onto.is_some());
    let onto = onto.map(|onto| convert(backend, &onto, x.element).unwrap_or(onto));
    let out = onto.unwrap_or_else(|| backend.tensor(x.rows, x.width, x.element));
    let needed = x.width.div_ceil(256);
    let chunks = CHUNKS.into_iter().find(|chunks| needed <= *chunks);
    let Some(chunks) = chunks else {
        backend.device.fail(error(format!("CUDA: a norm of {} numbers backwards; at most {MOST_WIDTH}", x.width)));
        return out;
    };
    let asked = gradients.weight.is_some() || gradients.bias.is_some();
    let of_rows = asked.then(|| backend.tensor(x.rows, 2, Element::F32));
    let (sums, rows_per_block) = column_blocks(backend, x.rows, x.width);
    let structure = NormBackward {
        x: x.pointer(),
        dy: dy.pointer(),
        weight: weight.f32.pointer(),
        out: out.pointer(),
        of_rows: of_rows.as_ref().map_or(0, Tensor::pointer),
        weight_sums: gradients.weight.map_or(0, |gradient| gradient.pointer()),
        bias_sums: gradients.bias.map_or(0, |gradient| gradient.pointer()),
        rows: x.rows as u32,
        width: x.width as u32,
        rows_per_block,
        adds,
        centred,
        eps,
    };
    let formats = format!("{}_{}", x.element.name(), dy.element.name());
    let start = |name: &str, shape| {
        let kernel = backend.training_kernel(Module::TrainingRows, name);
        // Safety: the structure is the kernel's; `dy` and `out` are as large as `x`, sums as long as a row.
        unsafe { backend.device.launch_struct("a norm backwards", kernel, shape, &structure) };
    };
    start(&format!("norm_backward_{formats}_{chunks}"), Shape::rows(x.rows));
    if asked {
        start(&format!("norm_sums_{formats}"), sums);
    }
    out
}
