//! The scalar truth of every backward, of the loss and of the optimizer.

mod head;

use std::ops::Range;

use super::{Matrix, Plan, ReferenceBackend, Rounded, activate, product, round};
use crate::backend::{Activation, Backend, LinearArgs, Norm, RopeTable, TokenBatch};
use crate::packed::Arrangement;
use crate::training::{
    AdamW, AdamWPart, AttentionBackward, Dropout, HeadCounts, LinearBackward, LowRank, NormGradients, PatchGradients,
    Rescale, Rope, TrainBackend,
};
use crate::view::Format;
use head::{Head, rotate, wide};

/// Adds sums to a gradient.
fn add_to(gradient: Option<&mut Vec<f32>>, sums: &[f64]) {
    if let Some(gradient) = gradient {
        assert_eq!(gradient.len(), sums.len(), "a gradient is as large as its parameter");
        gradient.iter_mut().zip(sums).for_each(|(to, sum)| *to += *sum as f32);
    }
}

/// What a product makes of a number that meets a weight of this format, if it rounds to a float.
fn operand(value: f32, format: Format) -> f64 {
    f64::from(round(value, format.of_attention()))
}

/// The numbers that a weight stands for.
fn weight_number(weight: &Rounded, output: usize, input: usize) -> f64 {
    let step = weight.steps.get(output).map_or(1.0, |step| f64::from(*step));
    let value = f64::from(weight.matrix.row(output)[input]) * step;
    if weight.format.is_quantised() { operand(value as f32, weight.format) } else { value }
}

/// `dy · W`.
fn input_gradient(dy: &Matrix, weight: &Rounded) -> Matrix {
    let mut dx = Matrix::zeros(dy.rows, weight.matrix.cols);
    for row in 0..dy.rows {
        for input in 0..dx.cols {
            let terms = dy.row(row).iter().enumerate();
            let sum: f64 = terms.map(|(o, dy)| operand(*dy, weight.format) * weight_number(weight, o, input)).sum();
            dx.row_mut(row)[input] = sum as f32;
        }
    }
    dx
}

/// `dyᵀ · x`, `[outputs, inputs]`.
fn weight_gradient(dy: &Matrix, x: &Matrix, format: Format) -> Vec<f64> {
    let mut sums = vec![0.0; dy.cols * x.cols];
    for row in 0..dy.rows {
        for (output, dy) in dy.row(row).iter().enumerate() {
            let sums = &mut sums[output * x.cols..][..x.cols];
            sums.iter_mut().zip(x.row(row)).for_each(|(sum, x)| *sum += operand(*dy, format) * operand(*x, format));
        }
    }
    sums
}

fn column_sums(x: &Matrix) -> Vec<f64> {
    let mut sums = vec![0.0; x.cols];
    for row in 0..x.rows {
        sums.iter_mut().zip(x.row(row)).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Derivative of `0.5 x (1 + tanh u)`, `u = √(2/π) (x + 0.044715 x³)`.
fn gelu_slope(x: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let tanh = (root * (x + 0.044715 * x * x * x)).tanh();
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * root * (1.0 + 3.0 * 0.044715 * x * x)
}

/// Gradient of the numbers before an activation.
fn before_activation(before: &Matrix, activation: Activation, dy: &Matrix) -> Matrix {
    let mut out = before.clone();
    for row in 0..out.rows {
        let (numbers, dy) = (out.row_mut(row), dy.row(row));
        match activation {
            Activation::Identity => numbers.copy_from_slice(dy),
            Activation::GeluTanh => {
                let slope = |x: f32, dy: f32| (gelu_slope(f64::from(x)) * f64::from(dy)) as f32;
                numbers.iter_mut().zip(dy).for_each(|(x, dy)| *x = slope(*x, *dy));
            }
            Activation::SwiGlu => {
                let (gates, ups) = numbers.split_at_mut(dy.len());
                for ((gate, up), dy) in gates.iter_mut().zip(ups).zip(dy) {
                    let (g, u, dy) = (f64::from(*gate), f64::from(*up), f64::from(*dy));
                    *gate = (dy * u * sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)))) as f32;
                    *up = (dy * g * sigmoid(g)) as f32;
                }
            }
        }
    }
    out
}

