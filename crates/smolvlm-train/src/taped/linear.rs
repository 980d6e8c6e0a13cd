//! A product with everything around it: its norm, its adapter, its activation; forward and back.

use std::sync::Arc;

use smolvlm_kernels::training::{LinearBackward, LinearGradients, NormGradients};
use smolvlm_kernels::{Activation, LinearArgs, Norm, TrainBackend};

use super::slots::{Vector, Weight};
use super::tape::Operand;
use crate::parameters::gradient_of;

/// A product with everything around it.
pub(super) struct Linear<B: TrainBackend> {
    pub(super) x: Operand<B>,
    pub(super) norm: Option<TapedNorm<B>>,
    pub(super) weight: Arc<Weight<B>>,
    pub(super) bias: Option<Arc<Vector<B>>>,
    pub(super) activation: Activation,
    pub(super) residual: Option<Operand<B>>,
    pub(super) for_products: bool,
    /// Whether the result is logits, which are computed a few rows at a time, where they are compared with targets.
    pub(super) reported: bool,
    /// Of an adapter's dropout, while learning.
    pub(super) seed: Option<u64>,
}

/// A norm with its parameters.
pub(super) struct TapedNorm<B: TrainBackend> {
    pub(super) weight: Arc<Vector<B>>,
    /// Of a layer norm.
    pub(super) bias: Option<Arc<Vector<B>>>,
    pub(super) eps: f32,
}

impl<B: TrainBackend> TapedNorm<B> {
    pub(super) fn learns(&self) -> bool {
        self.weight.parameter.is_some() || self.bias.as_ref().is_some_and(|bias| bias.parameter.is_some())
    }

