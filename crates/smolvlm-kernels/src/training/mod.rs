//! What training asks of a backend beside inference: each operation's backward, the loss, the optimizer.
//!
//! Nothing here is needed to answer: inference uses [`Backend`] alone and pays nothing for what follows.
//!
//! # What is kept, what is computed again
//! A forward operation that has to remember something hands it back beside its result ([`TrainBackend::Saved`]): the
//! numbers before an activation, sums of a softmax. Inputs and results need not be in it, since whoever asks for the
//! backward hands them in again. What costs one pass over rows (statistics of a norm, the normalised rows) may be kept or
//! computed again, as the backend likes.
//!
//! # Gradients
//! Those of activations are tensors, one number for each number of the activation; f32, but on a GPU those that go straight on into
//! a product in bf16 are rounded as that product rounds its operands. Those of parameters are
//! [`TrainBackend::Floats`] to which every backward *adds*, so that several steps' gradients add up. A gradient that
//! nobody asks for is not computed.
//!
//! # Rounding
//! A product's backward is two products, `dX = dY · W` and `dW = dYᵀ · X`. Their operands are rounded as the forward
//! product rounds its own: not at all in f32, to bfloat16 in bf16; sums are f32 and are added to f32. Quantised weights are
//! frozen; their `dX` takes them as the numbers they stand for, in bfloat16, as if activations had not been rounded.
//! Everything else is f32.
//!
//! # Order of sums
//! On the processor it depends on shapes only, never on threads: a training run that is resumed ends bit-equal. A GPU may
//! add in any order.

mod arguments;

use std::ops::Range;

pub use arguments::{
    AdamW, AdamWPart, AttentionBackward, Dropout, HeadCounts, LinearBackward, LinearGradients, LowRank, NormGradients,
    PatchGradients, Rescale, Rope,
};

use crate::backend::{Activation, Backend, LinearArgs, Norm, TokenBatch};
use crate::packed::Arrangement;
use crate::view::Format;

/// A backend that can also train.
///
/// Shapes are those of the forward operations in [`Backend`]; `dy` is the gradient of an operation's result.
pub trait TrainBackend: Backend {
    /// f32 numbers that stay from step to step: master weights, gradients, moments of the optimizer. A matrix is
    /// row-major, in the order of its checkpoint tensors: rows of several tensors one after another, gate before up.
    type Floats: Send + Sync;
    /// What one forward operation keeps for its backward.
    type Saved: Send + Sync;
    /// What `dX = dY · W` needs beside the weight; nothing where products read a matrix either way.
    type Transposed: Send + Sync;

    /// How many tiles of so many patches it likes to learn from at a time.
    fn training_tiles(&self, _patches: usize) -> usize {
        self.appetite().tiles.max(1)
    }

    /// Stores numbers.
    fn floats(&self, values: &[f32]) -> Self::Floats;
    /// `len` zeros.
    fn zeros(&self, len: usize) -> Self::Floats;
    /// Sets all numbers of all parts to zero.
    fn clear(&self, parts: &mut [&mut Self::Floats]);
    /// Numbers in a row of activations.
    fn width(&self, x: &Self::Tensor) -> usize;
    /// Copies numbers to the host.
    fn read(&self, floats: &Self::Floats) -> Vec<f32>;

    /// Packs a weight again from its master `[outputs, inputs]`, and what its backward needs of it.
    fn repack(
        &self,
        weight: &mut Self::Weight,
        transposed: Option<&mut Self::Transposed>,
        arrangement: Arrangement,
        master: &Self::Floats,
    );
    /// Stores a table again from its master.
    fn repack_table(&self, table: &mut Self::Table, master: &Self::Floats);
    /// Stores a vector again from its master.
    fn repack_vector(&self, vector: &mut Self::Vector, master: &Self::Floats);
    /// Stores activations `[rows, width]` (position embeddings) again from their master.
    fn repack_tensor(&self, tensor: &mut Self::Tensor, master: &Self::Floats);
    /// What the backward of products with a weight of any format needs of it.
    fn transposed(&self, weight: &Self::Weight, arrangement: Arrangement) -> Self::Transposed;

