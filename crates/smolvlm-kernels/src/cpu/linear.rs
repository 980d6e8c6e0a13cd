//! `epilogue(norm(x) · Wᵀ)` over packed weights.

use super::CpuBackend;
use super::lanes::{Finish, RowNorm, Scales, TileActivation, TileTarget};
use super::matmul::{CHUNK, Dot, Kernel, PANEL, Panels, Rows, Session, Tile};
use super::scratch;
use super::shared::SharedRows;
use super::tensor::{Stored, Tensor};
use super::weight::Weight;
use crate::aligned::{bytes_mut, numbers_mut};
use crate::backend::{Activation, Norm};
use crate::view::Format;

/// Tasks for each thread where there are many rows, so that a late one is made up for.
const TASKS_PER_THREAD: usize = 4;
/// Up to this many rows are prepared by the calling thread: they cost less than a region.
const FEW_ROWS: usize = 4;
/// Rows that one task prepares.
const ROWS_AT_A_TIME: usize = 16;
/// Most panels that a kernel takes at a time.
const MOST_PANELS: usize = 4;

/// What happens to a product before it is written.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    pub(super) bias: Option<&'a Vec<f32>>,
    pub(super) activation: Activation,
    /// Added row by row.
    pub(super) residual: Option<&'a Tensor>,
    /// Added likewise, starting over after its last row.
    pub(super) repeated: Option<&'a Tensor>,
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
    let prepared = prepare(backend, x, norm.as_ref(), weight.dot());
    let (x, steps) = prepared.as_ref().map_or((x, &[][..]), |(x, steps)| (x, steps));
    let width = match epilogue.activation {
        Activation::SwiGlu => weight.outputs() / 2,
        _ => weight.outputs(),
    };
    let narrow = epilogue.for_products && weight.format() != Format::F32;
    let mut out = backend.tensor(x.rows(), width, if narrow { Stored::Bf16 } else { Stored::F32 });
    let kernel = *backend.isa.tiles.of(weight.dot());
    let product = Product { backend, kernel, x, steps, weight, epilogue, width };
    product.run(&SharedRows::new(&mut out), narrow);
    out
}

/// The rows as the weight's products take them, with their steps if those are integers. None where `x` lies so already.
fn prepare(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<&Norm<'_, CpuBackend>>,
    dot: Dot,
) -> Option<(Tensor, Vec<f32>)> {
    let stored = match dot {
        Dot::F32 => Stored::F32,
        Dot::Bf16 => Stored::Bf16,
        Dot::U8I8 => Stored::U8,
    };
    if norm.is_none() && x.stored() == stored {
        return None;
    }
    let mut out = backend.tensor(x.rows(), x.width(), stored);
    let mut steps = if stored == Stored::U8 { vec![0.0; x.rows()] } else { Vec::new() };
    prepare_rows(backend, x, norm, &mut out, &mut steps);
    Some((out, steps))
}

