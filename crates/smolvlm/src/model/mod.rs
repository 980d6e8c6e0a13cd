//! The model, written once over a [`Backend`]: vision tower → connector → text.
//!
//! Sizes come from the checkpoint's configuration; the text model takes a batch of ragged sequences.

mod connector;
mod pack;
mod position_ids;
mod text;
mod vision;
mod weights;

use smolvlm_kernels::{Backend, Format, TileBatch};

pub(crate) use pack::packed_bytes;
pub use text::TextModel;
pub use vision::VisionTower;

use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::compat::Compat;
use crate::{Error, Result};
use connector::Connector;
use weights::WeightsAt;

/// A loaded SmolVLM (`SmolVLMForConditionalGeneration`).
pub struct Model<B: Backend> {
    config: ModelConfig,
    format: Format,
    vision: VisionTower<B>,
    connector: Connector<B>,
    text: TextModel<B>,
}

impl<B: Backend> Model<B> {
    /// Packs a validated checkpoint's weights for `backend` in `format` ([`Format::Q4`]: of the text layers only), or
    /// takes them as they are packed.
    ///
    /// # Errors
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) when a tensor is missing or has another shape,
    /// [`Usage`](crate::ErrorKind::Usage) when the weights are packed in another format.
    pub fn load(backend: &B, checkpoint: &Checkpoint, format: Format, compat: Compat) -> Result<Self> {
        checkpoint.accepts(format)?;
        let config = checkpoint.config().clone();
        let weights = WeightsAt::root(backend, checkpoint, format);
        let side = config.vision.patches_per_side();
        let positions = position_ids::for_full_grid(side, format.of_attention(), compat);
        Ok(Self {
            vision: VisionTower::load(&weights.at("model.vision_model"), &config.vision, &positions)?,
            connector: Connector::load(&weights.at("model.connector"), &config)?,
            text: TextModel::load(&weights, &config)?,
            config,
            format,
        })
    }

    /// The checkpoint's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The storage format of weights and cache.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The text model.
    pub fn text(&self) -> &TextModel<B> {
        &self.text
    }

    /// Image features of some tiles, `[tiles × tokens per tile, hidden]` (`SmolVLMModel.get_image_features`).
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when the machine fails.
    pub fn image_features(&self, backend: &B, plan: &mut B::Plan, tiles: TileBatch<'_>) -> Result<B::Tensor> {
        backend.fill_tiles(plan, tiles);
        let plan = &*plan;
        let forward = || self.connector.forward(backend, &self.vision.forward(backend, plan));
        backend.step(plan, forward).map_err(Error::from)
    }

    /// The vision tower's output before the connector, `[tiles × patches, vision hidden]`.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when the machine fails.
    pub fn vision_hidden(&self, backend: &B, plan: &mut B::Plan, tiles: TileBatch<'_>) -> Result<B::Tensor> {
        backend.fill_tiles(plan, tiles);
        let plan = &*plan;
        backend.step(plan, || self.vision.forward(backend, plan)).map_err(Error::from)
    }
}
