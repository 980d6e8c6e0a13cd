//! How much arithmetic and memory traffic a stage takes, from the model's sizes alone.

use smolvlm::checkpoint::ModelConfig;
use smolvlm::{Ceilings, Dtype, SmolVlm};

/// What a stage must do: operations of its matrices, which run in the weights' format, and of attention, in f32 or bf16; bytes
/// that it must read from memory, where they matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operations {
    pub(crate) matrices: f64,
    pub(crate) attention: f64,
    pub(crate) bytes: f64,
}

impl Operations {
    /// Seconds that products alone and that memory alone would take.
    fn seconds(self, limits: &Ceilings) -> (f64, f64) {
        let products = self.matrices / limits.matrices + self.attention / limits.attention;
        (products, self.bytes / limits.memory)
    }

    /// Seconds of an ideal program on this machine: all of it overlaps.
    pub(crate) fn floor(self, limits: &Ceilings) -> f64 {
        let (products, memory) = self.seconds(limits);
        products.max(memory)
    }

    /// Whether memory holds it back more than products.
    pub(crate) fn is_bound_by_memory(self, limits: &Ceilings) -> bool {
        let (products, memory) = self.seconds(limits);
        memory > products
    }
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
            bytes: 0.0,
        }
    }

    /// One token of each of some sequences reads every weight once, and the keys and values before it.
    pub(crate) fn decode(&self, sequences: usize, context: usize) -> Operations {
        // Four bits, and a factor of eight for every 32 weights.
        let four_bits = 0.5 + 1.0 / 32.0;
        let (layers, head, cache) = match self.dtype {
            Dtype::F32 => (4.0, 4.0, 4.0),
            Dtype::Bf16 => (2.0, 2.0, 2.0),
            Dtype::Q8 => (1.0, 1.0, 2.0),
            Dtype::Q4 => (four_bits, 1.0, 2.0),
        };
        let (count, past) = (sequences as f64, (sequences * context) as f64);
        Operations {
            matrices: 2.0 * count * (self.layer_weights + self.head_weights),
            attention: 4.0 * past * self.layers * self.query_width,
            bytes: layers * self.layer_weights + head * self.head_weights + cache * past * self.cache_width,
        }
    }
}

fn vision(config: &ModelConfig) -> Operations {
    let vision = &config.vision;
    let (width, mlp, layers) = (vision.hidden as f64, vision.mlp as f64, vision.layers as f64);
    let patches = (vision.patches_per_side() * vision.patches_per_side()) as f64;
    let patch_inputs = (vision.channels * vision.patch * vision.patch) as f64;
    let matrices = layers * (4.0 * width * width + 2.0 * width * mlp) + width * patch_inputs;
    let connector = 2.0 * config.text.hidden as f64 * width * patches;
    let attention = layers * 4.0 * patches * patches * width;
    Operations { matrices: 2.0 * patches * matrices + connector, attention, bytes: 0.0 }
}
