//! Rows of a weight brought to other lengths, as outputs that are multiplied.

use super::linear::{add_before, add_in_bands, after, by_rows};
use super::rows::add;
use super::{Floats, Saved};
use crate::backend::{Activation, LinearArgs};
use crate::cpu::CpuBackend;
use crate::cpu::linear::before_activation;
use crate::cpu::matmul::PANEL;
use crate::cpu::panel::TURN;
use crate::cpu::shared::SharedRows;
use crate::cpu::tensor::{Stored, Tensor};
use crate::cpu::weight::Weight;
use crate::packed::Arrangement;
use crate::training::{LowRank, Rescale};

/// The weight's numbers are unpacked for this once more: a step has one of these beside products with many rows.
pub(super) fn row_norms(
    backend: &CpuBackend,
    weight: &Weight,
    arrangement: Arrangement,
    low: &LowRank<'_, CpuBackend>,
) -> Floats {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let ranks = low.b.len() / outputs.max(1);
    let numbers = weight.numbers(&backend.threads, arrangement);
    let mut norms = Floats::zeros(outputs);
    let shared = SharedRows::of(norms.bytes_mut(), size_of::<f32>());
    by_rows(backend, outputs, inputs, |output, row| {
        row.copy_from_slice(&numbers[output * inputs..][..inputs]);
        let factors = low.b[output * ranks..][..ranks].iter().map(|b| b * low.scale);
        for (factor, a) in factors.zip(low.a.chunks(inputs)).filter(|(factor, _)| *factor != 0.0) {
            row.iter_mut().zip(a).for_each(|(x, a)| *x += factor * a);
        }
        // SAFETY: each norm is written once.
        unsafe { shared.segment::<f32>(output, 0, 1)[0] = backend.isa.rows.training().squares(row).sqrt() as f32 };
    });
    norms
}

/// What each output is multiplied by.
fn factors(rescale: Rescale<'_, CpuBackend>) -> Vec<f32> {
    let factor = |(length, norm): (&f32, &f32)| if *norm > 0.0 { length / norm } else { 0.0 };
    rescale.lengths.iter().zip(rescale.norms.iter()).map(factor).collect()
}

pub(super) fn linear(
    backend: &CpuBackend,
    mut args: LinearArgs<'_, CpuBackend>,
    addend: &Tensor,
    rescale: Rescale<'_, CpuBackend>,
) -> (Tensor, Saved, Tensor) {
    let gated = args.activation == Activation::SwiGlu;
    let written = before_activation(backend, args.x, args.norm.take(), args.weight, None, gated);
    let product = if gated { gates_before_ups(backend, &written, args.weight.outputs()) } else { written };
    let product = add(backend, product, addend);
    let mut scaled = multiplied(backend, &product, &factors(rescale));
    if let Some(bias) = args.bias {
        add_to_rows(backend, &mut scaled, bias);
    }
    if !gated {
        let out = after(backend, &args, &scaled);
        let before = (args.activation != Activation::Identity).then_some(scaled);
        return (out, Saved { before }, product);
    }
    let mut before = backend.tensor(scaled.rows(), args.weight.panels() * PANEL, Stored::F32);
    (0..before.rows()).for_each(|row| before.row_mut::<f32>(row).fill(0.0));
    add_before(backend, &mut before, &scaled, true);
    (after(backend, &args, &before), Saved { before: Some(before) }, product)
}

/// A gated product as it was written, in turns, as one half after the other.
fn gates_before_ups(backend: &CpuBackend, written: &Tensor, outputs: usize) -> Tensor {
    let mut out = backend.tensor(written.rows(), outputs, Stored::F32);
    let shared = SharedRows::new(&mut out);
    by_rows(backend, written.rows(), 0, |row, _| {
        // SAFETY: each row is written once.
        let (gates, ups) = unsafe { shared.segment::<f32>(row, 0, outputs) }.split_at_mut(outputs / 2);
        let turns = written.row::<f32>(row).chunks(2 * TURN).zip(gates.chunks_mut(TURN).zip(ups.chunks_mut(TURN)));
        for (panel, (gates, ups)) in turns {
            gates.copy_from_slice(&panel[..gates.len()]);
            ups.copy_from_slice(&panel[TURN..][..ups.len()]);
        }
    });
    out
}

fn add_to_rows(backend: &CpuBackend, x: &mut Tensor, bias: &[f32]) {
    let (rows, width) = (x.rows(), x.width());
    let shared = SharedRows::new(x);
    by_rows(backend, rows, 0, |row, _| {
        // SAFETY: each row is added to once.
        backend.isa.rows.training().add(unsafe { shared.segment(row, 0, width) }, bias);
    });
}

/// Every row number by number.
fn multiplied(backend: &CpuBackend, x: &Tensor, factors: &[f32]) -> Tensor {
    assert_eq!(x.width(), factors.len(), "a factor for each output");
    let mut out = backend.tensor(x.rows(), x.width(), Stored::F32);
    let shared = SharedRows::new(&mut out);
    by_rows(backend, x.rows(), 0, |row, _| {
        // SAFETY: each row is written once.
        let to = unsafe { shared.segment::<f32>(row, 0, x.width()) };
        to.iter_mut().zip(x.row::<f32>(row).iter().zip(factors)).for_each(|(to, (x, factor))| *to = x * factor);
    });
    out
}

pub(super) fn backward(
    backend: &CpuBackend,
    product: &Tensor,
    dy: &Tensor,
    rescale: Rescale<'_, CpuBackend>,
    lengths: &mut Floats,
) -> Tensor {
    let mut sums = Floats::zeros(dy.width());
    add_in_bands(backend, dy.rows(), &mut [&mut sums], |row, sums| {
        let terms = product.row::<f32>(row).iter().zip(dy.row::<f32>(row));
        sums.iter_mut().zip(terms).for_each(|(sum, (x, dy))| *sum += x * dy);
    });
    let norms = rescale.norms.iter();
    for ((to, sum), norm) in lengths.iter_mut().zip(sums.iter()).zip(norms).filter(|(_, norm)| **norm > 0.0) {
        *to += sum / norm;
    }
    multiplied(backend, dy, &factors(rescale))
}
