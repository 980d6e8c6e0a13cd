//! Backward of a product: `dX = dY · W` by the transposed weight, `dW = dYᵀ · X` by the rows as panels; both are the
//! products of inference.

use super::{BAND, Floats, Saved, norm};
use crate::aligned::numbers_mut;
use crate::backend::{Activation, Backend, LinearArgs};
use crate::cpu::lanes::nearest_bf16;
use crate::cpu::linear::{Epilogue, before_activation, linear, prepare_rows};
use crate::cpu::matmul::PANEL;
use crate::cpu::panel::TURN;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::cpu::weight::Weight;
use crate::cpu::{CpuBackend, scratch};
use crate::packed::Arrangement;
use crate::training::LinearBackward;
use crate::view::Format;

/// Rows that one task takes through an activation.
const ROWS_AT_A_TIME: usize = 8;
/// Numbers of a side of the squares in which a matrix is transposed.
const SQUARE: usize = 16;

pub(super) fn keeping(backend: &CpuBackend, args: LinearArgs<'_, CpuBackend>) -> (Tensor, Saved) {
    if args.activation == Activation::Identity {
        return (backend.linear(args), Saved::default());
    }
    activated(backend, args, None)
}

/// With no activation, the addend is a residual like any other.
pub(super) fn adapted(backend: &CpuBackend, args: LinearArgs<'_, CpuBackend>, addend: &Tensor) -> (Tensor, Saved) {
    if args.activation != Activation::Identity {
        return activated(backend, args, Some(addend));
    }
    let sum = args
        .residual
        .map(|residual| super::rows::add(backend, super::rows::copy(backend, residual, 0..residual.rows()), addend));
    let residual = Some(sum.as_ref().unwrap_or(addend));
    (backend.linear(LinearArgs { residual, ..args }), Saved::default())
}

fn activated(backend: &CpuBackend, mut args: LinearArgs<'_, CpuBackend>, addend: Option<&Tensor>) -> (Tensor, Saved) {
    let gated = args.activation == Activation::SwiGlu;
    let mut before = before_activation(backend, args.x, args.norm.take(), args.weight, args.bias, gated);
    if let Some(addend) = addend {
        add_before(backend, &mut before, addend, gated);
    }
    let out = after(backend, &args, &before);
    (out, Saved { before: Some(before) })
}

/// The activation of a product as it was written, and the residual.
pub(super) fn after(backend: &CpuBackend, args: &LinearArgs<'_, CpuBackend>, before: &Tensor) -> Tensor {
    let gated = args.activation == Activation::SwiGlu;
    let width = if gated { args.weight.outputs() / 2 } else { args.weight.outputs() };
    let narrow = args.for_products && args.weight.format() != Format::F32;
    let mut out = backend.tensor(before.rows(), width, if narrow { Stored::Bf16 } else { Stored::F32 });
    let shared = SharedRows::new(&mut out);
    let kernels = &backend.isa.rows;
    by_rows(backend, before.rows(), width, |row, activated| {
        match args.activation {
            Activation::SwiGlu => kernels.training().swiglu(before.row(row), activated),
            Activation::Identity => activated.copy_from_slice(before.row(row)),
            Activation::GeluTanh => kernels.training().gelu(before.row(row), activated),
        }
        if let Some(residual) = args.residual {
            kernels.training().add(activated, residual.row(row % residual.rows()));
        }
        // SAFETY: each row is written once.
        unsafe {
            if narrow {
                kernels.round(activated, shared.segment(row, 0, width));
            } else {
                shared.segment(row, 0, width).copy_from_slice(activated);
            }
        }
    });
    out
}

/// Adds rows to those of a product as it was written: of a gated layer, gates and ups to their turns.
pub(super) fn add_before(backend: &CpuBackend, before: &mut Tensor, addend: &Tensor, gated: bool) {
    let (rows, width) = (before.rows(), before.width());
    let shared = SharedRows::new(before);
    by_rows(backend, rows, 0, |row, _| {
        // SAFETY: each row is added to once.
        let to = unsafe { shared.segment::<f32>(row, 0, width) };
        let from: &[f32] = addend.row(row);
        if !gated {
            return backend.isa.rows.training().add(to, from);
        }
        let (gates, ups) = from.split_at(from.len() / 2);
        let turns = to.chunks_mut(2 * TURN).zip(gates.chunks(TURN).zip(ups.chunks(TURN)));
        for (panel, (gates, ups)) in turns {
            let (to_gates, to_ups) = panel.split_at_mut(TURN);
            to_gates.iter_mut().zip(gates).for_each(|(to, x)| *to += x);
            to_ups.iter_mut().zip(ups).for_each(|(to, x)| *to += x);
        }
    });
}

