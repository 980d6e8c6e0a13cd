//! How much arithmetic and memory traffic a stage takes, from the model's sizes alone.

use smolvlm::checkpoint::ModelConfig;
use smolvlm::{Dtype, SmolVlm};

/// A model's work.
pub(crate) struct Work {
    /// Operations of one tile: matrices and attention.
    pub(crate) vision_flops: f64,
    layers: f64,
    /// Weights of all text layers.
    layer_weights: f64,
    head_weights: f64,
    /// Width of all query heads.
    query_width: f64,
    /// Width of keys and values of all layers.
    cache_width: f64,
    bytes_per_number: f64,
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
            vision_flops: vision_flops(config),
            layers,
            layer_weights: layers * (attention + 3.0 * hidden * text.mlp as f64),
            head_weights: hidden * text.vocab as f64,
            query_width: heads * head,
            cache_width: 2.0 * layers * kv_heads * head,
            bytes_per_number: if model.dtype() == Dtype::F32 { 4.0 } else { 2.0 },
        }
    }

    /// Operations of a prompt; only its last position meets the head.
    pub(crate) fn prefill_flops(&self, tokens: usize) -> f64 {
        let tokens = tokens as f64;
        let attention = 2.0 * self.layers * self.query_width * tokens * (tokens + 1.0);
        2.0 * (tokens * self.layer_weights + self.head_weights) + attention
    }

    /// Bytes that one token reads: every weight once, and the keys and values before it.
    pub(crate) fn decode_bytes(&self, context: usize) -> f64 {
        self.bytes_per_number * (self.layer_weights + self.head_weights + context as f64 * self.cache_width)
    }
}

fn vision_flops(config: &ModelConfig) -> f64 {
    let vision = &config.vision;
    let (width, mlp, layers) = (vision.hidden as f64, vision.mlp as f64, vision.layers as f64);
    let patches = (vision.patches_per_side() * vision.patches_per_side()) as f64;
    let patch_inputs = (vision.channels * vision.patch * vision.patch) as f64;
    let matrices = layers * (4.0 * width * width + 2.0 * width * mlp) + width * patch_inputs;
    let attention = layers * 4.0 * patches * patches * width;
    let connector = 2.0 * config.text.hidden as f64 * width * patches;
    2.0 * patches * matrices + attention + connector
}
