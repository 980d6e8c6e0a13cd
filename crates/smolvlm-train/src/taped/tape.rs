//! The operations of a step, in order, with what their backwards need.

use std::sync::Arc;

use smolvlm_kernels::training::{HeadCounts, Rope};
use smolvlm_kernels::{Format, PatchArgs, TrainBackend};

use super::linear::{Kept, Linear, TapedNorm};
use super::plans::Lent;
use super::slots::{Positions, Table, Vector, Weight};

/// What is kept of a block's inner tensors until the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// All of them.
    #[default]
    Nothing,
    /// Only what each half of a block (attention, MLP) begins with; the rest is computed once more on the way back. The
    /// gradients are the same to the bit.
    Blocks,
}

/// An operation's input: the result of an earlier one, or something that does not learn.
pub(super) enum Operand<B: TrainBackend> {
    Node(usize),
    Constant(Arc<B::Tensor>),
}

impl<B: TrainBackend> Clone for Operand<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Node(node) => Self::Node(*node),
            Self::Constant(value) => Self::Constant(value.clone()),
        }
    }
}

impl<B: TrainBackend> Operand<B> {
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::Node(node) => Some(*node),
            Self::Constant(_) => None,
        }
    }
}

/// A patch embedding.
pub(super) struct PatchEmbed<B: TrainBackend> {
    pub(super) plan: Arc<Lent<B>>,
    pub(super) weight: Arc<Weight<B>>,
    pub(super) bias: Arc<Vector<B>>,
    pub(super) positions: Result<Arc<Positions<B>>, Arc<B::Tensor>>,
    pub(super) patch: usize,
}

/// Attention over a step's own sequences.
pub(super) struct CausalAttention<B: TrainBackend> {
    pub(super) plan: Arc<Lent<B>>,
    pub(super) qkv: Operand<B>,
    pub(super) heads: HeadCounts,
    pub(super) cos: Arc<Vector<B>>,
    pub(super) sin: Arc<Vector<B>>,
    pub(super) format: Format,
}

/// An operation of the seam with everything it reads.
pub(super) enum Op<B: TrainBackend> {
    Embed { plan: Arc<Lent<B>>, table: Arc<Table<B>> },
    Scatter { plan: Arc<Lent<B>>, x: Operand<B>, sources: Vec<Operand<B>>, source_rows: Vec<usize> },
    PatchEmbed(PatchEmbed<B>),
    Linear(Linear<B>),
    Norm { x: Operand<B>, norm: TapedNorm<B> },
    TileAttention { qkv: Operand<B>, tile_rows: usize, heads: usize },
    CausalAttention(CausalAttention<B>),
    PixelShuffle { x: Operand<B>, side: usize, scale: usize },
    Gather { plan: Arc<Lent<B>>, x: Operand<B>, rows: usize },
}

impl<B: TrainBackend> Op<B> {
    /// Its inputs, in the order in which [`run`](Self::run) takes their values.
    pub(super) fn operands(&self) -> Vec<&Operand<B>> {
        match self {
            Self::Embed { .. } | Self::PatchEmbed(_) => vec![],
            Self::Scatter { x, sources, .. } => std::iter::once(x).chain(sources).collect(),
            Self::Linear(Linear { x, residual, .. }) => std::iter::once(x).chain(residual).collect(),
            Self::Norm { x, .. } | Self::PixelShuffle { x, .. } | Self::Gather { x, .. } => vec![x],
            Self::TileAttention { qkv, .. } => vec![qkv],
            Self::CausalAttention(attention) => vec![&attention.qkv],
        }
    }

    /// Whether its way back needs what it gave.
    pub(super) fn reads_its_result(&self) -> bool {
        matches!(self, Self::TileAttention { .. } | Self::CausalAttention(_))
    }

    /// Whether anything in front of it, or in it, learns.
    pub(super) fn learns(&self) -> bool {
        let owns = match self {
            Self::Embed { table, .. } => table.parameter.is_some(),
            Self::PatchEmbed(embed) => {
                let vectors = embed.bias.parameter.is_some() || embed.positions.is_ok();
                vectors || embed.weight.parameter.is_some()
            }
            Self::Linear(linear) => {
                let bias = linear.bias.as_ref().is_some_and(|bias| bias.parameter.is_some());
                bias || linear.weight.learns() || linear.norm.as_ref().is_some_and(TapedNorm::learns)
            }
            Self::Norm { norm, .. } => norm.learns(),
            _ => false,
        };
        owns || self.operands().iter().any(|operand| operand.node().is_some())
    }

