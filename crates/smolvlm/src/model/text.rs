//! The Llama text model over paged keys and values.

use smolvlm_kernels::{Activation, Backend, BackendError, DecoderLayer, DecoderWeights, LinearArgs, Norm, RopeTable};

use super::weights::WeightsAt;
use crate::Result;
use crate::checkpoint::{ModelConfig, TextConfig};

/// `LlamaModel` with its head.
pub struct TextModel<B: Backend> {
    embeddings: B::Table,
    blocks: Vec<Block<B>>,
    norm: RmsNorm<B>,
    head: B::Weight,
    rope: RopeTable<B>,
    decoder: Option<B::Decoder>,
}

impl<B: Backend> TextModel<B> {
    pub(super) fn load(weights: &WeightsAt<'_, B>, config: &ModelConfig) -> Result<Self> {
        let (text, model) = (&config.text, weights.at("model.text_model"));
        let layers = model.at("layers");
        let mut loaded = Self {
            embeddings: model.table("embed_tokens.weight", text.vocab, text.hidden)?,
            blocks: (0..text.layers).map(|i| Block::load(&layers.at(i), text)).collect::<Result<_>>()?,
            norm: RmsNorm::load(&model.at("norm"), text)?,
            // The checkpoint knows whether this is the embedding table.
            head: weights.matrix("lm_head.weight", text.vocab, text.hidden)?,
            rope: rope_table(weights.backend(), text),
            decoder: None,
        };
        loaded.decoder = weights.backend().decoder(&loaded.decoder_weights(text));
        Ok(loaded)
    }

    /// All of it, for a backend that computes a token at once.
    fn decoder_weights(&self, config: &TextConfig) -> DecoderWeights<'_, B> {
        DecoderWeights {
            embeddings: &self.embeddings,
            layers: self.blocks.iter().map(Block::weights).collect(),
            norm: &self.norm.weight,
            head: &self.head,
            eps: config.rms_eps,
            rope: &self.rope,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// One step over the plan's tokens: appends to `cache` and returns the logits of the plan's output rows,
    /// `[outputs, vocab]`. Rows named by the plan's features show an image instead of a token.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn forward(
        &self,
        backend: &B,
        plan: &B::Plan,
        cache: &mut B::Cache,
        features: &[&B::Tensor],
    ) -> Result<B::Tensor, BackendError> {
        if let Some(logits) = self.decoder.as_ref().and_then(|decoder| backend.decode(plan, decoder, cache)) {
            return logits;
        }
        backend.repeated_step(plan, || {
            let mut x = backend.embed(plan, &self.embeddings);
            if !features.is_empty() {
                x = backend.scatter_features(plan, x, features);
            }
            for (layer, block) in self.blocks.iter().enumerate() {
                x = block.forward(backend, plan, cache, layer, &self.rope, x);
            }
            let x = backend.gather_outputs(plan, &x);
            let norm = Some(self.norm.norm());
            backend.linear(LinearArgs { norm, reported: true, ..LinearArgs::new(&x, &self.head) })
        })
    }
}

/// `LlamaDecoderLayer`: grouped-query attention and a gated MLP, each after an RMS norm and inside a residual.
struct Block<B: Backend> {
    norm1: RmsNorm<B>,
    qkv: B::Weight,
    out: B::Weight,
    norm2: RmsNorm<B>,
    gate_up: B::Weight,
    down: B::Weight,
}

impl<B: Backend> Block<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &TextConfig) -> Result<Self> {
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let qkv = [("q_proj.weight", queries), ("k_proj.weight", keys), ("v_proj.weight", keys)];
        Ok(Self {
            norm1: RmsNorm::load(&weights.at("input_layernorm"), config)?,
            qkv: attention.stacked(&qkv, config.hidden)?,
            out: attention.matrix("o_proj.weight", config.hidden, queries)?,
            norm2: RmsNorm::load(&weights.at("post_attention_layernorm"), config)?,
            gate_up: mlp.gate_up("gate_proj.weight", "up_proj.weight", config.mlp, config.hidden)?,
            down: mlp.matrix("down_proj.weight", config.hidden, config.mlp)?,
        })
    }

    fn weights(&self) -> DecoderLayer<'_, B> {
        DecoderLayer {
            norm1: &self.norm1.weight,
            qkv: &self.qkv,
            out: &self.out,
            norm2: &self.norm2.weight,
            gate_up: &self.gate_up,
            down: &self.down,
        }
    }

    fn forward(
        &self,
        backend: &B,
        plan: &B::Plan,
        cache: &mut B::Cache,
        layer: usize,
        rope: &RopeTable<B>,
        x: B::Tensor,
    ) -> B::Tensor {
        let qkv = backend.linear(LinearArgs { norm: Some(self.norm1.norm()), ..LinearArgs::new(&x, &self.qkv) });
        let attended = backend.cached_attention(plan, qkv, cache, layer, rope);
        let x = backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&attended, &self.out) });
        let h = backend.linear(LinearArgs {
            norm: Some(self.norm2.norm()),
            activation: Activation::SwiGlu,
            for_products: true,
            ..LinearArgs::new(&x, &self.gate_up)
        });
        backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&h, &self.down) })
    }
}

struct RmsNorm<B: Backend> {
    weight: B::Vector,
    eps: f32,
}

impl<B: Backend> RmsNorm<B> {
    fn load(weights: &WeightsAt<'_, B>, config: &TextConfig) -> Result<Self> {
        Ok(Self { weight: weights.vector("weight", config.hidden)?, eps: config.rms_eps })
    }

    fn norm(&self) -> Norm<'_, B> {
        Norm::Rms { weight: &self.weight, eps: self.eps }
    }
}

/// Angles `position · θ^(−2i/d)`. The exponent and the frequency are rounded to f32 where `LlamaRotaryEmbedding`
/// rounds them, so that angles agree to the bit at the far end of the context too.
fn rope_table<B: Backend>(backend: &B, config: &TextConfig) -> RopeTable<B> {
    let half = config.head_dim / 2;
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / f64::from(config.rope_theta).powf(f64::from(exponent)) as f32
    };
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let angles = (0..config.max_positions)
        .flat_map(|position| frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency)));
    let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
    RopeTable { cos: backend.vector(&cos), sin: backend.vector(&sin) }
}