/// Calls `body` for each row, with `width` numbers of working memory.
pub(super) fn by_rows(backend: &CpuBackend, rows: usize, width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    backend.threads.run(rows.div_ceil(ROWS_AT_A_TIME), |task| {
        scratch::with(width * size_of::<f32>(), |memory| {
            let memory = &mut numbers_mut(memory)[..width];
            (task * ROWS_AT_A_TIME..((task + 1) * ROWS_AT_A_TIME).min(rows)).for_each(|row| body(row, memory));
        });
    });
}

pub(super) fn backward(backend: &CpuBackend, args: LinearBackward<'_, CpuBackend>) -> Option<Tensor> {
    let before = args.saved.before.as_ref().filter(|_| args.activation != Activation::Identity);
    let through = before.map(|before| slopes(backend, before, args.activation, args.dy));
    let dy = through.as_ref().unwrap_or(args.dy);
    if let Some(gradient) = args.gradients.weight {
        let normed = args.norm.as_ref().map(|norm| {
            let mut normed = backend.tensor(args.x.rows(), args.x.width(), Stored::F32);
            prepare_rows(backend, args.x, Some(norm), &mut normed, &mut []);
            normed
        });
        add_weight_gradient(backend, dy, normed.as_ref().unwrap_or(args.x), args.weight.format(), gradient);
    }
    if let Some(gradient) = args.gradients.bias {
        add_column_sums(backend, dy, gradient);
    }
    let transposed = args.transposed?;
    let product = |residual| linear(backend, dy, None, transposed, Epilogue { residual, ..Epilogue::default() });
    Some(match args.norm {
        Some(norm) => norm::backward(backend, args.x, &norm, &product(None), args.onto, args.gradients.norm),
        None => product(args.onto.as_ref()),
    })
}

/// The gradient of what an activation was applied to; gates before ups.
pub(super) fn slopes(backend: &CpuBackend, before: &Tensor, activation: Activation, dy: &Tensor) -> Tensor {
    let width = if activation == Activation::SwiGlu { 2 * dy.width() } else { dy.width() };
    let mut out = backend.tensor(dy.rows(), width, Stored::F32);
    let shared = SharedRows::new(&mut out);
    let kernels = backend.isa.rows.training();
    by_rows(backend, dy.rows(), 0, |row, _| {
        // SAFETY: each row is written once.
        let out = unsafe { shared.segment(row, 0, width) };
        match activation {
            Activation::SwiGlu => kernels.swiglu_backward(before.row(row), dy.row(row), out),
            _ => kernels.gelu_backward(before.row(row), dy.row(row), out),
        }
    });
    out
}

/// Adds `dyᵀ · x`. An output's sum runs over the rows in order.
pub(super) fn add_weight_gradient(
    backend: &CpuBackend,
    dy: &Tensor,
    x: &Tensor,
    format: Format,
    gradient: &mut Floats,
) {
    assert_eq!(gradient.len(), dy.width() * x.width(), "a gradient is as large as its weight");
    if dy.rows() == 0 {
        return;
    }
    let format = format.of_attention();
    let panels = Weight::of_columns(
        &backend.threads,
        &backend.buffers,
        (x.rows(), x.width()),
        format,
        |row, first, out| match x.stored() {
            Stored::F32 => copy_panel(&x.row(row)[first..], out),
            _ => x.widen(row, first, out),
        },
    );
    let rows = transposed_rows(backend, dy, format);
    let product = linear(backend, &rows, None, &panels, Epilogue::default());
    let gradient = SharedRows::of(gradient.bytes_mut(), x.width() * size_of::<f32>());
    by_rows(backend, product.rows(), 0, |row, _| {
        // SAFETY: each row is added to once.
        backend.isa.rows.training().add(unsafe { gradient.segment(row, 0, x.width()) }, product.row(row));
    });
}

