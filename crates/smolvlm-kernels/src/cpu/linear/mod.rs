//! `epilogue(norm(x) · Wᵀ)` over packed weights.

mod block;
mod finish;
mod prepare;

use std::ops::Range;

use super::CpuBackend;
use super::matmul::{Kernel, PANEL, PANEL_CHUNK, Panels, Rows, Tile};
use super::scratch;
use super::shared::SharedRows;
use super::tensor::{Stored, Tensor};
use super::weight::Weight;
use crate::aligned::numbers;
use crate::backend::{Activation, Norm};
use crate::view::Format;
use block::{Block, Blocking};

pub(super) use prepare::{prepare_rows, row_norm};

/// Most panels that a kernel takes at a time.
const MOST_PANELS: usize = 4;

/// What happens to a product before it is written.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    pub(super) bias: Option<&'a Vec<f32>>,
    pub(super) activation: Activation,
    /// Added row by row, starting over after its last one.
    pub(super) residual: Option<&'a Tensor>,
    /// Whether the result only enters products, and is stored as those round it.
    pub(super) for_products: bool,
}

pub(super) fn linear(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<Norm<'_, CpuBackend>>,
    weight: &Weight,
    epilogue: Epilogue<'_>,
) -> Tensor {
    assert_eq!(x.width(), weight.inputs(), "a linear layer's input width");
    let prepared = prepare::prepare(backend, x, norm.as_ref(), weight.dot());
    let (x, steps) = prepared.as_ref().map_or((x, &[][..]), |(x, steps)| (x, numbers(steps)));
    let width = match epilogue.activation {
        Activation::SwiGlu => weight.outputs() / 2,
        _ => weight.outputs(),
    };
    let narrow = epilogue.for_products && weight.format() != Format::F32;
    let mut out = backend.tensor(x.rows(), width, if narrow { Stored::Bf16 } else { Stored::F32 });
    let kernel = *backend.isa.tiles.of(weight.dot());
    Product { backend, kernel, x, steps, weight, epilogue, width, narrow, out: SharedRows::new(&mut out) }.run();
    out
}

/// `norm(x) · Wᵀ + bias` with every output where its panel has it: those of a layer that is gated in turns of 16 gates and
/// 16 ups, filled up to whole panels.
pub(super) fn before_activation(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<Norm<'_, CpuBackend>>,
    weight: &Weight,
    bias: Option<&Vec<f32>>,
    gated: bool,
) -> Tensor {
    let prepared = prepare::prepare(backend, x, norm.as_ref(), weight.dot());
    let (x, steps) = prepared.as_ref().map_or((x, &[][..]), |(x, steps)| (x, numbers(steps)));
    let width = if gated { weight.panels() * PANEL } else { weight.outputs() };
    let mut out = backend.tensor(x.rows(), width, Stored::F32);
    let (kernel, epilogue) = (*backend.isa.tiles.of(weight.dot()), Epilogue { bias, ..Epilogue::default() });
    let out_rows = SharedRows::new(&mut out);
    Product { backend, kernel, x, steps, weight, epilogue, width, narrow: false, out: out_rows }.run();
    out
}

/// One product in progress.
struct Product<'a> {
    backend: &'a CpuBackend,
    kernel: Kernel,
    x: &'a Tensor,
    /// One for each row, when `x` is integers.
    steps: &'a [f32],
    weight: &'a Weight,
    epilogue: Epilogue<'a>,
    /// Of the result.
    width: usize,
    /// Whether the result is stored as bfloat16.
    narrow: bool,
    out: SharedRows<'a>,
}

impl Product<'_> {
    /// Cuts the output into blocks of rows and runs of panels, one task each.
    fn run(&self) {
        let (rows, panels, threads) = (self.x.rows(), self.weight.panels(), self.backend.threads.count());
        if rows == 0 {
            return;
        }
        if rows <= self.kernel.few_rows {
            let tasks = panels.div_ceil(self.kernel.few_panels).next_multiple_of(threads).min(panels);
            return self.backend.threads.run(tasks, |task| {
                self.few_rows(task * panels / tasks..(task + 1) * panels / tasks);
            });
        }
        let blocking = Blocking::new(self, rows, panels, threads);
        self.backend.threads.run(blocking.blocks * blocking.runs, |task| {
            let (block, run) = (task / blocking.runs, task % blocking.runs);
            let rows = block * blocking.rows..((block + 1) * blocking.rows).min(rows);
            let panels = run * panels / blocking.runs..(run + 1) * panels / blocking.runs;
            let session = self.backend.isa.tiles.session();
            Block { product: self, session, rows, panels, pass: blocking.pass }.run();
        });
    }

    /// All rows by some panels, several panels at a time: each weight is read once, in the order in which it lies.
    fn few_rows(&self, panels: Range<usize>) {
        let session = self.backend.isa.tiles.session();
        let (rows, chunks, dot) = (self.x.rows(), self.weight.chunks(), self.weight.dot());
        let x = Rows { bytes: self.x.bytes_from(0), stride: self.x.stride(), count: rows };
        let mut tiles = [Tile::ZERO; MOST_PANELS];
        let expands = self.weight.format() == Format::Q4 && !session.takes_q4(rows);
        let at_a_time = if expands { 1 } else { self.kernel.few_panels };
        let expanded = if expands { chunks * PANEL_CHUNK } else { 0 };
        scratch::with(expanded, |memory| {
            for first in panels.clone().step_by(at_a_time) {
                let count = at_a_time.min(panels.end - first);
                let operand = Panels { bytes: self.weight.panels_from(first), stride: self.weight.stride(), count };
                match self.weight.format() {
                    Format::Q4 if expands => {
                        self.backend.isa.rows.expand_q4(operand.bytes, chunks, memory);
                        let operand = Panels { bytes: memory, stride: expanded, count: 1 };
                        session.multiply(dot, x, operand, chunks, &mut tiles, false);
                    }
                    Format::Q4 => session.multiply_q4(x, operand, chunks, &mut tiles),
                    _ => session.multiply(dot, x, operand, chunks, &mut tiles, false),
                }
                for (i, tile) in tiles.iter_mut().enumerate().take(count) {
                    self.finish(tile, 0, rows, first + i);
                }
            }
        });
    }
}
