//! The way back through a tape.

use std::sync::Arc;

use smolvlm_kernels::training::{
    AttentionBackward, LinearBackward, LinearGradients, NormGradients, PatchGradients, Rope,
};
use smolvlm_kernels::{Activation, TrainBackend};

use super::LOGITS_BYTES;
use super::slots::Weight;
use super::tape::{CausalAttention, Kept, Linear, Op, Operand, PatchEmbed, Tape, TapedNorm};
use crate::parameters::gradient_of;

/// Gradients of the tape's results so far, where there are any.
struct Gradients<B: TrainBackend>(Vec<Option<B::Tensor>>);

impl<B: TrainBackend> Gradients<B> {
    fn take(&mut self, operand: &Operand<B>) -> Option<B::Tensor> {
        operand.node().and_then(|node| self.0[node].take())
    }

    /// Keeps what is the whole gradient of an operand so far.
    fn put(&mut self, operand: &Operand<B>, gradient: Option<B::Tensor>) {
        if let Some(node) = operand.node() {
            self.0[node] = gradient;
        }
    }

    /// Adds to the gradient of an operand.
    fn add(&mut self, backend: &B, operand: &Operand<B>, gradient: B::Tensor) {
        let Some(node) = operand.node() else { return };
        self.0[node] = Some(match self.0[node].take() {
            Some(known) => backend.add(known, &gradient),
            None => gradient,
        });
    }
}

/// Adds the gradients of the weighted cross-entropy of logits, which are node `logits`, and returns it.
pub(super) fn backward<B: TrainBackend>(
    backend: &B,
    tape: &mut Tape<B>,
    logits: usize,
    targets: &[u32],
    weights: &[f32],
) -> f64 {
    let mut gradients = Gradients((0..tape.nodes.len()).map(|_| None).collect());
    let loss = head(backend, tape, logits, targets, weights, &mut gradients);
    for node in (0..logits).rev() {
        if let Some(dy) = gradients.0[node].take() {
            one(backend, tape, node, dy, &mut gradients);
        }
        // Nothing before it needs them.
        (tape.nodes[node].value, tape.nodes[node].saved) = (None, None);
    }
    loss
}

/// Logits, their loss and its gradient, some rows at a time.
fn head<B: TrainBackend>(
    backend: &B,
    tape: &mut Tape<B>,
    node: usize,
    targets: &[u32],
    weights: &[f32],
    gradients: &mut Gradients<B>,
) -> f64 {
    let Op::Linear(linear) = &tape.nodes[node].op else { unreachable!("logits are a product") };
    let operand = linear.x.clone();
    let x = tape.value(backend, operand.clone());
    let Op::Linear(linear) = &tape.nodes[node].op else { unreachable!("logits are a product") };
    let rows = backend.rows(&x);
    assert!(targets.len() == rows && weights.len() == rows, "a target and a weight for each of {rows} rows of logits");
    let (mut loss, mut parts, mut first) = (0.0, Vec::new(), 0);
    let mut at_a_time = None;
    while first < rows {
        // The vocabulary's size shows in the first logits.
        let last = (first + at_a_time.unwrap_or(1)).min(rows);
        let some = backend.copy_rows(&x, first..last);
        let (logits, kept) = linear.run(backend, &some, None, true, first);
        let kept = kept.expect("what was asked to be kept");
        at_a_time.get_or_insert_with(|| (LOGITS_BYTES / 4 / backend.width(&logits)).max(1));
        let (part, dy) = backend.cross_entropy(logits, &targets[first..last], &weights[first..last]);
        loss += part;
        parts.extend(linear.backward(backend, &some, &kept, &dy, None, first));
        first = last;
    }
    if !parts.is_empty() {
        gradients.put(&operand, Some(backend.stack(&parts)));
    }
    loss
}

