//! What learning needs, on the GPU. Kernels for it are compiled when they are first asked for.
//!
//! Gradients of activations are stored as the activations are, those of features, which rows are added to in any order, in f32.

mod attention;
mod linear;
mod loss;
mod norm;
mod numbers;
mod rescale;
mod rows;

use std::ops::Range;

pub use numbers::Floats;

use super::launch::{Argument, Module, Shape};
use super::memory::Buffer;
use super::plan::Plan;
use super::tensor::{Table, Tensor, Vector, Weight};
use super::{CudaBackend, linear as forward};
use crate::backend::{Activation, LinearArgs, Norm, TokenBatch};
use crate::packed::Arrangement;
use crate::training::{
    AdamWPart, AttentionBackward, Dropout, HeadCounts, LinearBackward, LowRank, NormGradients, PatchGradients, Rescale,
    Rope, TrainBackend,
};
use crate::view::Format;

/// Rows of patches that fill the machine.
const ROWS_AT_A_TIME: usize = 1 << 16;

/// What an operation keeps.
#[derive(Default)]
pub struct Saved {
    /// The numbers before an activation, as their product writes them: of a gated layer, gates and ups alternate.
    before: Option<Tensor>,
    /// Queries and keys turned to their positions, with the values.
    turned: Option<Tensor>,
    /// Logarithms of an attention's sums.
    sums: Option<Tensor>,
}

/// A gated layer's weight with all gates before all ups, as its gradients stand; nothing for others.
#[derive(Default)]
pub struct Apart(Option<Buffer>);

impl CudaBackend {
    /// Starts a kernel of `training_rows.cu` with a thread for each of `count`.
    ///
    /// # Safety
    /// As for [`Device::launch`](super::device::Device::launch).
    unsafe fn each(&self, what: &str, kernel: &str, count: usize, arguments: &[Argument]) {
        // Safety: the caller's word.
        unsafe { self.start(what, Module::TrainingRows, kernel, Shape::each(count as u64), arguments) };
    }

    /// Starts a kernel of a module for training.
    ///
    /// # Safety
    /// As for [`Device::launch`](super::device::Device::launch).
    unsafe fn start(&self, what: &str, module: Module, kernel: &str, shape: Shape, arguments: &[Argument]) {
        let kernel = self.training_kernel(module, kernel);
        // Safety: the caller's word.
        unsafe { self.device.launch(what, kernel, shape, arguments) };
    }
}

impl TrainBackend for CudaBackend {
    type Floats = Floats;
    type Saved = Saved;
    type Transposed = Apart;

    fn training_tiles(&self, patches: usize) -> usize {
        (ROWS_AT_A_TIME / patches.max(1)).max(1)
    }

    fn floats(&self, values: &[f32]) -> Floats {
        Floats::of(self, values)
    }

    fn zeros(&self, len: usize) -> Floats {
        Floats::zeros(self, len)
    }

    fn clear(&self, parts: &mut [&mut Floats]) {
        numbers::clear(self, parts);
    }

    fn width(&self, x: &Tensor) -> usize {
        x.width
    }

    fn read(&self, floats: &Floats) -> Vec<f32> {
        floats.read(self)
    }

    fn repack(&self, weight: &mut Weight, apart: Option<&mut Apart>, arrangement: Arrangement, master: &Floats) {
        numbers::repack(self, weight, apart.as_deref(), arrangement, master);
    }

    fn repack_table(&self, table: &mut Table, master: &Floats) {
        numbers::repack(self, table, None, Arrangement::Table, master);
    }

    fn repack_vector(&self, vector: &mut Vector, master: &Floats) {
        numbers::repack_vector(self, vector, master);
    }

    fn repack_tensor(&self, tensor: &mut Tensor, master: &Floats) {
        numbers::repack_tensor(self, tensor, master);
    }

    fn transposed(&self, weight: &Weight, arrangement: Arrangement) -> Apart {
        numbers::apart(self, weight, arrangement)
    }

    fn fill_sequences(&self, plan: &mut Plan, batch: &TokenBatch) {
        self.device.bind();
        plan.fill_sequences(batch);
    }

    fn linear_keeping(&self, args: LinearArgs<'_, Self>) -> (Tensor, Saved) {
        linear::keeping(self, args)
    }

    fn linear_adapted(&self, args: LinearArgs<'_, Self>, addend: &Tensor) -> (Tensor, Saved) {
        linear::adapted(self, args, addend)
    }

    fn activation_backward(&self, activation: Activation, saved: &Saved, dy: &Tensor) -> Option<Tensor> {
        let before = saved.before.as_ref().filter(|_| activation != Activation::Identity);
        before.map(|before| linear::slopes(self, before, activation, dy))
    }

    fn row_norms(&self, weight: &Weight, arrangement: Arrangement, low: LowRank<'_, Self>) -> Floats {
        rescale::row_norms(self, weight, arrangement, low)
    }

