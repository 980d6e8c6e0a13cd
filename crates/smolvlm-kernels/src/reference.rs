//! The scalar truth for every operation: plain loops, sums in f64, nothing shared with the fast backends.

mod training;

use std::ops::Range;

use half::bf16;

use crate::backend::{
    Activation, Appetite, Backend, BackendError, CacheShape, Ceilings, LinearArgs, Norm, PAGE_TOKENS, PatchArgs,
    RopeTable, TileBatch, TokenBatch,
};
use crate::choose::largest;
use crate::packed::{PackedMatrix, unpack};
use crate::quantise::{GROUP, Q4Group, q4, q8};
use crate::view::{Format, MatrixView};

/// Computes everything slowly and plainly.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceBackend;

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }
}

/// A matrix with the format that its numbers, and the activations it meets, are rounded to.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// Of a quantised format: whole numbers.
    matrix: Matrix,
    /// Of a quantised format: what each row's whole numbers are multiples of.
    steps: Vec<f32>,
    format: Format,
}

/// Keys and values by layer, page and token: `[kv_heads × d]` each.
#[derive(Debug, Clone)]
pub struct Cache {
    shape: CacheShape,
    keys: Vec<Vec<Vec<f32>>>,
    values: Vec<Vec<Vec<f32>>>,
}

/// A step's inputs, as they were given.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    tokens: TokenBatch,
    size: usize,
    tiles: Vec<Vec<u8>>,
    pixel_values: Vec<[f32; 256]>,
}

fn round(value: f32, format: Format) -> f32 {
    match format {
        Format::F32 => value,
        Format::Bf16 => bf16::from_f32(value).to_f32(),
        Format::Q8 | Format::Q4 => unreachable!("integers have a step of their own"),
    }
}

/// Replaces a row of weights by whole numbers and returns their step.
fn quantise_weights(row: &mut [f32], format: Format) -> f32 {
    if format == Format::Q8 {
        let mut integers = vec![0; row.len()];
        let step = q8(row, &mut integers);
        row.iter_mut().zip(integers).for_each(|(value, integer)| *value = f32::from(integer));
        return step;
    }
    let mut groups = vec![Q4Group::default(); row.len().div_ceil(GROUP)];
    let step = q4(row, &mut groups);
    for (i, value) in row.iter_mut().enumerate() {
        let group = &groups[i / GROUP];
        *value = f32::from(group.factor) * f32::from(group.integers[i % GROUP]);
    }
    step
}

