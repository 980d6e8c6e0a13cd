//! Random tokens, drawn where their logits are.

use super::CudaBackend;
use super::launch::{Module, Shape};
use super::tensor::{Element, Tensor};
use crate::choose;

const THREADS: u32 = 1024;

/// As `draw.cu` declares it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Draw {
    row: u32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    unused: u32,
    uniform: f64,
}

/// One token for each draw, as 32 bits.
pub(super) fn draw(backend: &CudaBackend, logits: &Tensor, draws: &[choose::Draw]) -> Tensor {
    assert_eq!(logits.element, Element::F32, "logits");
    assert!(draws.iter().all(|draw| draw.row < logits.rows), "rows of logits");
    let given: Vec<Draw> = draws.iter().map(as_declared).collect();
    let given = backend.uploaded(&given);
    let out = backend.tensor(draws.len(), 1, Element::F32);
    let arguments =
        [logits.pointer().into(), given.pointer().into(), out.pointer().into(), (logits.width as u32).into()];
    let shape = Shape::new((draws.len() as u32, 1, 1), THREADS);
    // Safety: a block for each draw, whose row is one of the logits'; `out` has 32 bits for each.
    unsafe { backend.device.launch("drawing tokens", backend.kernel(Module::Draw, "draw"), shape, &arguments) };
    out
}

fn as_declared(draw: &choose::Draw) -> Draw {
    let choose::DrawRules { temperature, top_k, top_p, min_p } = draw.rules;
    let top_k = u32::try_from(top_k).unwrap_or(u32::MAX);
    Draw { row: draw.row as u32, temperature, top_k, top_p, min_p, unused: 0, uniform: draw.uniform }
}