    /// Prepares a step over whole sequences that use no cache: every segment starts at position 0 and its pages are not
    /// looked at.
    fn fill_sequences(&self, plan: &mut Self::Plan, batch: &TokenBatch);

    /// [`Backend::linear`], keeping what its backward needs. The result is the same to the bit.
    fn linear_keeping(&self, args: LinearArgs<'_, Self>) -> (Self::Tensor, Self::Saved);
    /// [`linear_keeping`](Self::linear_keeping) with `addend` (`[rows, outputs]` f32; of a gated layer, gates before ups) added
    /// before the activation: what an adapter adds to a product.
    fn linear_adapted(&self, args: LinearArgs<'_, Self>, addend: &Self::Tensor) -> (Self::Tensor, Self::Saved);
    /// Gradient of the numbers before an activation, `[rows, outputs]`, of which `saved` was kept; nothing where there is no
    /// activation, since that is `dy`.
    fn activation_backward(
        &self,
        activation: Activation,
        saved: &Self::Saved,
        dy: &Self::Tensor,
    ) -> Option<Self::Tensor>;
    /// Euclidean norm of each row of `W + scale · B · A`, `[outputs]` (of a gated layer, gates before ups): the weight as the numbers
    /// that it stands for, sums in f64.
    fn row_norms(&self, weight: &Self::Weight, arrangement: Arrangement, low: LowRank<'_, Self>) -> Self::Floats;
    /// [`linear_adapted`](Self::linear_adapted) whose outputs, product and addend together, are rescaled before the bias is added.
    /// Also returns what was rescaled, `[rows, outputs]` f32; of a gated layer, gates before ups.
    fn linear_rescaled(
        &self,
        args: LinearArgs<'_, Self>,
        addend: &Self::Tensor,
        rescale: Rescale<'_, Self>,
    ) -> (Self::Tensor, Self::Saved, Self::Tensor);
    /// Gradient of what [`linear_rescaled`](Self::linear_rescaled) rescaled; `dy` is that of the numbers before the activation. Adds to the gradient of the lengths: `Σ dy · product / norms` over rows.
    fn rescale_backward(
        &self,
        product: &Self::Tensor,
        dy: &Self::Tensor,
        rescale: Rescale<'_, Self>,
        lengths: &mut Self::Floats,
    ) -> Self::Tensor;
    /// `x` with some numbers left out and the others scaled, all as [`Dropout`] says: its own backward.
    fn dropout(&self, x: Self::Tensor, dropout: Dropout) -> Self::Tensor;
    /// Adds to the gradients of the parameters and returns that of `x`, `[rows, inputs]`: `onto` plus what this product
    /// contributes, or nothing when `transposed` is absent. With an activation, `dy` is as wide as its result. (The
    /// residual's gradient is `dy` itself, which needs no operation.)
    fn linear_backward(&self, args: LinearBackward<'_, Self>) -> Option<Self::Tensor>;

    /// Adds to the gradients of the norm's numbers and returns that of `x`: `onto` plus what this norm contributes.
    fn norm_backward(
        &self,
        x: &Self::Tensor,
        norm: &Norm<'_, Self>,
        dy: &Self::Tensor,
        onto: Option<Self::Tensor>,
        gradients: NormGradients<'_, Self>,
    ) -> Self::Tensor;

    /// [`Backend::tile_attention`], keeping what its backward needs.
    fn tile_attention_keeping(&self, qkv: &Self::Tensor, tile_rows: usize, heads: usize)
    -> (Self::Tensor, Self::Saved);
    /// Gradient of `qkv`, `[rows, 3 × heads × d]`.
    fn tile_attention_backward(
        &self,
        args: AttentionBackward<'_, Self>,
        tile_rows: usize,
        heads: usize,
    ) -> Self::Tensor;

    /// [`Backend::cached_attention`] over the step's own keys and values: rotates queries and keys of `qkv`
    /// (`[T, (heads + 2 × kv_heads) × d]`, left as it is) to their positions and attends causally inside each segment. Keys
    /// and values are rounded to `format` as a cache would round them. Returns `[T, heads × d]`.
    fn causal_attention(
        &self,
        plan: &Self::Plan,
        qkv: &Self::Tensor,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
        format: Format,
    ) -> (Self::Tensor, Self::Saved);
    /// Gradient of `qkv` before rotation.
    fn causal_attention_backward(
        &self,
        plan: &Self::Plan,
        args: AttentionBackward<'_, Self>,
        heads: HeadCounts,
        rope: Rope<'_, Self>,
    ) -> Self::Tensor;

    /// Adds each row of `dy` (`[T, width]`) to the row of the table's gradient that the plan's id names.
    fn embed_backward(&self, plan: &Self::Plan, dy: &Self::Tensor, gradient: &mut Self::Floats);
    /// Gradients of `x` (`dy` without the plan's feature rows) and of each source, which has `source_rows[i]` rows; those
    /// that no feature row shows are zero.
    fn scatter_features_backward(
        &self,
        plan: &Self::Plan,
        dy: Self::Tensor,
        source_rows: &[usize],
    ) -> (Self::Tensor, Vec<Self::Tensor>);
    /// Adds to the gradients of a patch embedding's parameters; pixels have none. `weight` says how products round.
    fn patch_embed_backward(
        &self,
        plan: &Self::Plan,
        weight: &Self::Weight,
        patch: usize,
        dy: &Self::Tensor,
        gradients: PatchGradients<'_, Self>,
    );
    /// Gradient of `x`: every number of `dy` at its old place, `[tiles × side², width]`.
    fn pixel_shuffle_backward(&self, dy: &Self::Tensor, side: usize, scale: usize) -> Self::Tensor;
    /// Gradient of `x`, which had `rows` rows: each row of `dy` added to the row that it was copied from.
    fn gather_outputs_backward(&self, plan: &Self::Plan, dy: &Self::Tensor, rows: usize) -> Self::Tensor;

    /// `to + x`.
    fn add(&self, to: Self::Tensor, x: &Self::Tensor) -> Self::Tensor;
    /// A copy.
    fn copy(&self, x: &Self::Tensor) -> Self::Tensor {
        self.copy_rows(x, 0..self.rows(x))
    }
    /// A copy of some rows.
    fn copy_rows(&self, x: &Self::Tensor, rows: Range<usize>) -> Self::Tensor;
    /// Rows of all parts, one part below the other.
    fn stack(&self, parts: &[Self::Tensor]) -> Self::Tensor;

    /// Softmax cross-entropy in f32: `Σ weightᵢ (log Σⱼ exp logitᵢⱼ − logitᵢ[targetᵢ])` over the rows of `logits`
    /// (`[rows, vocab]`, whose memory the gradient takes over), and the gradient of it, `weightᵢ (softmaxᵢ − onehotᵢ)`. For a
    /// mean over counted tokens, their weights are one over their number and the others' zero; a row of weight zero
    /// costs nothing and its target is not looked at.
    fn cross_entropy(&self, logits: Self::Tensor, targets: &[u32], weights: &[f32]) -> (f64, Self::Tensor);
    /// The loss alone.
    fn cross_entropy_loss(&self, logits: &Self::Tensor, targets: &[u32], weights: &[f32]) -> f64;

    /// `√ Σ x²` over all numbers of all parts.
    fn norm_of_all(&self, parts: &[&Self::Floats]) -> f64;
    /// Multiplies number by number.
    fn multiply(&self, to: &mut Self::Floats, by: &Self::Floats);
    /// One step of AdamW ([`AdamW`] says which) for each part.
    fn adamw(&self, parts: &mut [AdamWPart<'_, Self>]);
}