    /// Calls `body` with the norm as the wrapped backend takes it.
    pub(super) fn with<R>(&self, body: impl FnOnce(Norm<'_, B>) -> R) -> R {
        let weight = self.weight.value.get();
        match self.bias.as_ref().map(|bias| bias.value.get()) {
            Some(bias) => body(Norm::Layer { weight: &weight, bias: &bias, eps: self.eps }),
            None => body(Norm::Rms { weight: &weight, eps: self.eps }),
        }
    }

    /// The same of a norm that may not be there.
    pub(super) fn with_any<R>(norm: Option<&Self>, body: impl FnOnce(Option<Norm<'_, B>>) -> R) -> R {
        match norm {
            Some(norm) => norm.with(|norm| body(Some(norm))),
            None => body(None),
        }
    }
}

/// What an operation keeps for its backward.
pub(super) struct Kept<B: TrainBackend> {
    pub(super) saved: B::Saved,
    /// Between the two matrices of an adapter, scaled: `[rows, ranks]`.
    pub(super) low: Option<B::Tensor>,
    /// Where an adapter rescales outputs: what it rescaled, `[rows, outputs]`.
    pub(super) product: Option<B::Tensor>,
    /// Rows of the whole operation before these.
    pub(super) first: usize,
}

impl<B: TrainBackend> Kept<B> {
    pub(super) fn new(saved: B::Saved) -> Self {
        Self { saved, low: None, product: None, first: 0 }
    }
}

impl<B: TrainBackend> Linear<B> {
    /// With an adapter, what it gives is added before the activation. `first`: rows of the whole operation before `x`.
    pub(super) fn run(
        &self,
        backend: &B,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        keep: bool,
        first: usize,
    ) -> (B::Tensor, Option<Kept<B>>) {
        let Some(adapter) = &self.weight.adapter else {
            return self.with_args(x, residual, |args| {
                if !keep {
                    return (backend.linear(args), None);
                }
                let (value, saved) = backend.linear_keeping(args);
                (value, Some(Kept::new(saved)))
            });
        };
        let (low, addend) = adapter.run(backend, x, self.norm.as_ref(), (self.seed, first));
        if !adapter.rescales() {
            let (value, saved) = self.with_args(x, residual, |args| backend.linear_adapted(args, &addend));
            return (value, keep.then_some(Kept { saved, low: Some(low), product: None, first }));
        }
        let rescaled = adapter.with_rescale(backend, &self.weight, |rescale| {
            self.with_args(x, residual, |args| backend.linear_rescaled(args, &addend, rescale))
        });
        let (value, saved, product) = rescaled.expect("an adapter that rescales");
        (value, keep.then_some(Kept { saved, low: Some(low), product: Some(product), first }))
    }

    /// Calls `body` with its arguments as the wrapped backend takes them.
    pub(super) fn with_args<R>(
        &self,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        body: impl FnOnce(LinearArgs<'_, B>) -> R,
    ) -> R {
        let (weight, bias) = (self.weight.value.get(), self.bias.as_ref().map(|bias| bias.value.get()));
        TapedNorm::with_any(self.norm.as_ref(), |norm| {
            body(LinearArgs {
                x,
                norm,
                weight: &weight,
                bias: bias.as_deref(),
                activation: self.activation,
                residual,
                for_products: self.for_products,
                reported: self.reported,
            })
        })
    }

    /// Whether a gradient of `x` is of any use.
    pub(super) fn passes(&self) -> bool {
        self.x.node().is_some() || self.norm.as_ref().is_some_and(TapedNorm::learns)
    }

    /// Adds to the gradients of its parameters and returns that of `x`, if anything in front of it learns.
    pub(super) fn backward(
        &self,
        backend: &B,
        x: &B::Tensor,
        kept: &Kept<B>,
        dy: &B::Tensor,
        onto: Option<B::Tensor>,
    ) -> Option<B::Tensor> {
        let saved = &kept.saved;
        let Some(adapter) = &self.weight.adapter else {
            let product = Product { x, activation: self.activation, saved, dy, onto, bias: None };
            return self.product_backward(backend, product, true);
        };
        let before = backend.activation_backward(self.activation, saved, dy);
        let dy = before.as_ref().unwrap_or(dy);
        let rescaled = adapter.rescale_backward(backend, &self.weight, kept, dy);
        let onto = adapter.backward(backend, self, x, kept, rescaled.as_ref().unwrap_or(dy), onto);
        let bias_learns = self.bias.as_ref().is_some_and(|bias| bias.parameter.is_some());
        if rescaled.is_some() && bias_learns {
            // It was added after rows were rescaled.
            self.bias_backward(backend, x, saved, dy);
        }
        // Nothing but the adapter may learn, with nothing in front of it.
        let bias_left = bias_learns && rescaled.is_none();
        if !self.passes() && self.weight.parameter.is_none() && !bias_left {
            return onto;
        }
        let dy = rescaled.as_ref().unwrap_or(dy);
        let product = Product { x, activation: Activation::Identity, saved, dy, onto, bias: None };
        self.product_backward(backend, product, bias_left)
    }

    /// The gradient of the bias alone.
    fn bias_backward(&self, backend: &B, x: &B::Tensor, saved: &B::Saved, dy: &B::Tensor) {
        let mut gradient = gradient_of(self.bias.as_ref().and_then(|bias| bias.parameter.as_ref()));
        backend.linear_backward(LinearBackward {
            x,
            norm: None,
            weight: &self.weight.value.get(),
            transposed: None,
            activation: Activation::Identity,
            saved,
            dy,
            onto: None,
            gradients: LinearGradients { bias: gradient.as_deref_mut(), ..LinearGradients::default() },
        });
    }

    /// The same of the product without its adapter.
    fn product_backward(&self, backend: &B, product: Product<'_, B>, with_bias: bool) -> Option<B::Tensor> {
        let transposed = self.passes().then(|| self.weight.transposed(backend));
        let mut bias_gradient = gradient_of(self.bias.as_ref().and_then(|bias| bias.parameter.as_ref()));
        let bias = bias_gradient.as_deref_mut().filter(|_| with_bias);
        let product = Product { bias, ..product };
        product_backward(backend, &self.weight, transposed.as_deref(), self.norm.as_ref(), product)
    }
}

/// A product's way back, apart from what it belongs to.
pub(super) struct Product<'a, B: TrainBackend> {
    pub(super) x: &'a B::Tensor,
    pub(super) activation: Activation,
    pub(super) saved: &'a B::Saved,
    pub(super) dy: &'a B::Tensor,
    pub(super) onto: Option<B::Tensor>,
    /// Gradient of the bias.
    pub(super) bias: Option<&'a mut B::Floats>,
}

/// Adds to the gradients of a product's parameters, and its norm's, and returns that of its input.
pub(super) fn product_backward<B: TrainBackend>(
    backend: &B,
    weight: &Weight<B>,
    transposed: Option<&B::Transposed>,
    norm: Option<&TapedNorm<B>>,
    product: Product<'_, B>,
) -> Option<B::Tensor> {
    let value = weight.value.get();
    let mut weight_gradient = gradient_of(weight.parameter.as_ref());
    let (mut norm_weight, mut norm_bias) = norm.map_or((None, None), TapedNorm::gradients);
    TapedNorm::with_any(norm, |norm| {
        backend.linear_backward(LinearBackward {
            x: product.x,
            norm,
            weight: &value,
            transposed,
            activation: product.activation,
            saved: product.saved,
            dy: product.dy,
            onto: product.onto,
            gradients: LinearGradients {
                weight: weight_gradient.as_deref_mut(),
                bias: product.bias,
                norm: NormGradients { weight: norm_weight.as_deref_mut(), bias: norm_bias.as_deref_mut() },
            },
        })
    })
}