/// Mean, and one over the deviation, of a row.
fn statistics(row: &[f32], centred: bool, eps: f32) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = if centred { row.iter().map(|x| f64::from(*x)).sum::<f64>() / n } else { 0.0 };
    let square = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (square + f64::from(eps)).sqrt())
}

/// What a rescaled output is multiplied by.
fn factor(rescale: Rescale<'_, ReferenceBackend>, output: usize) -> f64 {
    let norm = f64::from(rescale.norms[output]);
    if norm > 0.0 { f64::from(rescale.lengths[output]) / norm } else { 0.0 }
}

fn add_row(to: &mut [f32], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (f64::from(*to) + from) as f32);
}

/// Logarithm of the sum of exponentials of a row.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().fold(f64::NEG_INFINITY, |max, x| max.max(f64::from(*x)));
    max + row.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

impl ReferenceBackend {
    /// A product with everything around it, and what was there before the activation.
    fn after_product(&self, args: LinearArgs<'_, Self>, addend: Option<&Matrix>) -> (Matrix, Option<Matrix>) {
        let normed = args.norm.map(|norm| self.norm(args.x, norm));
        let mut before = product(normed.as_ref().unwrap_or(args.x), args.weight);
        if let Some(addend) = addend {
            before = self.add(before, addend);
        }
        self.finished(LinearArgs { norm: None, ..args }, before)
    }

