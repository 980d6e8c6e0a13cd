//! The way back through a tape.

use std::sync::Arc;

use smolvlm_kernels::TrainBackend;
use smolvlm_kernels::training::{AttentionBackward, NormGradients, PatchGradients, Rope};

use super::LOGITS_BYTES;
use super::linear::TapedNorm;
use super::tape::{CausalAttention, Op, Operand, PatchEmbed, Tape};
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
            if !tape.nodes[node].op.reads_its_result() {
                tape.nodes[node].value = None;
            }
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
    let at_a_time = (LOGITS_BYTES / 4 / linear.weight.outputs.max(1)).max(1);
    let (mut loss, mut parts, mut first) = (0.0, Vec::new(), 0);
    while first < rows {
        let last = (first + at_a_time).min(rows);
        let some = backend.copy_rows(&x, first..last);
        let (logits, kept) = linear.run(backend, &some, None, true, first);
        let kept = kept.expect("what was asked to be kept");
        let (part, dy) = backend.cross_entropy(logits, &targets[first..last], &weights[first..last]);
        loss += part;
        parts.extend(linear.backward(backend, &some, &kept, &dy, None));
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
            let dx = linear.backward(backend, &x, saved, &dy, gradients.take(&linear.x));
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

/// A locked gradient.
type Locked<'a, B> = Option<std::sync::MutexGuard<'a, <B as TrainBackend>::Floats>>;

impl<B: TrainBackend> TapedNorm<B> {
    /// Those of its weight and bias.
    pub(super) fn gradients(&self) -> (Locked<'_, B>, Locked<'_, B>) {
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
