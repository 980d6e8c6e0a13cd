//! The SigLIP vision tower: patches with positions, pre-norm encoder blocks, a final norm.

use smolvlm_kernels::{Activation, Backend, LinearArgs, Norm, PatchArgs};

use super::weights::WeightsAt;
use crate::Result;
use crate::checkpoint::VisionConfig;

/// `SmolVLMVisionTransformer`. Tiles never look at each other: the rows of every tile stand one after another.
pub struct VisionTower<B: Backend> {
    embeddings: Embeddings<B>,
    blocks: Vec<Block<B>>,
    post_norm: LayerNorm<B>,
    /// Rows of one tile.
    patches: usize,
}

impl<B: Backend> VisionTower<B> {
    pub(super) fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig, position_ids: &[usize]) -> Result<Self> {
        let layers = weights.at("encoder.layers");
        Ok(Self {
            embeddings: Embeddings::load(&weights.at("embeddings"), config, position_ids)?,
            blocks: (0..config.layers).map(|i| Block::load(&layers.at(i), config)).collect::<Result<_>>()?,
            post_norm: LayerNorm::load(&weights.at("post_layernorm"), config)?,
            patches: position_ids.len(),
        })
    }

    /// The plan's tiles → `[tiles × patches, D]`.
    pub(super) fn forward(&self, backend: &B, plan: &B::Plan) -> B::Tensor {
        let mut x = self.embeddings.forward(backend, plan);
        for block in &self.blocks {
            x = block.forward(backend, x, self.patches);
        }
        backend.norm(&x, self.post_norm.norm())
    }
}

/// `SmolVLMVisionEmbeddings`: a convolution whose stride is its kernel, plus position embeddings.
struct Embeddings<B: Backend> {
    projection: B::Weight,
    bias: B::Vector,
    positions: B::Tensor,
    patch: usize,
}

impl<B: Backend> Embeddings<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig, position_ids: &[usize]) -> Result<Self> {
        let (width, inputs) = (config.hidden, config.channels * config.patch * config.patch);
        Ok(Self {
            projection: weights.matrix("patch_embedding.weight", width, inputs)?,
            bias: weights.vector("patch_embedding.bias", width)?,
            positions: weights.rows("position_embedding.weight", position_ids, width)?,
            patch: config.patch,
        })
    }

    fn forward(&self, backend: &B, plan: &B::Plan) -> B::Tensor {
        let (weight, bias, positions) = (&self.projection, &self.bias, &self.positions);
        backend.patch_embed(plan, PatchArgs { weight, bias, positions, patch: self.patch })
    }
}

/// `SmolVLMEncoderLayer`: attention and a GELU MLP, each after a layer norm and inside a residual.
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    attention: Attention<B>,
    norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: Backend> Block<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::load(&weights.at("layer_norm1"), config)?,
            attention: Attention::load(&weights.at("self_attn"), config)?,
            norm2: LayerNorm::load(&weights.at("layer_norm2"), config)?,
            mlp: Mlp::load(&weights.at("mlp"), config)?,
        })
    }

    fn forward(&self, backend: &B, x: B::Tensor, patches: usize) -> B::Tensor {
        let x = self.attention.forward(backend, &self.norm1, x, patches);
        self.mlp.forward(backend, &self.norm2, x)
    }
}

/// `SmolVLMVisionAttention`, full attention inside each tile.
struct Attention<B: Backend> {
    qkv: Linear<B>,
    out: Linear<B>,
    heads: usize,
}

impl<B: Backend> Attention<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig) -> Result<Self> {
        let width = config.hidden;
        let qkv = [("q_proj.weight", width), ("k_proj.weight", width), ("v_proj.weight", width)];
        Ok(Self {
            qkv: Linear {
                weight: weights.stacked(&qkv, width)?,
                bias: weights.vectors(&["q_proj.bias", "k_proj.bias", "v_proj.bias"], width)?,
            },
            out: Linear::load(&weights.at("out_proj"), width, width)?,
            heads: config.heads,
        })
    }

    fn forward(&self, backend: &B, norm: &LayerNorm<B>, x: B::Tensor, patches: usize) -> B::Tensor {
        let qkv = backend.linear(LinearArgs { norm: Some(norm.norm()), for_products: true, ..self.qkv.args(&x) });
        let attended = backend.tile_attention(&qkv, patches, self.heads);
        backend.linear(LinearArgs { residual: Some(&x), ..self.out.args(&attended) })
    }
}

/// `SmolVLMVisionMLP`.
struct Mlp<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
}

impl<B: Backend> Mlp<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig) -> Result<Self> {
        Ok(Self {
            fc1: Linear::load(&weights.at("fc1"), config.mlp, config.hidden)?,
            fc2: Linear::load(&weights.at("fc2"), config.hidden, config.mlp)?,
        })
    }

    fn forward(&self, backend: &B, norm: &LayerNorm<B>, x: B::Tensor) -> B::Tensor {
        let activation = Activation::GeluTanh;
        let norm = Some(norm.norm());
        let h = backend.linear(LinearArgs { norm, activation, for_products: true, ..self.fc1.args(&x) });
        backend.linear(LinearArgs { residual: Some(&x), ..self.fc2.args(&h) })
    }
}

/// A matrix with a bias.
struct Linear<B: Backend> {
    weight: B::Weight,
    bias: B::Vector,
}

impl<B: Backend> Linear<B> {
    fn load(weights: &WeightsAt<'_, B>, outputs: usize, inputs: usize) -> Result<Self> {
        Ok(Self { weight: weights.matrix("weight", outputs, inputs)?, bias: weights.vector("bias", outputs)? })
    }

    fn args<'a>(&'a self, x: &'a B::Tensor) -> LinearArgs<'a, B> {
        LinearArgs { bias: Some(&self.bias), ..LinearArgs::new(x, &self.weight) }
    }
}

struct LayerNorm<B: Backend> {
    weight: B::Vector,
    bias: B::Vector,
    eps: f32,
}

impl<B: Backend> LayerNorm<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &VisionConfig) -> Result<Self> {
        Ok(Self {
            weight: weights.vector("weight", config.hidden)?,
            bias: weights.vector("bias", config.hidden)?,
            eps: config.layer_norm_eps,
        })
    }

    fn norm(&self) -> Norm<'_, B> {
        Norm::Layer { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }
}