/// Normalises and rounds each row of `x` to what `out` stores.
pub(super) fn prepare_rows(
    backend: &CpuBackend,
    x: &Tensor,
    norm: Option<&Norm<'_, CpuBackend>>,
    out: &mut Tensor,
    steps: &mut [f32],
) {
    let (rows, width, stored) = (x.rows(), x.width(), out.stored());
    let out = SharedRows::new(out);
    let all_steps = SharedRows::of(bytes_mut(steps), size_of::<f32>());
    let norm = norm.map(row_norm);
    let kernels = &backend.isa.rows;
    let prepare = |row: usize, scratch: &mut [f32]| {
        let (wide, normed) = scratch.split_at_mut(width);
        let mut values = if x.stored() == Stored::F32 {
            x.row::<f32>(row)
        } else {
            wide.iter_mut()
                .zip(x.row::<u16>(row))
                .for_each(|(wide, bits)| *wide = f32::from_bits(u32::from(*bits) << 16));
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

fn row_norm<'a>(norm: &Norm<'a, CpuBackend>) -> RowNorm<'a> {
    match *norm {
        Norm::Rms { weight, eps } => RowNorm::Rms { weight, eps },
        Norm::Layer { weight, bias, eps } => RowNorm::Layer { weight, bias, eps },
    }
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
}

impl Product<'_> {
    /// Cuts the output into blocks of rows and runs of panels, one task each.
    fn run(&self, out: &SharedRows<'_>, narrow: bool) {
        let (rows, panels, threads) = (self.x.rows(), self.weight.panels(), self.backend.threads.count());
        if rows <= self.kernel.few_rows {
            let tasks = panels.div_ceil(self.kernel.few_panels).next_multiple_of(threads).min(panels);
            return self.backend.threads.run(tasks, |task| {
                self.block(0..rows, task * panels / tasks..(task + 1) * panels / tasks, out, narrow);
            });
        }
        let block = self.block_rows();
        let blocks = rows.div_ceil(block).max(1);
        let runs = (threads * TASKS_PER_THREAD).min(panels);
        self.backend.threads.run(blocks * runs, |task| {
            let (block_index, run) = (task / runs, task % runs);
            let rows = block_index * block..((block_index + 1) * block).min(rows);
            self.block(rows, run * panels / runs..(run + 1) * panels / runs, out, narrow);
        });
    }

    /// Rows that one task multiplies by a panel while all of them stay in the second-level cache.
    fn block_rows(&self) -> usize {
        let rows = self.backend.cache_bytes / 2 / self.x.stride();
        (rows / self.kernel.rows).max(1) * self.kernel.rows
    }

    fn block(&self, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>, out: &SharedRows<'_>, narrow: bool) {
        let session = self.backend.isa.tiles.session();
        let expanded = if self.weight.format() == Format::Q4 { self.weight.chunks() * CHUNK * PANEL } else { 0 };
        let at_a_time = match rows.len() <= self.kernel.few_rows {
            true if expanded == 0 => self.kernel.few_panels,
            _ => 1,
        };
        let mut tiles = [Tile::ZERO; MOST_PANELS];
        scratch::with(expanded, |memory| {
            for first in panels.clone().step_by(at_a_time) {
                let count = at_a_time.min(panels.end - first);
                let mut operand = Panels { bytes: self.weight.panels_from(first), stride: self.weight.stride(), count };
                if expanded > 0 {
                    self.backend.isa.rows.expand_q4(operand.bytes, self.weight.chunks(), memory);
                    operand = Panels { bytes: memory, stride: expanded, count: 1 };
                }
                for row in rows.clone().step_by(self.kernel.rows) {
                    let count = self.kernel.rows.min(rows.end - row);
                    self.tile(&session, row, count, first, operand, &mut tiles, out, narrow);
                }
            }
        });
    }

    #[expect(clippy::too_many_arguments, reason = "what the loops above settle, once each")]
    fn tile(
        &self,
        session: &Session<'_>,
        first_row: usize,
        rows: usize,
        first_panel: usize,
        panels: Panels<'_>,
        tiles: &mut [Tile; MOST_PANELS],
        out: &SharedRows<'_>,
        narrow: bool,
    ) {
        let operand = Rows { bytes: self.x.bytes_from(first_row), stride: self.x.stride(), count: rows };
        session.multiply(self.weight.dot(), operand, panels, self.weight.chunks(), tiles, false);
        for (i, tile) in tiles.iter_mut().enumerate().take(panels.count) {
            self.finish(tile, first_row, rows, first_panel + i, out, narrow);
        }
    }

    /// Applies the epilogue to a tile and writes its rows.
    fn finish(&self, tile: &mut Tile, first_row: usize, rows: usize, panel: usize, out: &SharedRows<'_>, narrow: bool) {
        let mut padded = [0.0; PANEL];
        let bias = self.epilogue.bias.map(|bias| {
            let bias = &bias[panel * PANEL..];
            let len = bias.len().min(PANEL);
            padded[..len].copy_from_slice(&bias[..len]);
            &padded
        });
        let scales = self.weight.format().is_quantised().then(|| {
            let (outputs, totals) = self.weight.trailer(panel);
            Scales { rows: &self.steps[first_row..first_row + rows], outputs, totals }
        });
        let (activation, columns) = match self.epilogue.activation {
            Activation::Identity => (TileActivation::Identity, PANEL),
            Activation::GeluTanh => (TileActivation::GeluTanh, PANEL),
            Activation::SwiGlu => (TileActivation::SwiGlu, PANEL / 2),
        };
        let first = panel * columns;
        let columns = columns.min(self.width.saturating_sub(first));
        let mut finish = Finish {
            rows,
            scales,
            bias,
            activation,
            residual: self.epilogue.residual.map(|residual| residual.place(first_row, rows, first, columns)),
            target: TileTarget { start: std::ptr::null_mut(), stride: out.stride(), columns, narrow },
        };
        // SAFETY: `place` and `segment_start` hold the rows inside their tensors; each row and panel is written once, by
        // one task, and the residual is another tensor.
        unsafe {
            let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
            finish.target.start = out.start(first_row, rows, first * size, columns * size);
            match self.epilogue.repeated {
                None => self.backend.isa.rows.finish(tile, &finish),
                Some(repeated) => self.finish_repeated(tile, first_row, first, repeated, finish),
            }
        }
    }

    /// Row by row, each with its own row of `repeated`.
    ///
    /// # Safety
    /// As [`RowKernels::finish`](super::lanes::RowKernels::finish).
    unsafe fn finish_repeated(
        &self,
        tile: &mut Tile,
        first_row: usize,
        first: usize,
        repeated: &Tensor,
        finish: Finish<'_>,
    ) {
        let columns = finish.target.columns;
        let whole = finish.rows;
        let wrap = |row: usize| (first_row + row) % repeated.rows();
        let mut done = 0;
        while done < whole {
            // As many rows as stand one after another.
            let rows = (whole - done).min(repeated.rows() - wrap(done));
            let mut part = finish;
            part.rows = rows;
            part.scales = finish.scales.map(|scales| Scales { rows: &scales.rows[done..done + rows], ..scales });
            part.residual = Some(repeated.place(wrap(done), rows, first, columns));
            part.target.start = part.target.start.wrapping_add(done * part.target.stride);
            tile.0.copy_within(done..done + rows, 0);
            // SAFETY: these rows are among those that the caller promised.
            unsafe { self.backend.isa.rows.finish(tile, &part) };
            done += rows;
        }
    }
}
