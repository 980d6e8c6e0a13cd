//! How much memory a model will need, from its configuration alone.

use smolvlm_kernels::Format;

use super::config::ModelConfig;
use super::packed::plan::Plan;

/// Bytes that a model needs when it runs in one number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// All weights, as they are packed.
    pub weights: u64,
    /// Keys and values that each token of a sequence leaves in the cache, over all layers.
    pub cache_per_token: u64,
    /// The cache of one sequence as long as the model allows.
    pub cache_at_full_context: u64,
}

/// What `config` needs with weights in `dtype`. Keys and values are f32 with f32 weights, bf16 with all others.
pub fn memory_estimate(config: &ModelConfig, dtype: Format) -> MemoryEstimate {
    let size = if dtype.of_attention() == Format::F32 { 4 } else { 2 };
    let text = &config.text;
    let cache_per_token = 2 * (text.layers * text.kv_heads * text.head_dim) as u64 * size;
    MemoryEstimate {
        weights: Plan::new(config, dtype).bytes(),
        cache_per_token,
        cache_at_full_context: cache_per_token.saturating_mul(text.max_positions as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing;

    #[test]
    fn the_256m_needs_a_gigabyte_in_single_precision_and_half_in_bf16() {
        let config = testing::published("256m");
        let single = memory_estimate(&config, Format::F32);
        // No dimension of it leaves a panel or a chunk of f32 unfilled.
        assert_eq!(single.weights, 256_484_928 * 4);
        // 30 layers × 3 heads × 64 × (key and value) × 4 bytes, for 8192 positions
        assert_eq!(single.cache_per_token, 46_080);
        assert_eq!(single.cache_at_full_context, 377_487_360);
        // Vectors stay f32.
        let half = memory_estimate(&config, Format::Bf16);
        let vectors: u64 = Plan::new(&config, Format::Bf16).vectors.iter().map(|vector| vector.elements()).sum();
        assert_eq!(half.weights, 256_484_928 * 2 + vectors * 2);
        assert_eq!(half.cache_per_token, 23_040);
    }

    #[test]
    fn eight_bits_take_half_of_bf16_and_four_less() {
        let config = testing::published("256m");
        let [bf16, q8, q4] = [Format::Bf16, Format::Q8, Format::Q4].map(|dtype| memory_estimate(&config, dtype));
        assert!((0.50..0.52).contains(&(q8.weights as f64 / bf16.weights as f64)), "{q8:?}");
        assert!((0.35..0.42).contains(&(q4.weights as f64 / bf16.weights as f64)), "{q4:?}");
        assert_eq!(q8.cache_per_token, bf16.cache_per_token);
    }
}