/// One operation's way back.
fn one<B: TrainBackend>(backend: &B, tape: &mut Tape<B>, node: usize, dy: B::Tensor, gradients: &mut Gradients<B>) {
    let operands: Vec<Operand<B>> = tape.nodes[node].op.operands().into_iter().cloned().collect();
    let needs_inputs = matches!(
        tape.nodes[node].op,
        Op::Linear(_) | Op::Norm { .. } | Op::TileAttention { .. } | Op::CausalAttention(_)
    );
    let keeps = matches!(tape.nodes[node].op, Op::Linear(_) | Op::TileAttention { .. } | Op::CausalAttention(_));
    if keeps && tape.nodes[node].saved.is_none() {
        tape.run_again(backend, node);
    }
    let x = needs_inputs.then(|| tape.value(backend, operands[0].clone()));
    let noted = &tape.nodes[node];
    match (&noted.op, x) {
        (Op::Linear(linear), Some(x)) => {
            let saved = noted.saved.as_ref().expect("kept or computed again");
            let dx = linear.backward(backend, &x, saved, &dy, gradients.take(&linear.x), 0);
            gradients.put(&linear.x, dx);
            if let Some(residual) = &linear.residual {
                gradients.add(backend, residual, dy);
            }
        }
        (Op::Norm { x: operand, norm }, Some(x)) => {
            let onto = gradients.take(operand);
            let dx = norm.backward(backend, &x, &dy, onto);
            gradients.put(operand, Some(dx));
        }
        (Op::TileAttention { qkv: operand, tile_rows, heads }, Some(qkv)) => {
            let dx = with_attention(noted, &qkv, &dy, |args| backend.tile_attention_backward(args, *tile_rows, *heads));
            gradients.add(backend, operand, dx);
        }
        (Op::CausalAttention(attention), Some(qkv)) => {
            let CausalAttention { plan, qkv: operand, heads, .. } = attention;
            let (cos, sin) = (attention.cos.value.get(), attention.sin.value.get());
            let rope = Rope { cos: &*cos, sin: &*sin };
            let dx =
                with_attention(noted, &qkv, &dy, |args| backend.causal_attention_backward(plan, args, *heads, rope));
            gradients.add(backend, operand, dx);
        }
        (Op::Embed { plan, table }, _) => {
            if let Some(mut gradient) = gradient_of(table.parameter.as_ref()) {
                backend.embed_backward(plan, &dy, &mut gradient);
            }
        }
        (Op::Scatter { plan, x, sources, source_rows }, _) => {
            let (dx, dsources) = backend.scatter_features_backward(plan, dy, source_rows);
            gradients.add(backend, x, dx);
            for (source, gradient) in sources.iter().zip(dsources) {
                gradients.add(backend, source, gradient);
            }
        }
        (Op::PatchEmbed(embed), _) => embed.backward(backend, &dy),
        (Op::PixelShuffle { x, side, scale }, _) => {
            gradients.add(backend, x, backend.pixel_shuffle_backward(&dy, *side, *scale));
        }
        (Op::Gather { plan, x, rows }, _) => {
            gradients.add(backend, x, backend.gather_outputs_backward(plan, &dy, *rows));
        }
        (_, None) => unreachable!("an operation whose inputs were asked for"),
    }
}