/// Replaces a row of activations by whole numbers from −127 to 127 and returns their step.
fn quantise_activations(row: &mut [f32]) -> f32 {
    let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 {
        let inverse = 127.0 / largest;
        row.iter_mut().for_each(|value| *value = (*value * inverse).round_ties_even());
    }
    largest / 127.0
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn stack(parts: &[MatrixView<'_>], format: Format) -> Rounded {
    let cols = parts[0].cols();
    let mut matrix = Matrix::zeros(parts.iter().map(MatrixView::rows).sum(), cols);
    let sources = parts.iter().flat_map(|part| (0..part.rows()).map(move |row| (part, row)));
    for (target, (part, row)) in sources.enumerate() {
        part.row(row, matrix.row_mut(target));
    }
    let mut steps = Vec::new();
    if format.is_quantised() {
        steps = matrix.data.chunks_mut(cols).map(|row| quantise_weights(row, format)).collect();
    } else {
        matrix.data.iter_mut().for_each(|value| *value = round(*value, format));
    }
    Rounded { matrix, steps, format }
}

fn unpacked(packed: &PackedMatrix) -> Rounded {
    let (shape, unpacked) = (packed.shape(), unpack(packed));
    let matrix = Matrix { rows: shape.rows, cols: shape.inputs, data: unpacked.numbers };
    Rounded { matrix, steps: unpacked.steps, format: shape.format }
}

/// A table's rows, multiplied by their steps.
fn scaled(mut table: Rounded) -> Rounded {
    for (row, step) in table.matrix.data.chunks_mut(table.matrix.cols).zip(&table.steps) {
        row.iter_mut().for_each(|value| *value *= step);
    }
    table
}

fn product(x: &Matrix, weight: &Rounded) -> Matrix {
    let mut out = Matrix::zeros(x.rows, weight.matrix.rows);
    for row in 0..x.rows {
        let mut input = x.row(row).to_vec();
        let step = if weight.format.is_quantised() {
            quantise_activations(&mut input)
        } else {
            input.iter_mut().for_each(|value| *value = round(*value, weight.format));
            1.0
        };
        for column in 0..weight.matrix.rows {
            let scale = f64::from(step) * f64::from(weight.steps.get(column).copied().unwrap_or(1.0));
            out.row_mut(row)[column] = (dot(&input, weight.matrix.row(column)) * scale) as f32;
        }
    }
    out
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

fn activate(x: Matrix, activation: Activation) -> Matrix {
    match activation {
        Activation::Identity => x,
        Activation::GeluTanh => {
            Matrix { data: x.data.iter().map(|value| gelu_tanh(f64::from(*value)) as f32).collect(), ..x }
        }
        Activation::SwiGlu => {
            let mut out = Matrix::zeros(x.rows, x.cols / 2);
            for row in 0..x.rows {
                let (gate, up) = x.row(row).split_at(x.cols / 2);
                for (out, (gate, up)) in out.row_mut(row).iter_mut().zip(gate.iter().zip(up)) {
                    let gate = f64::from(*gate);
                    *out = (gate / (1.0 + (-gate).exp()) * f64::from(*up)) as f32;
                }
            }
            out
        }
    }
}

/// Softmax of `scores`, and with it the weighted sum of `values(j)`.
fn attend<'a>(scores: &[f64], dim: usize, values: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut sums = vec![0.0; dim];
    for (j, weight) in weights.iter().enumerate() {
        for (sum, value) in sums.iter_mut().zip(values(j)) {
            *sum += weight / total * f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The patches of the plan's tiles as rows.
fn patches(plan: &Plan, patch: usize) -> Matrix {
    let size = plan.size;
    let side = size / patch;
    let mut patches = Matrix::zeros(plan.tiles.len() * side * side, 3 * patch * patch);
    for (tile, pixels) in plan.tiles.iter().enumerate() {
        for index in 0..side * side {
            let row = patches.row_mut(tile * side * side + index);
            for (i, value) in row.iter_mut().enumerate() {
                let (channel, y, x) = (i / (patch * patch), i / patch % patch, i % patch);
                let (y, x) = (index / side * patch + y, index % side * patch + x);
                *value = plan.pixel_values[channel][usize::from(pixels[(y * size + x) * 3 + channel])];
            }
        }
    }
    patches
}

impl Backend for ReferenceBackend {
    type Tensor = Matrix;
    type Weight = Rounded;
    type Table = Rounded;
    type Vector = Vec<f32>;
    type Cache = Cache;
    type Plan = Plan;
    type Decoder = ();

    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Rounded {
        stack(parts, format)
    }

    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Rounded {
        stack(&[gate, up], format)
    }

    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Rounded {
        scaled(stack(&[matrix], if format == Format::Q4 { Format::Q8 } else { format }))
    }

    fn packed(&self, matrix: PackedMatrix) -> Rounded {
        unpacked(&matrix)
    }

    fn packed_table(&self, table: PackedMatrix) -> Rounded {
        scaled(unpacked(&table))
    }

    fn vector(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Matrix {
        assert_eq!(values.len(), rows * width);
        Matrix { rows, cols: width, data: values.to_vec() }
    }

    fn appetite(&self) -> Appetite {
        Appetite { tiles: 1, first_tiles: 1, tokens: 1 }
    }

    fn measure_ceilings(&self, _format: Format) -> Ceilings {
        // It is never timed: nothing to fall short of.
        Ceilings { matrices: 0.0, attention: 0.0, memory: 0.0 }
    }

    fn rows(&self, x: &Matrix) -> usize {
        x.rows
    }

    fn download_rows(&self, x: &Matrix, rows: Range<usize>, values: &mut Vec<f32>) {
        values.clear();
        values.extend_from_slice(&x.data[rows.start * x.cols..rows.end * x.cols]);
    }

    fn largest_into(&self, x: &Matrix, choices: &mut Vec<u32>) {
        choices.clear();
        choices.extend(x.data.chunks(x.cols.max(1)).map(largest));
    }

    fn cache(&self, shape: CacheShape) -> Cache {
        let page = vec![0.0; PAGE_TOKENS * shape.kv_heads * shape.head_dim];
        let layers = vec![vec![page; shape.pages]; shape.layers];
        Cache { shape, keys: layers.clone(), values: layers }
    }

    fn release_pages(&self, cache: &mut Cache, pages: &[u32]) {
        for layer in cache.keys.iter_mut().chain(&mut cache.values) {
            for page in pages {
                layer[*page as usize].fill(0.0);
            }
        }
    }

    fn plan(&self) -> Plan {
        Plan::default()
    }

    fn fill_tokens(&self, plan: &mut Plan, _cache: &mut Cache, batch: &TokenBatch) {
        plan.tokens = batch.clone();
    }

    fn fill_tiles(&self, plan: &mut Plan, batch: TileBatch<'_>) {
        plan.size = batch.size;
        plan.tiles = batch.tiles.iter().map(|tile| tile.to_vec()).collect();
        plan.pixel_values = batch.pixel_values.to_vec();
    }

    fn step(&self, _plan: &Plan, body: impl FnOnce() -> Matrix + Send) -> Result<Matrix, BackendError> {
        Ok(body())
    }

    fn embed(&self, plan: &Plan, table: &Rounded) -> Matrix {
        let mut out = Matrix::zeros(plan.tokens.ids.len(), table.matrix.cols);
        for (row, id) in plan.tokens.ids.iter().enumerate() {
            out.row_mut(row).copy_from_slice(table.matrix.row(*id as usize));
        }
        out
    }

    fn scatter_features(&self, plan: &Plan, mut x: Matrix, sources: &[&Matrix]) -> Matrix {
        for feature in &plan.tokens.features {
            let source = sources[feature.source as usize].row(feature.index as usize);
            x.row_mut(feature.row as usize).copy_from_slice(source);
        }
        x
    }

    fn patch_embed(&self, plan: &Plan, args: PatchArgs<'_, Self>) -> Matrix {
        let patches = patches(plan, args.patch);
        let positions = args.positions.rows;
        let mut out = product(&patches, args.weight);
        for row in 0..out.rows {
            let position = args.positions.row(row % positions);
            for (i, value) in out.row_mut(row).iter_mut().enumerate() {
                *value += args.bias[i] + position[i];
            }
        }
        out
    }

    fn linear(&self, args: LinearArgs<'_, Self>) -> Matrix {
        let normed = args.norm.map(|norm| self.norm(args.x, norm));
        let mut out = product(normed.as_ref().unwrap_or(args.x), args.weight);
        if let Some(bias) = args.bias {
            for row in 0..out.rows {
                out.row_mut(row).iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let mut out = activate(out, args.activation);
        if let Some(residual) = args.residual {
            out.data.iter_mut().zip(&residual.data).for_each(|(value, residual)| *value += residual);
        }
        out
    }

    fn norm(&self, x: &Matrix, norm: Norm<'_, Self>) -> Matrix {
        let mut out = x.clone();
        for row in 0..x.rows {
            let row = out.row_mut(row);
            let n = row.len() as f64;
            let (mean, weight, bias, eps) = match &norm {
                Norm::Rms { weight, eps } => (0.0, *weight, None, *eps),
                Norm::Layer { weight, bias, eps } => {
                    (row.iter().map(|x| f64::from(*x)).sum::<f64>() / n, *weight, Some(*bias), *eps)
                }
            };
            let square = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (square + f64::from(eps)).sqrt();
            for (i, value) in row.iter_mut().enumerate() {
                let shift = bias.map_or(0.0, |bias| f64::from(bias[i]));
                *value = ((f64::from(*value) - mean) * scale * f64::from(weight[i]) + shift) as f32;
            }
        }
        out
    }

    fn tile_attention(&self, qkv: &Matrix, tile_rows: usize, heads: usize) -> Matrix {
        let dim = qkv.cols / (3 * heads);
        let mut out = Matrix::zeros(qkv.rows, heads * dim);
        for row in 0..qkv.rows {
            let first = row / tile_rows * tile_rows;
            for head in 0..heads {
                let part = |row: usize, which: usize| &qkv.row(row)[(which * heads + head) * dim..][..dim];
                let scores: Vec<f64> = (first..first + tile_rows)
                    .map(|key| dot(part(row, 0), part(key, 1)) / (dim as f64).sqrt())
                    .collect();
                let sums = attend(&scores, dim, |j| part(first + j, 2));
                out.row_mut(row)[head * dim..][..dim].copy_from_slice(&sums);
            }
        }
        out
    }

    fn cached_attention(
        &self,
        plan: &Plan,
        mut qkv: Matrix,
        cache: &mut Cache,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Matrix {
        let CacheShape { kv_heads, head_dim: dim, format, .. } = cache.shape;
        let heads = qkv.cols / dim - 2 * kv_heads;
        let width = kv_heads * dim;
        let mut out = Matrix::zeros(qkv.rows, heads * dim);
        for segment in &plan.tokens.segments {
            let pages = plan.tokens.pages_of(segment);
            let place = |position: usize| (pages[position / PAGE_TOKENS] as usize, position % PAGE_TOKENS * width);
            for (position, row) in (segment.start..).zip(segment.rows.clone()) {
                let row = qkv.row_mut(row);
                for head in row[..(heads + kv_heads) * dim].chunks_mut(dim) {
                    for i in 0..dim / 2 {
                        let (cos, sin) = (rope.cos[position * dim / 2 + i], rope.sin[position * dim / 2 + i]);
                        let (a, b) = (head[i], head[i + dim / 2]);
                        head[i] = a * cos - b * sin;
                        head[i + dim / 2] = b * cos + a * sin;
                    }
                }
                let (page, at) = place(position);
                for i in 0..width {
                    cache.keys[layer][page][at + i] = round(row[heads * dim + i], format);
                    cache.values[layer][page][at + i] = round(row[(heads + kv_heads) * dim + i], format);
                }
            }
            for (position, row) in (segment.start..).zip(segment.rows.clone()) {
                for head in 0..heads {
                    let query = &qkv.row(row)[head * dim..][..dim];
                    let offset = head / (heads / kv_heads) * dim;
                    let stored = |store: &'_ [Vec<f32>], j: usize| {
                        let (page, at) = place(j);
                        store[page][at + offset..][..dim].to_vec()
                    };
                    let scores: Vec<f64> = (0..=position)
                        .map(|j| dot(query, &stored(&cache.keys[layer], j)) / (dim as f64).sqrt())
                        .collect();
                    let values: Vec<Vec<f32>> = (0..=position).map(|j| stored(&cache.values[layer], j)).collect();
                    let sums = attend(&scores, dim, |j| &values[j]);
                    out.row_mut(row)[head * dim..][..dim].copy_from_slice(&sums);
                }
            }
        }
        out
    }

    fn pixel_shuffle(&self, x: &Matrix, side: usize, scale: usize) -> Matrix {
        let blocks = side / scale;
        let mut out = Matrix::zeros(x.rows / (scale * scale), x.cols * scale * scale);
        for row in 0..x.rows {
            let (tile, index) = (row / (side * side), row % (side * side));
            let (y, column) = (index / side, index % side);
            let token = tile * blocks * blocks + y / scale * blocks + column / scale;
            let part = y % scale * scale + column % scale;
            out.row_mut(token)[part * x.cols..][..x.cols].copy_from_slice(x.row(row));
        }
        out
    }

    fn gather_outputs(&self, plan: &Plan, x: &Matrix) -> Matrix {
        let mut out = Matrix::zeros(plan.tokens.outputs.len(), x.cols);
        for (i, row) in plan.tokens.outputs.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(*row as usize));
        }
        out
    }
}
