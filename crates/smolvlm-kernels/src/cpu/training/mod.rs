//! What learning needs, on the processor: every sum in an order that depends on shapes only.

mod attention;
mod linear;
mod loss;
mod norm;
mod numbers;
mod optimizer;
mod rescale;
mod rows;

use std::ops::Range;

pub use numbers::Floats;

use super::table::Table;
use super::tensor::Tensor;
use super::weight::Weight;
use super::{Cache, CpuBackend, Plan, patch};
use crate::backend::{Activation, Backend, CacheShape, LinearArgs, Norm, PAGE_TOKENS, Segment, TokenBatch};
use crate::packed::Arrangement;
use crate::training::{
    AdamWPart, AttentionBackward, Dropout, HeadCounts, LinearBackward, LowRank, NormGradients, PatchGradients, Rescale,
    Rope, TrainBackend,
};
use crate::view::Format;

/// Rows whose sums of columns one task adds up, before those of all tasks are added in order.
const BAND: usize = 64;

/// What an operation keeps: the numbers before an activation, as their product writes them.
#[derive(Default)]
pub struct Saved {
    before: Option<Tensor>,
}

impl TrainBackend for CpuBackend {
    type Floats = Floats;
    type Saved = Saved;
    /// The transposed matrix, packed.
    type Transposed = Weight;

    fn floats(&self, values: &[f32]) -> Floats {
        Floats::from(values)
    }

    fn zeros(&self, len: usize) -> Floats {
        Floats::zeros(len)
    }

    fn clear(&self, parts: &mut [&mut Floats]) {
        parts.iter_mut().for_each(|floats| floats.fill(0.0));
    }

    fn width(&self, x: &Tensor) -> usize {
        x.width()
    }

    fn read(&self, floats: &Floats) -> Vec<f32> {
        floats.to_vec()
    }

    fn repack(&self, weight: &mut Weight, transposed: Option<&mut Weight>, arrangement: Arrangement, master: &Floats) {
        weight.refill(&self.threads, arrangement, master);
        if let Some(transposed) = transposed {
            transposed.refill_columns(&self.threads, master);
        }
    }

    fn repack_table(&self, table: &mut Table, master: &Floats) {
        table.refill(master);
    }

    fn repack_vector(&self, vector: &mut Vec<f32>, master: &Floats) {
        vector.copy_from_slice(master);
    }

    fn repack_tensor(&self, tensor: &mut Tensor, master: &Floats) {
        for (row, master) in master.chunks(tensor.width().max(1)).enumerate() {
            tensor.row_mut(row).copy_from_slice(master);
        }
    }

    fn transposed(&self, weight: &Weight, arrangement: Arrangement) -> Weight {
        linear::transposed(self, weight, arrangement)
    }

    fn fill_sequences(&self, plan: &mut Plan, batch: &TokenBatch) {
        plan.tokens.copy_from(batch);
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
        rescale::row_norms(self, weight, arrangement, &low)
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
        rows::dropout(self, x, dropout)
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
        (self.tile_attention(qkv, tile_rows, heads), Saved::default())
    }

    fn tile_attention_backward(&self, args: AttentionBackward<'_, Self>, tile_rows: usize, heads: usize) -> Tensor {
        attention::tiles(self, &args, tile_rows, heads)
    }

    fn causal_attention(
        &self,
        plan: &Plan,
        qkv: &Tensor,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
        format: Format,
    ) -> (Tensor, Saved) {
        let batch = on_pages_of_its_own(&plan.tokens);
        let head_dim = qkv.width() / (heads.queries + 2 * heads.keys);
        let shape = CacheShape { layers: 1, kv_heads: heads.keys, head_dim, pages: batch.pages.len(), format };
        let mut cache = Cache::new(shape);
        let angles = (rope.cos.as_slice(), rope.sin.as_slice());
        cache.append(self, &batch, qkv, 0, angles);
        (super::attention::paged(self, &batch, qkv, &cache, 0, angles), Saved::default())
    }

    fn causal_attention_backward(
        &self,
        plan: &Plan,
        args: AttentionBackward<'_, Self>,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
    ) -> Tensor {
        attention::causal(self, &plan.tokens.segments, &args, heads, rope)
    }

    fn embed_backward(&self, plan: &Plan, dy: &Tensor, gradient: &mut Floats) {
        rows::embed_backward(self, &plan.tokens.ids, dy, gradient);
    }

    fn scatter_features_backward(&self, plan: &Plan, dy: Tensor, source_rows: &[usize]) -> (Tensor, Vec<Tensor>) {
        rows::scatter_backward(self, &plan.tokens.features, dy, source_rows)
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
            let patches = patch::unfold(self, &plan.tiles, patch);
            linear::add_weight_gradient(self, dy, &patches, weight.format(), gradient);
        }
        if let Some(gradient) = gradients.bias {
            linear::add_column_sums(self, dy, gradient);
        }
        if let Some(gradient) = gradients.positions {
            rows::add_over_tiles(self, dy, gradient);
        }
    }

    fn pixel_shuffle_backward(&self, dy: &Tensor, side: usize, scale: usize) -> Tensor {
        rows::pixel_shuffle_backward(self, dy, side, scale)
    }

    fn gather_outputs_backward(&self, plan: &Plan, dy: &Tensor, rows: usize) -> Tensor {
        rows::gather_backward(self, &plan.tokens.outputs, dy, rows)
    }

    fn add(&self, to: Tensor, x: &Tensor) -> Tensor {
        rows::add(self, to, x)
    }

    fn copy_rows(&self, x: &Tensor, rows: Range<usize>) -> Tensor {
        rows::copy(self, x, rows)
    }

    fn stack(&self, parts: &[Tensor]) -> Tensor {
        rows::stack(self, parts)
    }

    fn cross_entropy(&self, logits: Tensor, targets: &[u32], weights: &[f32]) -> (f64, Tensor) {
        loss::cross_entropy(self, logits, targets, weights)
    }

    fn cross_entropy_loss(&self, logits: &Tensor, targets: &[u32], weights: &[f32]) -> f64 {
        loss::loss(self, logits, targets, weights)
    }

    fn norm_of_all(&self, parts: &[&Floats]) -> f64 {
        optimizer::norm_of_all(self, parts)
    }

    fn multiply(&self, to: &mut Floats, by: &Floats) {
        to.iter_mut().zip(by.iter()).for_each(|(to, by)| *to *= by);
    }

    fn adamw(&self, parts: &mut [AdamWPart<'_, Self>]) {
        parts.iter_mut().for_each(|part| optimizer::adamw(self, part));
    }
}

/// The same sequences, their pages numbered from zero.
fn on_pages_of_its_own(batch: &TokenBatch) -> TokenBatch {
    let mut pages = 0;
    let number = |segment: &Segment| {
        assert_eq!(segment.start, 0, "whole sequences");
        let first = pages;
        pages += segment.rows.len().div_ceil(PAGE_TOKENS);
        Segment { rows: segment.rows.clone(), start: 0, pages: first..pages }
    };
    let segments = batch.segments.iter().map(number).collect();
    TokenBatch { segments, pages: (0..pages as u32).collect(), ..TokenBatch::default() }
}
