//! `epilogue(norm(x) · Wᵀ)` over packed weights.

use rayon::prelude::*;

use super::CpuBackend;
use super::lanes::RowKernels;
use super::matmul::{PANEL, Rows, TILE_ROWS, Tile};
use super::shared::SharedRows;
use super::tensor::{Pooled, Tensor};
use super::weight::{Panels, Weight};
use crate::backend::{Activation, Norm};

/// Rows that one task multiplies by a panel while both stay in the second-level cache; a multiple of a tile's rows.
const BLOCK_ROWS: usize = 96;
/// Tasks for each thread, so that a late one is made up for.
const TASKS_PER_THREAD: usize = 4;

/// What happens to a product before it is written.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    pub(super) bias: Option<&'a Vec<f32>>,
    pub(super) activation: Activation,
    /// Added row by row.
    pub(super) residual: Option<&'a Tensor>,
    /// Added likewise, starting over after its last row.
    pub(super) repeated: Option<&'a Tensor>,
}

/// The left-hand rows in the weight's format.
enum Input<'a> {
    F32(&'a [f32]),
    /// `[rows, inputs]`, the number of inputs rounded up to even.
    Bf16(Pooled<u16>),
}

pub(super) fn linear(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<Norm<'_, CpuBackend>>,
    weight: &Weight,
    epilogue: Epilogue<'_>,
) -> Tensor {
    assert_eq!(x.width(), weight.inputs(), "a linear layer's input width");
    let normed = norm.map(|norm| {
        let mut out = backend.tensor(x.rows(), x.width());
        norm_rows(backend.isa.rows, x, &norm, &mut out);
        out
    });
    let x = normed.as_ref().unwrap_or(x);
    let input = match weight.panels() {
        Panels::F32(_) => Input::F32(x.data()),
        Panels::Bf16(_) => Input::Bf16(round_rows(backend, x)),
    };
    let width = match epilogue.activation {
        Activation::SwiGlu => weight.outputs() / 2,
        _ => weight.outputs(),
    };
    let mut out = backend.tensor(x.rows(), width);
    let product = Product { backend, input, weight, epilogue, rows: x.rows(), width };
    product.run(&SharedRows::new(&mut out));
    out
}

/// Normalises each row of `x`.
pub(super) fn norm_rows(kernels: RowKernels, x: &Tensor, norm: &Norm<'_, CpuBackend>, out: &mut Tensor) {
    let width = x.width();
    let rows = out.data_mut().par_chunks_mut(width).zip(x.data().par_chunks(width)).with_min_len(8);
    match norm {
        Norm::Rms { weight, eps } => rows.for_each(|(out, x)| kernels.rms_norm(x, weight, *eps, out)),
        Norm::Layer { weight, bias, eps } => {
            rows.for_each(|(out, x)| kernels.layer_norm(x, weight, bias, *eps, out));
        }
    }
}

fn round_rows(backend: &CpuBackend, x: &Tensor) -> Pooled<u16> {
    let padded = x.width().next_multiple_of(2);
    let mut rounded = backend.buffers.bf16.take(x.rows() * padded);
    let kernels = backend.isa.rows;
    let rows = rounded.par_chunks_mut(padded).zip(x.data().par_chunks(x.width())).with_min_len(16);
    rows.for_each(|(out, x)| {
        out[padded - 1] = 0;
        kernels.round_bf16(x, out);
    });
    rounded
}

/// One product in progress.
struct Product<'a> {
    backend: &'a CpuBackend,
    input: Input<'a>,
    weight: &'a Weight,
    epilogue: Epilogue<'a>,
    rows: usize,
    width: usize,
}

impl Product<'_> {
    /// Cuts the output into blocks of rows and runs of panels, one task each.
    fn run(&self, out: &SharedRows<'_>) {
        let panels = self.weight.outputs().div_ceil(PANEL);
        let row_blocks = self.rows.div_ceil(BLOCK_ROWS).max(1);
        let runs = (self.backend.threads() * TASKS_PER_THREAD).div_ceil(row_blocks).clamp(1, panels);
        let run_length = panels.div_ceil(runs);
        (0..row_blocks * runs).into_par_iter().for_each(|task| {
            let (block, run) = (task / runs, task % runs);
            let rows = block * BLOCK_ROWS..((block + 1) * BLOCK_ROWS).min(self.rows);
            for panel in run * run_length..((run + 1) * run_length).min(panels) {
                for first in rows.clone().step_by(TILE_ROWS) {
                    self.tile(first, TILE_ROWS.min(rows.end - first), panel, out);
                }
            }
        });
    }

    fn tile(&self, first: usize, rows: usize, panel: usize, out: &SharedRows<'_>) {
        let kernels = &self.backend.isa.tiles;
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        match (&self.input, self.weight.panels()) {
            (Input::F32(x), Panels::F32(panels)) => {
                let k = self.weight.inputs();
                kernels.f32(
                    Rows { data: &x[first * k..], stride: k, count: rows },
                    &panels[panel * PANEL * k..],
                    k,
                    &mut tile,
                    false,
                );
            }
            (Input::Bf16(x), Panels::Bf16(panels)) => {
                let k = self.weight.inputs().next_multiple_of(2);
                kernels.bf16(
                    Rows { data: &x[first * k..], stride: k, count: rows },
                    &panels[panel * PANEL * k..],
                    k,
                    &mut tile,
                    false,
                );
            }
            _ => unreachable!("the input was brought to the weight's format"),
        }
        for (i, sums) in tile.iter_mut().enumerate().take(rows) {
            self.finish_row(first + i, panel, sums, out);
        }
    }

    /// Applies the epilogue to one row of a tile and writes it.
    fn finish_row(&self, row: usize, panel: usize, sums: &mut [f32; PANEL], out: &SharedRows<'_>) {
        let columns = if self.epilogue.activation == Activation::SwiGlu { PANEL / 2 } else { PANEL };
        let first = panel * columns;
        let len = columns.min(self.width.saturating_sub(first));
        // SAFETY: each tile row is finished once, and tiles cover disjoint rows and columns.
        let target = unsafe { out.segment(row, first.min(self.width), len) };
        if let Some(bias) = self.epilogue.bias {
            add(sums, &bias[first..first + len]);
        }
        let kernels = &self.backend.isa.rows;
        match self.epilogue.activation {
            Activation::Identity => target.copy_from_slice(&sums[..len]),
            Activation::GeluTanh => {
                kernels.gelu_tanh(sums);
                target.copy_from_slice(&sums[..len]);
            }
            Activation::SwiGlu => {
                let (gate, up) = sums.split_at(PANEL / 2);
                kernels.swiglu(&gate[..len], &up[..len], target);
            }
        }
        if let Some(residual) = self.epilogue.residual {
            add(target, &residual.row(row)[first..first + len]);
        }
        if let Some(repeated) = self.epilogue.repeated {
            add(target, &repeated.row(row % repeated.rows())[first..first + len]);
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