    /// Computes it. What its backward needs is kept if asked for, where there is such a thing.
    pub(super) fn run(&self, backend: &B, mut inputs: Vec<Arc<B::Tensor>>, keep: bool) -> (B::Tensor, Option<Kept<B>>) {
        let kept = |(value, saved)| (value, Some(Kept::new(saved)));
        match self {
            Self::Embed { plan, table } => (backend.embed(plan, &table.value.get()), None),
            Self::Scatter { plan, .. } => {
                let sources = inputs.split_off(1);
                let sources: Vec<&B::Tensor> = sources.iter().map(|source| &**source).collect();
                let x = inputs.pop().map(Arc::try_unwrap).expect("an input");
                let x = x.unwrap_or_else(|shared| backend.copy(&shared));
                (backend.scatter_features(plan, x, &sources), None)
            }
            Self::PatchEmbed(embed) => (embed.run(backend), None),
            Self::Linear(linear) => linear.run(backend, &inputs[0], inputs.get(1).map(|x| &**x), keep, 0),
            Self::Norm { norm, .. } => (norm.with(|norm| backend.norm(&inputs[0], norm)), None),
            Self::TileAttention { tile_rows, heads, .. } => {
                if keep {
                    kept(backend.tile_attention_keeping(&inputs[0], *tile_rows, *heads))
                } else {
                    (backend.tile_attention(&inputs[0], *tile_rows, *heads), None)
                }
            }
            Self::CausalAttention(attention) => {
                let (cos, sin) = (attention.cos.value.get(), attention.sin.value.get());
                let rope = Rope { cos: &*cos, sin: &*sin };
                let CausalAttention { plan, heads, format, .. } = attention;
                kept(backend.causal_attention(plan, &inputs[0], *heads, rope, *format))
            }
            Self::PixelShuffle { side, scale, .. } => (backend.pixel_shuffle(&inputs[0], *side, *scale), None),
            Self::Gather { plan, .. } => (backend.gather_outputs(plan, &inputs[0]), None),
        }
    }
}

impl<B: TrainBackend> PatchEmbed<B> {
    fn run(&self, backend: &B) -> B::Tensor {
        let (weight, bias) = (self.weight.value.get(), self.bias.value.get());
        let positions = match &self.positions {
            Ok(positions) => positions.value.get(),
            Err(constant) => constant.clone(),
        };
        let args = PatchArgs { weight: &*weight, bias: &*bias, positions: &*positions, patch: self.patch };
        backend.patch_embed(&self.plan, args)
    }
}

/// An operation that was run.
pub(super) struct Node<B: TrainBackend> {
    pub(super) op: Op<B>,
    /// Its result, unless it is to be computed again.
    pub(super) value: Option<Arc<B::Tensor>>,
    pub(super) saved: Option<Kept<B>>,
}

/// A step's operations.
pub(super) struct Tape<B: TrainBackend> {
    pub(super) nodes: Vec<Node<B>>,
    pub(super) recompute: Recompute,
    seed: u64,
}

impl<B: TrainBackend> Tape<B> {
    pub(super) fn new(recompute: Recompute, seed: u64) -> Self {
        Self { nodes: Vec::new(), recompute, seed }
    }

    /// That of the next operation: as far from its neighbours' as the golden ratio puts them.
    pub(super) fn next_seed(&self) -> u64 {
        let place = self.nodes.len() as u64 + 1;
        (self.seed ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Notes an operation and returns its number.
    pub(super) fn push(&mut self, op: Op<B>, value: Option<Arc<B::Tensor>>, saved: Option<Kept<B>>) -> usize {
        // No backward reads embeddings as they come from their table.
        let value = value.filter(|_| !matches!(op, Op::Embed { .. }));
        if self.recompute == Recompute::Blocks {
            self.forget_half_block(&op);
        }
        self.nodes.push(Node { op, value, saved });
        self.nodes.len() - 1
    }

    /// At the end of a half of a block, a product with a residual: forgets what lies between the two.
    fn forget_half_block(&mut self, op: &Op<B>) {
        let Op::Linear(Linear { x, residual: Some(residual), .. }) = op else { return };
        let mut at = x.node();
        while let Some(node) = at.filter(|node| Some(*node) != residual.node()) {
            let node = &mut self.nodes[node];
            let inner = matches!(node.op, Op::Linear(_) | Op::TileAttention { .. } | Op::CausalAttention(_));
            if !inner {
                return;
            }
            (node.value, node.saved) = (None, None);
            at = node.op.operands().first().and_then(|operand| operand.node());
        }
    }

    /// An input's value, computed again where it was forgotten.
    pub(super) fn value(&mut self, backend: &B, operand: Operand<B>) -> Arc<B::Tensor> {
        match operand {
            Operand::Constant(value) => value,
            Operand::Node(node) => {
                if let Some(value) = &self.nodes[node].value {
                    return value.clone();
                }
                self.run_again(backend, node);
                self.nodes[node].value.clone().expect("a value that was just computed")
            }
        }
    }

    /// Computes a node's result and what its backward needs once more.
    pub(super) fn run_again(&mut self, backend: &B, node: usize) {
        let operands: Vec<Operand<B>> = self.nodes[node].op.operands().into_iter().cloned().collect();
        let inputs = operands.into_iter().map(|operand| self.value(backend, operand)).collect();
        let (value, saved) = self.nodes[node].op.run(backend, inputs, true);
        let node = &mut self.nodes[node];
        (node.value, node.saved) = (Some(Arc::new(value)), saved);
    }
}