/// Calls `body` with what an attention's backward takes.
fn with_attention<B: TrainBackend>(
    noted: &super::tape::Node<B>,
    qkv: &Arc<B::Tensor>,
    dy: &B::Tensor,
    body: impl FnOnce(AttentionBackward<'_, B>) -> B::Tensor,
) -> B::Tensor {
    let kept = "kept or computed again";
    let (out, saved) = (noted.value.as_ref().expect(kept), noted.saved.as_ref().expect(kept));
    body(AttentionBackward { qkv, out, saved: &saved.saved, dy })
}

impl<B: TrainBackend> Linear<B> {
    /// Whether a gradient of `x` is of any use.
    pub(super) fn passes(&self) -> bool {
        self.x.node().is_some() || self.norm.as_ref().is_some_and(TapedNorm::learns)
    }

    /// Adds to the gradients of its parameters and returns that of `x`, if anything in front of it learns. `first`: rows of the
    /// whole operation before `x`.
    fn backward(
        &self,
        backend: &B,
        x: &B::Tensor,
        kept: &Kept<B>,
        dy: &B::Tensor,
        onto: Option<B::Tensor>,
        first: usize,
    ) -> Option<B::Tensor> {
        let Some(adapter) = &self.weight.adapter else {
            return self.product_backward(backend, x, self.activation, &kept.saved, dy, onto, true);
        };
        let before = backend.activation_backward(self.activation, &kept.saved, dy);
        let dy = before.as_ref().unwrap_or(dy);
        let rescaled = adapter.rescale_backward(backend, &self.weight, kept, dy);
        let onto = adapter.backward(backend, self, x, kept, rescaled.as_ref().unwrap_or(dy), onto, first);
        let bias_learns = self.bias.as_ref().is_some_and(|bias| bias.parameter.is_some());
        if rescaled.is_some() && bias_learns {
            // It was added after rows were rescaled.
            self.bias_backward(backend, x, &kept.saved, dy);
        }
        // Nothing but the adapter may learn, with nothing in front of it.
        let bias_left = bias_learns && rescaled.is_none();
        if !self.passes() && self.weight.parameter.is_none() && !bias_left {
            return onto;
        }
        let dy = rescaled.as_ref().unwrap_or(dy);
        self.product_backward(backend, x, Activation::Identity, &kept.saved, dy, onto, bias_left)
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
    fn product_backward(
        &self,
        backend: &B,
        x: &B::Tensor,
        activation: Activation,
        saved: &B::Saved,
        dy: &B::Tensor,
        onto: Option<B::Tensor>,
        with_bias: bool,
    ) -> Option<B::Tensor> {
        let transposed = self.passes().then(|| self.weight.transposed(backend));
        let mut bias_gradient = gradient_of(self.bias.as_ref().and_then(|bias| bias.parameter.as_ref()));
        let bias = bias_gradient.as_deref_mut().filter(|_| with_bias);
        product_backward(
            backend,
            &self.weight,
            transposed.as_deref(),
            self.norm.as_ref(),
            Product { x, activation, saved, dy, onto, bias },
        )
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

/// A locked gradient.
type Locked<'a, B> = Option<std::sync::MutexGuard<'a, <B as TrainBackend>::Floats>>;

impl<B: TrainBackend> TapedNorm<B> {
    /// Those of its weight and bias.
    fn gradients(&self) -> (Locked<'_, B>, Locked<'_, B>) {
        let bias = self.bias.as_ref().and_then(|bias| bias.parameter.as_ref());
        (gradient_of(self.weight.parameter.as_ref()), gradient_of(bias))
    }

    pub(super) fn backward(&self, backend: &B, x: &B::Tensor, dy: &B::Tensor, onto: Option<B::Tensor>) -> B::Tensor {
        let (mut weight, mut bias) = self.gradients();
        let gradients = NormGradients { weight: weight.as_deref_mut(), bias: bias.as_deref_mut() };
        self.with(|norm| backend.norm_backward(x, &norm, dy, onto, gradients))
    }
}

impl<B: TrainBackend> PatchEmbed<B> {
    fn backward(&self, backend: &B, dy: &B::Tensor) {
        let mut weight = gradient_of(self.weight.parameter.as_ref());
        let mut bias = gradient_of(self.bias.parameter.as_ref());
        let mut positions = gradient_of(self.positions.as_ref().ok().map(|positions| &positions.parameter));
        let gradients = PatchGradients {
            weight: weight.as_deref_mut(),
            bias: bias.as_deref_mut(),
            positions: positions.as_deref_mut(),
        };
        backend.patch_embed_backward(&self.plan, &self.weight.value.get(), self.patch, dy, gradients);
    }
}
