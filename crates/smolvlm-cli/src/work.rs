//! How much arithmetic and memory traffic a stage takes, from the model's sizes alone.

use smolvlm::checkpoint::ModelConfig;
use smolvlm::{Dtype, SmolVlm};

/// Operations of a stage: those of its matrices run in the weights' format, those of attention in f32 or bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operations {
    pub(crate) matrices: f64,
    pub(crate) attention: f64,
}

/// A model's work.
pub(crate) struct Work {
    /// Operations of one tile.
    pub(crate) vision: Operations,
    layers: f64,
    /// Weights of all text layers.
    layer_weights: f64,
    head_weights: f64,
    /// Width of all query heads.
    query_width: f64,
    /// Width of keys and values of all layers.
    cache_width: f64,
    dtype: Dtype,
}

impl Work {
    pub(crate) fn of(model: &SmolVlm) -> Self {
        let config = model.config();
        let text = &config.text;
        let (hidden, head) = (text.hidden as f64, text.head_dim as f64);
        let (heads, kv_heads) = (text.heads as f64, text.kv_heads as f64);
        let attention = hidden * head * (2.0 * heads + 2.0 * kv_heads);
        let layers = text.layers as f64;
        Self {
            vision: vision(config),
            layers,
            layer_weights: layers * (attention + 3.0 * hidden * text.mlp as f64),
            head_weights: hidden * text.vocab as f64,
            query_width: heads * head,
            cache_width: 2.0 * layers * kv_heads * head,
            dtype: model.dtype(),
        }
    }

    /// Operations of a prompt; only its last position meets the head.
    pub(crate) fn prefill(&self, tokens: usize) -> Operations {
        let tokens = tokens as f64;
        Operations {
            matrices: 2.0 * (tokens * self.layer_weights + self.head_weights),
            attention: 2.0 * self.layers * self.query_width * tokens * (tokens + 1.0),
        }
    }

    /// Bytes that one token reads: every weight once, and the keys and values before it.
    pub(crate) fn decode_bytes(&self, context: usize) -> f64 {
        // Four bits, and a factor of eight for every 32 weights.
        let four_bits = 0.5 + 1.0 / 32.0;
        let (layers, head, cache) = match self.dtype {
            Dtype::F32 => (4.0, 4.0, 4.0),
            Dtype::Bf16 => (2.0, 2.0, 2.0),
            Dtype::Q8 => (1.0, 1.0, 2.0),
            Dtype::Q4 => (four_bits, 1.0, 2.0),
        };
        layers * self.layer_weights + head * self.head_weights + cache * context as f64 * self.cache_width
    }
}

fn vision(config: &ModelConfig) -> Operations {
    let vision = &config.vision;
    let (width, mlp, layers) = (vision.hidden as f64, vision.mlp as f64, vision.layers as f64);
    let patches = (vision.patches_per_side() * vision.patches_per_side()) as f64;
    let patch_inputs = (vision.channels * vision.patch * vision.patch) as f64;
    let matrices = layers * (4.0 * width * width + 2.0 * width * mlp) + width * patch_inputs;
    let connector = 2.0 * config.text.hidden as f64 * width * patches;
    Operations { matrices: 2.0 * patches * matrices + connector, attention: layers * 4.0 * patches * patches * width }
}
