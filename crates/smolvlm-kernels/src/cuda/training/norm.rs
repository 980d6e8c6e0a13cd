//! Norms backwards.

use super::CudaBackend;
use crate::backend::Norm;
use crate::cuda::device::error;
use crate::cuda::launch::{Module, Shape};
use crate::cuda::linear::convert;
use crate::cuda::tensor::Tensor;
use crate::training::NormGradients;

/// Warps of a block, a row each at a time, as `training_rows.cu` has them.
const WARPS: usize = 8;
/// Pairs of numbers of a row that a lane holds, as kernels are named.
const PAIRS: [usize; 3] = [4, 12, 32];
/// Numbers of the widest row: two for each pair and lane.
const MOST_WIDTH: usize = 64 * PAIRS[2];

/// As `training_rows.cu` declares it.
#[repr(C)]
struct NormBackward {
    x: u64,
    dy: u64,
    weight: u64,
    out: u64,
    weight_sums: u64,
    bias_sums: u64,
    rows: u32,
    width: u32,
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
    let needed = x.width.div_ceil(64);
    let pairs = PAIRS.into_iter().find(|pairs| needed <= *pairs);
    let Some(pairs) = pairs else {
        backend.device.fail(error(format!("CUDA: a norm of {} numbers backwards; at most {MOST_WIDTH}", x.width)));
        return out;
    };
    let structure = NormBackward {
        x: x.pointer(),
        dy: dy.pointer(),
        weight: weight.f32.pointer(),
        out: out.pointer(),
        weight_sums: gradients.weight.map_or(0, |gradient| gradient.pointer()),
        bias_sums: gradients.bias.map_or(0, |gradient| gradient.pointer()),
        rows: x.rows as u32,
        width: x.width as u32,
        adds,
        centred,
        eps,
    };
    // Few enough blocks that adding up their columns at the end costs little, enough to fill the machine.
    let blocks = x.rows.div_ceil(WARPS).min(4 * backend.device.info.multiprocessors as usize);
    let shape = Shape::new((blocks as u32, 1, 1), 32 * WARPS as u32);
    let name = format!("norm_backward_{}_{}_{pairs}", x.element.name(), dy.element.name());
    let kernel = backend.training_kernel(Module::TrainingRows, &name);
    // Safety: the structure is the kernel's; `dy` and `out` are as large as `x`, sums as long as a row.
    unsafe { backend.device.launch_struct("a norm backwards", kernel, shape, &structure) };
    out
}