    fn linear_rescaled(
        &self,
        args: LinearArgs<'_, Self>,
        addend: &Tensor,
        rescale: Rescale<'_, Self>,
    ) -> (Tensor, Saved, Tensor) {
        rescale::linear(self, args, addend, rescale)
    }

    fn rescale_backward(
        &self,
        product: &Tensor,
        dy: &Tensor,
        rescale: Rescale<'_, Self>,
        lengths: &mut Floats,
    ) -> Tensor {
        rescale::backward(self, product, dy, rescale, lengths)
    }

    fn dropout(&self, x: Tensor, dropout: Dropout) -> Tensor {
        rows::dropout(self, &x, dropout);
        x
    }

    fn linear_backward(&self, args: LinearBackward<'_, Self>) -> Option<Tensor> {
        linear::backward(self, args)
    }

    fn norm_backward(
        &self,
        x: &Tensor,
        norm: &Norm<'_, Self>,
        dy: &Tensor,
        onto: Option<Tensor>,
        gradients: NormGradients<'_, Self>,
    ) -> Tensor {
        norm::backward(self, x, norm, dy, onto, gradients)
    }

    fn tile_attention_keeping(&self, qkv: &Tensor, tile_rows: usize, heads: usize) -> (Tensor, Saved) {
        attention::tiles_keeping(self, qkv, tile_rows, heads)
    }

    fn tile_attention_backward(&self, args: AttentionBackward<'_, Self>, tile_rows: usize, heads: usize) -> Tensor {
        attention::tiles_backward(self, &args, tile_rows, heads)
    }

    fn causal_attention(
        &self,
        plan: &Plan,
        qkv: &Tensor,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
        format: Format,
    ) -> (Tensor, Saved) {
        attention::causal(self, plan, qkv, heads, rope, format)
    }

    fn causal_attention_backward(
        &self,
        plan: &Plan,
        args: AttentionBackward<'_, Self>,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
    ) -> Tensor {
        attention::causal_backward(self, plan, &args, heads, rope)
    }

    fn embed_backward(&self, plan: &Plan, dy: &Tensor, gradient: &mut Floats) {
        rows::embed_backward(self, plan, dy, gradient);
    }

    fn scatter_features_backward(&self, plan: &Plan, dy: Tensor, source_rows: &[usize]) -> (Tensor, Vec<Tensor>) {
        rows::scatter_backward(self, plan, dy, source_rows)
    }

    fn patch_embed_backward(
        &self,
        plan: &Plan,
        weight: &Weight,
        patch: usize,
        dy: &Tensor,
        gradients: PatchGradients<'_, Self>,
    ) {
        if let Some(gradient) = gradients.weight {
            let patches = forward::unfold(self, plan, patch, weight);
            let narrow = forward::convert(self, dy, weight.element);
            self.matmul.add_weight_gradient(narrow.as_ref().unwrap_or(dy), &patches, gradient.pointer());
        }
        if let Some(gradient) = gradients.bias {
            rows::add_column_sums(self, dy, gradient, dy.width);
        }
        if let Some(gradient) = gradients.positions {
            let width = gradient.len();
            rows::add_column_sums(self, dy, gradient, width);
        }
    }

    fn pixel_shuffle_backward(&self, dy: &Tensor, side: usize, scale: usize) -> Tensor {
        rows::pixel_shuffle_backward(self, dy, side, scale)
    }

    fn gather_outputs_backward(&self, plan: &Plan, dy: &Tensor, rows: usize) -> Tensor {
        rows::gather_backward(self, plan, dy, rows)
    }

    fn add(&self, to: Tensor, x: &Tensor) -> Tensor {
        rows::accumulate(self, &to, x);
        to
    }

    fn copy_rows(&self, x: &Tensor, rows: Range<usize>) -> Tensor {
        rows::copy(self, x, rows)
    }

    fn stack(&self, parts: &[Tensor]) -> Tensor {
        rows::stack(self, parts)
    }

    fn cross_entropy(&self, logits: Tensor, targets: &[u32], weights: &[f32]) -> (f64, Tensor) {
        let loss = loss::cross_entropy(self, &logits, targets, weights, true);
        (loss, logits)
    }

    fn cross_entropy_loss(&self, logits: &Tensor, targets: &[u32], weights: &[f32]) -> f64 {
        loss::cross_entropy(self, logits, targets, weights, false)
    }

    fn norm_of_all(&self, parts: &[&Floats]) -> f64 {
        numbers::norm_of_all(self, parts)
    }

    fn multiply(&self, to: &mut Floats, by: &Floats) {
        numbers::multiply(self, to, by);
    }

    fn adamw(&self, parts: &mut [AdamWPart<'_, Self>]) {
        numbers::adamw(self, parts);
    }
}
