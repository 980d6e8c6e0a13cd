//! From the vision tower's patches to the text model's tokens.

use smolvlm_kernels::{Backend, LinearArgs};

use super::weights::WeightsAt;
use crate::Result;
use crate::checkpoint::ModelConfig;

/// `SmolVLMConnector`: blocks of patches side by side, then one linear layer without bias.
pub(super) struct Connector<B: Backend> {
    projection: B::Weight,
    side: usize,
    scale: usize,
}

impl<B: Backend> Connector<B> {
    pub(super) fn load(weights: &WeightsAt<'_, B>, config: &ModelConfig) -> Result<Self> {
        let scale = config.scale_factor;
        let inputs = config.vision.hidden * scale * scale;
        Ok(Self {
            projection: weights.matrix("modality_projection.proj.weight", config.text.hidden, inputs)?,
            side: config.vision.patches_per_side(),
            scale,
        })
    }

    /// `[tiles × side², D]` → `[tiles × (side / scale)², hidden]`.
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> B::Tensor {
        let blocks = backend.pixel_shuffle(x, self.side, self.scale);
        backend.linear(LinearArgs::new(&blocks, &self.projection))
    }
}
