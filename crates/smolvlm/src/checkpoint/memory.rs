//! How much memory a model will need, from its configuration alone.

use super::config::ModelConfig;
use super::tensor::StoredDtype;

/// Bytes that a model needs when it runs in one number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// All weights.
    pub weights: u64,
    /// Keys and values that each token of a sequence leaves in the cache, over all layers.
    pub cache_per_token: u64,
    /// The cache of one sequence as long as the model allows.
    pub cache_at_full_context: u64,
}

/// What `config` needs with weights and cache in `dtype`.
pub fn memory_estimate(config: &ModelConfig, dtype: StoredDtype) -> MemoryEstimate {
    let size = dtype.size() as u64;
    let text = &config.text;
    let cache_per_token = 2 * (text.layers * text.kv_heads * text.head_dim) as u64 * size;
    MemoryEstimate {
        weights: config.parameter_count() * size,
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
        let single = memory_estimate(&config, StoredDtype::F32);
        assert_eq!(single.weights, 256_484_928 * 4);
        // 30 layers × 3 heads × 64 × (key and value) × 4 bytes, for 8192 positions
        assert_eq!(single.cache_per_token, 46_080);
        assert_eq!(single.cache_at_full_context, 377_487_360);
        assert_eq!(memory_estimate(&config, StoredDtype::Bf16).weights, 256_484_928 * 2);
    }
}
