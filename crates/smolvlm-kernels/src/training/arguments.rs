//! Arguments of the operations of [`TrainBackend`].

use super::TrainBackend;
use crate::backend::{Activation, Backend, Norm};

/// Heads of the text model's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadCounts {
    /// Of queries.
    pub queries: usize,
    /// Of keys and values; each serves `queries / keys` query heads in a row.
    pub keys: usize,
}

/// Cosines and sines of every position, `[positions, d / 2]` each, wherever they are kept.
pub struct Rope<'a, B: Backend> {
    /// Cosines.
    pub cos: &'a B::Vector,
    /// Sines.
    pub sin: &'a B::Vector,
}

impl<B: Backend> Clone for Rope<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Rope<'_, B> {}

/// Arguments of [`TrainBackend::linear_backward`]: those of the product, what it kept, and where gradients go.
pub struct LinearBackward<'a, B: TrainBackend> {
    /// `[rows, inputs]`, as it was given.
    pub x: &'a B::Tensor,
    /// Was applied to `x` first.
    pub norm: Option<Norm<'a, B>>,
    /// `[outputs, inputs]`.
    pub weight: &'a B::Weight,
    /// Needed for the gradient of `x`; without it there is none.
    pub transposed: Option<&'a B::Transposed>,
    /// Was applied to the product.
    pub activation: Activation,
    /// What [`TrainBackend::linear_keeping`] kept; not looked at where there is no activation.
    pub saved: &'a B::Saved,
    /// Gradient of the result, `[rows, width of the result]`.
    pub dy: &'a B::Tensor,
    /// A gradient of `x` from elsewhere, to which this one is added.
    pub onto: Option<B::Tensor>,
    /// Gradients of the parameters that learn.
    pub gradients: LinearGradients<'a, B>,
}

/// Where the gradients of a linear layer's parameters are added.
pub struct LinearGradients<'a, B: TrainBackend> {
    /// `[outputs, inputs]`; of a gated layer, gate rows before up rows.
    pub weight: Option<&'a mut B::Floats>,
    /// `[outputs]`.
    pub bias: Option<&'a mut B::Floats>,
    /// Those of the norm in front.
    pub norm: NormGradients<'a, B>,
}

impl<B: TrainBackend> Default for LinearGradients<'_, B> {
    fn default() -> Self {
        Self { weight: None, bias: None, norm: NormGradients::default() }
    }
}

/// Where the gradients of a norm's numbers are added.
pub struct NormGradients<'a, B: TrainBackend> {
    /// `[width]`.
    pub weight: Option<&'a mut B::Floats>,
    /// `[width]`.
    pub bias: Option<&'a mut B::Floats>,
}

impl<B: TrainBackend> Default for NormGradients<'_, B> {
    fn default() -> Self {
        Self { weight: None, bias: None }
    }
}

/// Where the gradients of a patch embedding's parameters are added.
pub struct PatchGradients<'a, B: TrainBackend> {
    /// `[width, 3 × patch × patch]`.
    pub weight: Option<&'a mut B::Floats>,
    /// `[width]`.
    pub bias: Option<&'a mut B::Floats>,
    /// `[patches, width]`, summed over tiles.
    pub positions: Option<&'a mut B::Floats>,
}

/// What the backward of an attention takes.
pub struct AttentionBackward<'a, B: TrainBackend> {
    /// Queries, keys and values, as they were given.
    pub qkv: &'a B::Tensor,
    /// The result.
    pub out: &'a B::Tensor,
    /// What the forward operation kept.
    pub saved: &'a B::Saved,
    /// Gradient of the result.
    pub dy: &'a B::Tensor,
}

/// Two matrices whose scaled product is added to a weight `[outputs, inputs]`: `W + scale · B · A`.
pub struct LowRank<'a, B: TrainBackend> {
    /// `[ranks, inputs]`.
    pub a: &'a B::Floats,
    /// `[outputs, ranks]`.
    pub b: &'a B::Floats,
    /// Multiplies their product.
    pub scale: f32,
}

/// Lengths that the rows of a weight are brought to (DoRA; Liu et al. 2024): every output is multiplied by `lengths / norms`, or by
/// zero where its norm is zero.
pub struct Rescale<'a, B: TrainBackend> {
    /// `[outputs]`.
    pub lengths: &'a B::Floats,
    /// What [`TrainBackend::row_norms`] gave, `[outputs]`; constants on the way back.
    pub norms: &'a B::Floats,
}

impl<B: TrainBackend> Clone for Rescale<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: TrainBackend> Copy for Rescale<'_, B> {}

/// One step of AdamW (decoupled weight decay; Loshchilov and Hutter 2019), in the order of `torch.optim.AdamW`:
///
/// ```text
/// g = gradient_scale · gradient
/// p = p − rate · decay · p
/// m = beta1 · m + (1 − beta1) · g
/// v = beta2 · v + (1 − beta2) · g²
/// p = p − rate / (1 − beta1ᵗ) · m / (√v / √(1 − beta2ᵗ) + eps)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// Multiplies gradients first: below 1 when their norm is clipped.
    pub gradient_scale: f64,
    /// Which step this is, from 1.
    pub step: u64,
}

/// A parameter with all that its step takes; all have as many numbers.
pub struct AdamWPart<'a, B: TrainBackend> {
    /// The step.
    pub step: AdamW,
    /// What moves.
    pub master: &'a mut B::Floats,
    /// Along which it moves.
    pub gradient: &'a B::Floats,
    /// Mean of the gradients.
    pub first: &'a mut B::Floats,
    /// Mean of their squares.
    pub second: &'a mut B::Floats,
}

/// The increment of splitmix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Which numbers are left out, and what the others are multiplied by: `factor / (1 − rate)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share of numbers that are left out, from 0 to less than 1.
    pub rate: f32,
    /// Multiplies all others beside.
    pub factor: f32,
    /// Draws them: the same seed draws the same, on every backend.
    pub seed: u64,
}

impl Dropout {
    /// The same draws for rows that are computed apart from those before them, which have `places` numbers.
    #[must_use]
    pub fn after(self, places: u64) -> Self {
        Self { seed: self.seed.wrapping_add(places.wrapping_mul(GOLDEN)), ..self }
    }

    /// What the number at `place` (`row × width + column`) is multiplied by.
    pub fn multiplier(&self, place: u64) -> f32 {
        if self.rate > 0.0 && self.draws(place) { 0.0 } else { self.factor / (1.0 - self.rate) }
    }

    /// Whether it is left out: the upper half of splitmix64 of the place, beside the seed, is below the rate.
    fn draws(&self, place: u64) -> bool {
        let mut x = self.seed.wrapping_add(place.wrapping_add(1).wrapping_mul(GOLDEN));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let upper = (x ^ (x >> 31)) >> 32;
        (upper as f64) < f64::from(self.rate) * 4_294_967_296.0
    }
}
