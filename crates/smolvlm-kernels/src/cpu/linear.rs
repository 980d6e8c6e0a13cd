//! `epilogue(norm(x) · Wᵀ)` over packed weights.

use std::ops::Range;

use super::CpuBackend;
use super::lanes::{Finish, RowNorm, Scales, TileActivation, TileTarget};
use super::matmul::{CHUNK, Dot, Kernel, PANEL, PANEL_CHUNK, Panels, Q4_CHUNK, Rows, Session, Tile};
use super::shared::SharedRows;
use super::tensor::{Pooled, Stored, Tensor};
use super::weight::Weight;
use super::{prefetch, scratch};
use crate::aligned::{numbers, numbers_mut};
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
    let (x, steps) = prepared.as_ref().map_or((x, &[][..]), |(x, steps)| (x, numbers(steps)));
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
pub(super) fn prepare_rows(
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
        if rows == 0 {
            return;
        }
        if rows <= self.kernel.few_rows {
            let tasks = panels.div_ceil(self.kernel.few_panels).next_multiple_of(threads).min(panels);
            return self.backend.threads.run(tasks, |task| {
                self.few_rows(task * panels / tasks..(task + 1) * panels / tasks, out, narrow);
            });
        }
        let blocking = Blocking::new(self, rows, panels, threads);
        self.backend.threads.run(blocking.blocks * blocking.runs, |task| {
            let (block, run) = (task / blocking.runs, task % blocking.runs);
            let rows = block * blocking.rows..((block + 1) * blocking.rows).min(rows);
            let panels = run * panels / blocking.runs..(run + 1) * panels / blocking.runs;
            Block { product: self, session: self.backend.isa.tiles.session(), rows, panels, out, narrow }.run();
        });
    }

    /// All rows by some panels, several panels at a time: each weight is read once, in the order in which it lies.
    fn few_rows(&self, panels: Range<usize>, out: &SharedRows<'_>, narrow: bool) {
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
                    self.finish(tile, 0, rows, first + i, out, narrow);
                }
            }
        });
    }

    /// The numbers of a row that a panel gives: the first, and how many.
    fn columns(&self, panel: usize) -> (usize, usize) {
        let columns = if self.epilogue.activation == Activation::SwiGlu { PANEL / 2 } else { PANEL };
        (panel * columns, columns.min(self.width.saturating_sub(panel * columns)))
    }

    /// Says that a tile's rows will be finished soon.
    fn finish_soon(&self, first_row: usize, rows: usize, panel: usize, out: &SharedRows<'_>, narrow: bool) {
        let (first, columns) = self.columns(panel);
        let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
        let start = out.start(first_row, rows, first * size, columns * size);
        prefetch::write_soon(start, rows, out.stride(), columns * size);
        if let Some(residual) = self.epilogue.residual {
            let (start, stride) = residual.place(first_row, rows, first, columns);
            prefetch::write_soon(start, rows, stride, columns * size_of::<f32>());
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
        let activation = match self.epilogue.activation {
            Activation::Identity => TileActivation::Identity,
            Activation::GeluTanh => TileActivation::GeluTanh,
            Activation::SwiGlu => TileActivation::SwiGlu,
        };
        let (first, columns) = self.columns(panel);
        let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
        let start = out.start(first_row, rows, first * size, columns * size);
        let finish = Finish {
            rows,
            scales,
            bias,
            activation,
            residual: self.epilogue.residual.map(|residual| residual.place(first_row, rows, first, columns)),
            target: TileTarget { start, stride: out.stride(), columns, narrow },
        };
        // SAFETY: `place` and `start` hold the rows inside their tensors; each row and panel is written once, by one task,
        // and the residual is another tensor.
        unsafe {
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

/// How a product of many rows is cut.
struct Blocking {
    /// Rows of a block: what a pass reads of them stays in the second-level cache.
    rows: usize,
    blocks: usize,
    /// Runs of panels.
    runs: usize,
}

/// Chunks of inputs of one pass over a block's panels.
const PASS_CHUNKS: usize = 24;
/// Panels that meet a tile of rows one after another, while it is in the first-level cache.
const PANELS_AT_A_TIME: usize = 1;

impl Blocking {
    fn new(product: &Product<'_>, rows: usize, panels: usize, threads: usize) -> Self {
        let step = product.kernel.rows;
        // Two fifths of the cache for the rows of a pass, two fifths for their sums.
        let most = (product.backend.cache_bytes * 2 / 5 / (PASS_CHUNKS * CHUNK) / step).max(1) * step;
        let blocks = rows.div_ceil(most);
        let rows = rows.div_ceil(blocks).next_multiple_of(step);
        let mut runs = threads * TASKS_PER_THREAD;
        if product.weight.chunks() > PASS_CHUNKS {
            let most_panels = (product.backend.cache_bytes * 2 / 5 / (rows * PANEL * size_of::<f32>())).max(1);
            runs = runs.max(panels.div_ceil(most_panels).next_multiple_of(threads));
        }
        Self { rows, blocks, runs: runs.min(panels) }
    }
}

/// A block of rows times a run of panels.
struct Block<'a> {
    product: &'a Product<'a>,
    session: Session<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: &'a SharedRows<'a>,
    narrow: bool,
}

impl Block<'_> {
    /// Pass after pass over the inputs; sums wait in memory between passes.
    fn run(&self) {
        let chunks = self.product.weight.chunks();
        let groups = self.panels.len().div_ceil(PANELS_AT_A_TIME);
        let kept = if chunks > PASS_CHUNKS { groups } else { 1 };
        let row_tiles = self.rows.len().div_ceil(self.product.kernel.rows);
        let sums_len = kept * row_tiles * PANELS_AT_A_TIME * size_of::<Tile>();
        let expanded = if self.product.weight.format() == Format::Q4 { PASS_CHUNKS * PANEL_CHUNK } else { 0 };
        scratch::with(sums_len + expanded * PANELS_AT_A_TIME, |memory| {
            let (sums, memory) = memory.split_at_mut(sums_len);
            let sums = Tile::all_in(sums);
            for start in (0..chunks).step_by(PASS_CHUNKS) {
                let pass = start..(start + PASS_CHUNKS).min(chunks);
                for group in 0..groups {
                    let first = self.panels.start + group * PANELS_AT_A_TIME;
                    let count = PANELS_AT_A_TIME.min(self.panels.end - first);
                    let sums = &mut sums[group % kept * row_tiles * PANELS_AT_A_TIME..];
                    let panels = self.operand(first, count, &pass, memory);
                    let next = Next::after(self, first + count, &pass, row_tiles);
                    self.pass(first, panels, &pass, sums, next);
                }
            }
        });
    }

    /// What a pass reads of some panels.
    fn operand<'m>(&'m self, first: usize, count: usize, pass: &Range<usize>, memory: &'m mut [u8]) -> Panels<'m> {
        let weight = self.product.weight;
        if weight.format() != Format::Q4 {
            let bytes = &weight.panels_from(first)[pass.start * PANEL_CHUNK..];
            return Panels { bytes, stride: weight.stride(), count };
        }
        let stride = PASS_CHUNKS * PANEL_CHUNK;
        for (panel, memory) in memory.chunks_mut(stride).enumerate().take(count) {
            let packed = &weight.panels_from(first + panel)[pass.start * Q4_CHUNK..];
            self.product.backend.isa.rows.expand_q4(packed, pass.len(), memory);
        }
        Panels { bytes: memory, stride, count }
    }

    /// All rows of the block by some panels, over the inputs of one pass, a few chunks at a time so that the panels
    /// stay in the first-level cache.
    fn pass(&self, first_panel: usize, panels: Panels<'_>, pass: &Range<usize>, sums: &mut [Tile], mut next: Next<'_>) {
        let product = self.product;
        let step = product.kernel.rows;
        for start in pass.clone().step_by(product.kernel.chunks) {
            let count = product.kernel.chunks.min(pass.end - start);
            let panels = Panels { bytes: &panels.bytes[(start - pass.start) * PANEL_CHUNK..], ..panels };
            let last = start + count == product.weight.chunks();
            for (row, tiles) in self.rows.clone().step_by(step).zip(sums.chunks_mut(PANELS_AT_A_TIME)) {
                let rows = step.min(self.rows.end - row);
                let bytes = &product.x.bytes_from(row)[start * CHUNK..];
                let x = Rows { bytes, stride: product.x.stride(), count: rows };
                next.fetch();
                if last {
                    for panel in first_panel..first_panel + panels.count {
                        product.finish_soon(row, rows, panel, self.out, self.narrow);
                    }
                }
                self.session.multiply(product.weight.dot(), x, panels, count, tiles, start > 0);
                if last {
                    for (i, tile) in tiles.iter_mut().enumerate().take(panels.count) {
                        product.finish(tile, row, rows, first_panel + i, self.out, self.narrow);
                    }
                }
            }
        }
    }
}

/// The panels that come next, brought nearer while the ones before them are multiplied, a piece at a time.
struct Next<'a> {
    panels: [&'a [u8]; PANELS_AT_A_TIME],
    /// Bytes of each at a time.
    piece: usize,
}

impl<'a> Next<'a> {
    /// What `pass` reads of the panels from `panel` on, in as many pieces as there are products before they are needed.
    fn after(block: &'a Block<'_>, panel: usize, pass: &Range<usize>, row_tiles: usize) -> Self {
        let weight = block.product.weight;
        let chunk = if weight.format() == Format::Q4 { Q4_CHUNK } else { PANEL_CHUNK };
        let panels = std::array::from_fn(|i| {
            let there = panel + i < block.panels.end;
            if there { &weight.panels_from(panel + i)[pass.start * chunk..pass.end * chunk] } else { &[] }
        });
        let products = row_tiles * pass.len().div_ceil(block.product.kernel.chunks);
        Self { panels, piece: (pass.len() * chunk).div_ceil(products) }
    }

    fn fetch(&mut self) {
        for panel in &mut self.panels {
            let (piece, rest) = panel.split_at(self.piece.min(panel.len()));
            prefetch::read_soon(piece);
            *panel = rest;
        }
    }
}