/// The first numbers of a row, nearly always as many as a panel has.
#[inline(always)]
fn copy_panel(from: &[f32], out: &mut [f32]) {
    match (from.first_chunk::<PANEL>(), out.first_chunk_mut::<PANEL>()) {
        (Some(from), Some(out)) => *out = *from,
        _ => out.copy_from_slice(&from[..out.len()]),
    }
}

/// Columns of `x` as rows, rounded as products take them.
fn transposed_rows(backend: &CpuBackend, x: &Tensor, format: Format) -> Tensor {
    let stored = if format == Format::F32 { Stored::F32 } else { Stored::Bf16 };
    let mut out = backend.tensor(x.width(), x.rows(), stored);
    let shared = SharedRows::new(&mut out);
    backend.threads.run(x.width().div_ceil(SQUARE), |task| {
        let columns = task * SQUARE..((task + 1) * SQUARE).min(x.width());
        for first in (0..x.rows()).step_by(SQUARE) {
            let mut square = [[0.0; SQUARE]; SQUARE];
            let count = SQUARE.min(x.rows() - first);
            for (i, square) in square.iter_mut().enumerate().take(count) {
                let row: &[f32] = x.row(first + i);
                match row[columns.start..].first_chunk() {
                    Some(numbers) => *square = *numbers,
                    None => square[..columns.len()].copy_from_slice(&row[columns.clone()]),
                }
            }
            for (j, column) in columns.clone().enumerate() {
                let line: [f32; SQUARE] = std::array::from_fn(|i| square[i][j]);
                // SAFETY: each part of each row is written once.
                unsafe {
                    if stored == Stored::F32 {
                        let to = shared.segment::<f32>(column, first, count);
                        match to.first_chunk_mut() {
                            Some(to) => *to = line,
                            None => to.copy_from_slice(&line[..count]),
                        }
                    } else {
                        let to = shared.segment::<u16>(column, first, count);
                        to.iter_mut().zip(line).for_each(|(to, x)| *to = nearest_bf16(x));
                    }
                }
            }
        }
    });
    out
}

/// Adds the sum of each column.
pub(super) fn add_column_sums(backend: &CpuBackend, x: &Tensor, gradient: &mut Floats) {
    add_in_bands(backend, x.rows(), &mut [gradient], |row, sums| {
        backend.isa.rows.training().add(sums, x.row(row));
    });
}

/// Adds what rows add to sums that stand one after another: band by band of rows, then the bands in order.
pub(super) fn add_in_bands(
    backend: &CpuBackend,
    rows: usize,
    gradients: &mut [&mut Floats],
    add: impl Fn(usize, &mut [f32]) + Sync,
) {
    let width = gradients.iter().map(|gradient| gradient.len()).sum::<usize>();
    let bands = rows.div_ceil(BAND);
    let mut sums = backend.tensor(bands, width, Stored::F32);
    let shared = SharedRows::new(&mut sums);
    backend.threads.run(bands, |band| {
        // SAFETY: each band is one task.
        let sums = unsafe { shared.segment::<f32>(band, 0, width) };
        sums.fill(0.0);
        (band * BAND..((band + 1) * BAND).min(rows)).for_each(|row| add(row, sums));
    });
    for band in 0..bands {
        let mut rest = sums.row(band);
        for gradient in &mut *gradients {
            let (first, later) = rest.split_at(gradient.len());
            backend.isa.rows.training().add(gradient, first);
            rest = later;
        }
    }
}

/// The transposed matrix of a weight of any format, in f32 beside f32 and in bfloat16 beside others.
pub(super) fn transposed(backend: &CpuBackend, weight: &Weight, arrangement: Arrangement) -> Weight {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let numbers = weight.numbers(&backend.threads, arrangement);
    Weight::of_columns(
        &backend.threads,
        &backend.buffers,
        (outputs, inputs),
        weight.format().of_attention(),
        |output, first, out| copy_panel(&numbers[output * inputs + first..][..inputs - first], out),
    )
}