    /// What follows a product, and what was there before the activation.
    fn finished(&self, args: LinearArgs<'_, Self>, mut before: Matrix) -> (Matrix, Option<Matrix>) {
        if let Some(bias) = args.bias {
            for row in 0..before.rows {
                before.row_mut(row).iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let mut out = activate(before.clone(), args.activation);
        if let Some(residual) = args.residual {
            out = self.add(out, residual);
        }
        (out, Some(before))
    }
}

impl TrainBackend for ReferenceBackend {
    type Floats = Vec<f32>;
    /// The numbers before an activation.
    type Saved = Option<Matrix>;
    type Transposed = ();

    fn floats(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn clear(&self, parts: &mut [&mut Vec<f32>]) {
        parts.iter_mut().for_each(|floats| floats.fill(0.0));
    }

    fn width(&self, x: &Matrix) -> usize {
        x.cols
    }

    fn read(&self, floats: &Vec<f32>) -> Vec<f32> {
        floats.clone()
    }

    fn repack(&self, weight: &mut Rounded, _: Option<&mut ()>, _: Arrangement, master: &Vec<f32>) {
        let format = weight.format;
        weight.matrix.data = master.iter().map(|value| round(*value, format)).collect();
    }

    fn repack_table(&self, table: &mut Rounded, master: &Vec<f32>) {
        self.repack(table, None, Arrangement::Table, master);
    }

    fn repack_vector(&self, vector: &mut Vec<f32>, master: &Vec<f32>) {
        vector.clone_from(master);
    }

    fn repack_tensor(&self, tensor: &mut Matrix, master: &Vec<f32>) {
        tensor.data.clone_from(master);
    }

    fn transposed(&self, _weight: &Rounded, _: Arrangement) {}

    fn fill_sequences(&self, plan: &mut Plan, batch: &TokenBatch) {
        plan.tokens = batch.clone();
    }

    fn linear_keeping(&self, args: LinearArgs<'_, Self>) -> (Matrix, Option<Matrix>) {
        if args.activation == Activation::Identity {
            return (self.linear(args), None);
        }
        self.after_product(args, None)
    }

    fn linear_adapted(&self, args: LinearArgs<'_, Self>, addend: &Matrix) -> (Matrix, Option<Matrix>) {
        self.after_product(args, Some(addend))
    }

    fn activation_backward(&self, activation: Activation, saved: &Option<Matrix>, dy: &Matrix) -> Option<Matrix> {
        let before = saved.as_ref().filter(|_| activation != Activation::Identity)?;
        Some(before_activation(before, activation, dy))
    }

    fn row_norms(&self, weight: &Rounded, _: Arrangement, low: LowRank<'_, Self>) -> Vec<f32> {
        let (outputs, inputs) = (weight.matrix.rows, weight.matrix.cols);
        let ranks = low.b.len() / outputs;
        let number = |output: usize, input: usize| {
            let step = weight.steps.get(output).map_or(1.0, |step| f64::from(*step));
            let terms = (0..ranks).map(|k| f64::from(low.b[output * ranks + k]) * f64::from(low.a[k * inputs + input]));
            f64::from(weight.matrix.row(output)[input]) * step + f64::from(low.scale) * terms.sum::<f64>()
        };
        let norm = |output| (0..inputs).map(|input| number(output, input).powi(2)).sum::<f64>().sqrt() as f32;
        (0..outputs).map(norm).collect()
    }

    fn linear_rescaled(
        &self,
        mut args: LinearArgs<'_, Self>,
        addend: &Matrix,
        rescale: Rescale<'_, Self>,
    ) -> (Matrix, Option<Matrix>, Matrix) {
        let normed = args.norm.take().map(|norm| self.norm(args.x, norm));
        let product = self.add(product(normed.as_ref().unwrap_or(args.x), args.weight), addend);
        let mut before = product.clone();
        for row in 0..before.rows {
            let numbers = before.row_mut(row).iter_mut().enumerate();
            numbers.for_each(|(i, x)| *x = (f64::from(*x) * factor(rescale, i)) as f32);
        }
        let (out, saved) = self.finished(args, before);
        (out, saved, product)
    }

    fn rescale_backward(
        &self,
        product: &Matrix,
        dy: &Matrix,
        rescale: Rescale<'_, Self>,
        lengths: &mut Vec<f32>,
    ) -> Matrix {
        let (mut out, mut sums) = (dy.clone(), vec![0.0; dy.cols]);
        for row in 0..dy.rows {
            for (i, (dy, product)) in out.row_mut(row).iter_mut().zip(product.row(row)).enumerate() {
                let norm = f64::from(rescale.norms[i]);
                sums[i] += if norm > 0.0 { f64::from(*dy) * f64::from(*product) / norm } else { 0.0 };
                *dy = (f64::from(*dy) * factor(rescale, i)) as f32;
            }
        }
        add_to(Some(lengths), &sums);
        out
    }

    fn dropout(&self, mut x: Matrix, dropout: Dropout) -> Matrix {
        x.data.iter_mut().enumerate().for_each(|(place, x)| *x *= dropout.multiplier(place as u64));
        x
    }

    fn linear_backward(&self, args: LinearBackward<'_, Self>) -> Option<Matrix> {
        let before = args.saved.as_ref().filter(|_| args.activation != Activation::Identity).unwrap_or(args.dy);
        let dy = before_activation(before, args.activation, args.dy);
        let clone = |norm: &Norm<'_, Self>| match *norm {
            Norm::Rms { weight, eps } => self.norm(args.x, Norm::Rms { weight, eps }),
            Norm::Layer { weight, bias, eps } => self.norm(args.x, Norm::Layer { weight, bias, eps }),
        };
        let normed = args.norm.as_ref().map(clone);
        if args.gradients.weight.is_some() {
            let x = normed.as_ref().unwrap_or(args.x);
            add_to(args.gradients.weight, &weight_gradient(&dy, x, args.weight.format));
        }
        add_to(args.gradients.bias, &column_sums(&dy));
        args.transposed?;
        let dx = input_gradient(&dy, args.weight);
        Some(match args.norm {
            Some(norm) => self.norm_backward(args.x, &norm, &dx, args.onto, args.gradients.norm),
            None => args.onto.map_or(dx.clone(), |onto| self.add(onto, &dx)),
        })
    }

    fn norm_backward(
        &self,
        x: &Matrix,
        norm: &Norm<'_, Self>,
        dy: &Matrix,
        onto: Option<Matrix>,
        gradients: NormGradients<'_, Self>,
    ) -> Matrix {
        let (weight, centred, eps) = match norm {
            Norm::Rms { weight, eps } => (*weight, false, *eps),
            Norm::Layer { weight, eps, .. } => (*weight, true, *eps),
        };
        let mut dx = onto.unwrap_or_else(|| Matrix::zeros(x.rows, x.cols));
        let (mut weight_sums, mut bias_sums) = (vec![0.0; x.cols], vec![0.0; x.cols]);
        for row in 0..x.rows {
            let (mean, inverse) = statistics(x.row(row), centred, eps);
            let unit: Vec<f64> = x.row(row).iter().map(|x| (f64::from(*x) - mean) * inverse).collect();
            let slopes: Vec<f64> =
                dy.row(row).iter().zip(weight).map(|(dy, w)| f64::from(*dy) * f64::from(*w)).collect();
            let n = unit.len() as f64;
            let along = unit.iter().zip(&slopes).map(|(u, s)| u * s).sum::<f64>() / n;
            let shift = if centred { slopes.iter().sum::<f64>() / n } else { 0.0 };
            let terms: Vec<f64> = unit.iter().zip(&slopes).map(|(u, s)| inverse * (s - shift - u * along)).collect();
            add_row(dx.row_mut(row), &terms);
            for (i, dy) in dy.row(row).iter().enumerate() {
                weight_sums[i] += f64::from(*dy) * unit[i];
                bias_sums[i] += f64::from(*dy);
            }
        }
        add_to(gradients.weight, &weight_sums);
        add_to(gradients.bias, &bias_sums);
        dx
    }

    fn tile_attention_keeping(&self, qkv: &Matrix, tile_rows: usize, heads: usize) -> (Matrix, Option<Matrix>) {
        (self.tile_attention(qkv, tile_rows, heads), None)
    }

    fn tile_attention_backward(&self, args: AttentionBackward<'_, Self>, tile_rows: usize, heads: usize) -> Matrix {
        let (qkv, dim) = (args.qkv, args.qkv.cols / (3 * heads));
        let mut out = Matrix::zeros(qkv.rows, qkv.cols);
        for first in (0..qkv.rows).step_by(tile_rows) {
            for head in 0..heads {
                let rows = first..first + tile_rows;
                let part = |which: usize| {
                    let part = |row: usize| wide(&qkv.row(row)[(which * heads + head) * dim..][..dim]);
                    rows.clone().map(part).collect()
                };
                let of = Head { queries: part(0), keys: part(1), values: part(2), seen: &|_| tile_rows };
                let dy: Vec<Vec<f64>> = rows.clone().map(|row| wide(&args.dy.row(row)[head * dim..][..dim])).collect();
                for (which, gradient) in of.backward(&dy).iter().enumerate() {
                    for (row, gradient) in rows.clone().zip(gradient) {
                        add_row(&mut out.row_mut(row)[(which * heads + head) * dim..][..dim], gradient);
                    }
                }
            }
        }
        out
    }

    fn causal_attention(
        &self,
        plan: &Plan,
        qkv: &Matrix,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
        format: Format,
    ) -> (Matrix, Option<Matrix>) {
        let dim = qkv.cols / (heads.queries + 2 * heads.keys);
        let mut plan = Plan { tokens: plan.tokens.clone(), ..Plan::default() };
        plan.tokens.pages.clear();
        for segment in &mut plan.tokens.segments {
            let first = plan.tokens.pages.len();
            let pages = segment.rows.len().div_ceil(crate::backend::PAGE_TOKENS);
            plan.tokens.pages.extend((first..first + pages).map(|page| page as u32));
            segment.pages = first..first + pages;
        }
        let shape = crate::backend::CacheShape {
            layers: 1,
            kv_heads: heads.keys,
            head_dim: dim,
            pages: plan.tokens.pages.len(),
            format,
        };
        let rope = RopeTable { cos: rope.cos.clone(), sin: rope.sin.clone() };
        (self.cached_attention(&plan, qkv.clone(), &mut self.cache(shape), 0, &rope), None)
    }

    fn causal_attention_backward(
        &self,
        plan: &Plan,
        args: AttentionBackward<'_, Self>,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
    ) -> Matrix {
        let (qkv, group) = (args.qkv, heads.queries / heads.keys);
        let dim = qkv.cols / (heads.queries + 2 * heads.keys);
        let mut out = Matrix::zeros(qkv.rows, qkv.cols);
        for segment in &plan.tokens.segments {
            assert_eq!(segment.start, 0, "whole sequences");
            for head in 0..heads.queries {
                let places =
                    [head, heads.queries + head / group, heads.queries + heads.keys + head / group].map(|at| at * dim);
                let part = |which: usize| {
                    let part = |(position, row): (usize, usize)| {
                        let mut numbers = wide(&qkv.row(row)[places[which]..][..dim]);
                        if which < 2 {
                            rotate(&mut numbers, rope, position, 1.0);
                        }
                        numbers
                    };
                    segment.rows.clone().enumerate().map(part).collect()
                };
                let of = Head { queries: part(0), keys: part(1), values: part(2), seen: &|row| row + 1 };
                let rows = segment.rows.clone();
                let dy: Vec<Vec<f64>> = rows.clone().map(|row| wide(&args.dy.row(row)[head * dim..][..dim])).collect();
                for (which, mut gradient) in of.backward(&dy).into_iter().enumerate() {
                    for (position, (row, gradient)) in rows.clone().zip(&mut gradient).enumerate() {
                        if which < 2 {
                            rotate(gradient, rope, position, -1.0);
                        }
                        add_row(&mut out.row_mut(row)[places[which]..][..dim], gradient);
                    }
                }
            }
        }
        out
    }

    fn embed_backward(&self, plan: &Plan, dy: &Matrix, gradient: &mut Vec<f32>) {
        for (row, id) in plan.tokens.ids.iter().enumerate() {
            let to = &mut gradient[*id as usize * dy.cols..][..dy.cols];
            to.iter_mut().zip(dy.row(row)).for_each(|(to, dy)| *to += dy);
        }
    }

    fn scatter_features_backward(&self, plan: &Plan, mut dy: Matrix, source_rows: &[usize]) -> (Matrix, Vec<Matrix>) {
        let mut sources: Vec<Matrix> = source_rows.iter().map(|rows| Matrix::zeros(*rows, dy.cols)).collect();
        for feature in &plan.tokens.features {
            let from = dy.row_mut(feature.row as usize);
            let to = sources[feature.source as usize].row_mut(feature.index as usize);
            to.iter_mut().zip(from.iter()).for_each(|(to, dy)| *to += dy);
            from.fill(0.0);
        }
        (dy, sources)
    }

    fn patch_embed_backward(
        &self,
        plan: &Plan,
        weight: &Rounded,
        patch: usize,
        dy: &Matrix,
        gradients: PatchGradients<'_, Self>,
    ) {
        let patches = super::patches(plan, patch);
        if gradients.weight.is_some() {
            add_to(gradients.weight, &weight_gradient(dy, &patches, weight.format));
        }
        add_to(gradients.bias, &column_sums(dy));
        if let Some(gradient) = gradients.positions {
            let mut sums = vec![0.0; gradient.len()];
            for (i, dy) in dy.data.iter().enumerate() {
                sums[i % gradient.len()] += f64::from(*dy);
            }
            add_to(Some(gradient), &sums);
        }
    }

    fn pixel_shuffle_backward(&self, dy: &Matrix, side: usize, scale: usize) -> Matrix {
        let (blocks, width) = (side / scale, dy.cols / (scale * scale));
        let mut out = Matrix::zeros(dy.rows * scale * scale, width);
        for row in 0..out.rows {
            let (tile, index) = (row / (side * side), row % (side * side));
            let (y, x) = (index / side, index % side);
            let token = tile * blocks * blocks + y / scale * blocks + x / scale;
            let part = y % scale * scale + x % scale;
            out.row_mut(row).copy_from_slice(&dy.row(token)[part * width..][..width]);
        }
        out
    }

    fn gather_outputs_backward(&self, plan: &Plan, dy: &Matrix, rows: usize) -> Matrix {
        let mut out = Matrix::zeros(rows, dy.cols);
        for (i, row) in plan.tokens.outputs.iter().enumerate() {
            out.row_mut(*row as usize).iter_mut().zip(dy.row(i)).for_each(|(to, dy)| *to += dy);
        }
        out
    }

    fn add(&self, mut to: Matrix, x: &Matrix) -> Matrix {
        to.data.iter_mut().zip(&x.data).for_each(|(to, x)| *to += x);
        to
    }

    fn copy_rows(&self, x: &Matrix, rows: Range<usize>) -> Matrix {
        Matrix { rows: rows.len(), cols: x.cols, data: x.data[rows.start * x.cols..rows.end * x.cols].to_vec() }
    }

    fn stack(&self, parts: &[Matrix]) -> Matrix {
        let data: Vec<f32> = parts.iter().flat_map(|part| part.data.iter().copied()).collect();
        Matrix { rows: parts.iter().map(|part| part.rows).sum(), cols: parts.first().map_or(0, |part| part.cols), data }
    }

    fn cross_entropy(&self, mut logits: Matrix, targets: &[u32], weights: &[f32]) -> (f64, Matrix) {
        let loss = self.cross_entropy_loss(&logits, targets, weights);
        for (row, (target, weight)) in targets.iter().zip(weights).enumerate() {
            let logits = logits.row_mut(row);
            if *weight == 0.0 {
                logits.fill(0.0);
                continue;
            }
            let (total, weight) = (log_sum_exp(logits), f64::from(*weight));
            for (i, logit) in logits.iter_mut().enumerate() {
                let onehot = if i == *target as usize { 1.0 } else { 0.0 };
                *logit = (weight * ((f64::from(*logit) - total).exp() - onehot)) as f32;
            }
        }
        (loss, logits)
    }

    fn cross_entropy_loss(&self, logits: &Matrix, targets: &[u32], weights: &[f32]) -> f64 {
        assert!(targets.len() == logits.rows && weights.len() == logits.rows, "a target and a weight for each row");
        let counted = targets.iter().zip(weights).enumerate().filter(|(_, (_, weight))| **weight != 0.0);
        let row = |(row, (target, weight)): (usize, (&u32, &f32))| {
            let logits = logits.row(row);
            f64::from(*weight) * (log_sum_exp(logits) - f64::from(logits[*target as usize]))
        };
        counted.map(row).sum()
    }

    fn norm_of_all(&self, parts: &[&Vec<f32>]) -> f64 {
        parts.iter().flat_map(|part| part.iter()).map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    }

    fn multiply(&self, to: &mut Vec<f32>, by: &Vec<f32>) {
        to.iter_mut().zip(by).for_each(|(to, by)| *to *= by);
    }

    fn adamw(&self, parts: &mut [AdamWPart<'_, Self>]) {
        for AdamWPart { step, master, gradient, first, second } in parts {
            let AdamW { rate, beta1, beta2, eps, decay, gradient_scale, step } = *step;
            let (bias1, bias2) = (1.0 - beta1.powf(step as f64), (1.0 - beta2.powf(step as f64)).sqrt());
            for (((p, g), m), v) in master.iter_mut().zip(*gradient).zip(first.iter_mut()).zip(second.iter_mut()) {
                let g = f64::from(*g) * gradient_scale;
                *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
                *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
                let decayed = f64::from(*p) * (1.0 - rate * decay);
                *p = (decayed - rate / bias1 * f64::from(*m) / (f64::from(*v).sqrt() / bias2 + eps)) as f32;
            }
        }
    }
}
