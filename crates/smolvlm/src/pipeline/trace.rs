//! Every stage's numbers, for comparing with other implementations.

use super::SmolVlm;
use super::encode::{TileSink, decode, encode};
use super::prepare::{PreparedMedium, prepare};
use crate::generate::{GenerateOptions, Logits, Request};
use crate::messages::Messages;
use crate::preprocess::Tile;
use crate::preprocess::normalise::PixelTable;
use crate::{Error, Result};

/// Every stage's numbers of one conversation.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The prompt after its placeholders were expanded.
    pub prompt: String,
    /// `[T]`.
    pub input_ids: Vec<u32>,
    /// `[tiles, 3, S, S]` in prompt order.
    pub pixel_values: Vec<f32>,
    /// Tiles.
    pub tiles: usize,
    /// Pixels on a tile's side, S.
    pub tile_size: usize,
    /// `[image tokens, hidden]`.
    pub image_features: Vec<f32>,
    /// Width of the text model.
    pub hidden: usize,
    /// `[T or 1, vocab]`; empty when not asked for.
    pub logits: Vec<f32>,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Generated tokens, the end token included.
    pub generated_ids: Vec<u32>,
    /// The media in prompt order.
    pub media: Vec<TracedMedium>,
}

/// What became of one medium.
#[derive(Debug, Clone, PartialEq)]
pub enum TracedMedium {
    /// A picture.
    Image {
        /// Its size as shown, width and height in pixels.
        size: (usize, usize),
        /// Rows and columns of tiles; 0 when it was not split.
        grid: (usize, usize),
    },
    /// A video.
    Video {
        /// Frames the model sees, by index in presentation order.
        indices: Vec<usize>,
        /// Their times in seconds, as the prompt prints them.
        timestamps: Vec<f64>,
        /// Frames per second.
        rate: f64,
        /// Seconds.
        duration: f64,
    },
}

impl From<&PreparedMedium> for TracedMedium {
    fn from(medium: &PreparedMedium) -> Self {
        match medium {
            PreparedMedium::Image { file, plan } => {
                Self::Image { size: (file.width(), file.height()), grid: (plan.rows, plan.cols) }
            }
            PreparedMedium::Video(video) => Self::Video {
                indices: video.indices.clone(),
                timestamps: video.times.clone(),
                rate: video.source.facts().average_rate,
                duration: video.source.facts().duration,
            },
        }
    }
}

/// Keeps tiles as the numbers the model sees.
struct Pixels {
    values: Vec<f32>,
}

impl TileSink for Pixels {
    fn tile(&mut self, tile: Tile, pixel_values: &PixelTable) -> Result<()> {
        for (channel, values) in pixel_values.iter().enumerate() {
            self.values.extend(tile.rgb.iter().skip(channel).step_by(3).map(|value| values[usize::from(*value)]));
        }
        Ok(())
    }
}

pub(super) fn trace(model: &mut SmolVlm, messages: &Messages, max_new_tokens: usize, logits: Logits) -> Result<Trace> {
    let mut prompts = prepare(&model.processor, std::slice::from_ref(messages))?;
    let mut pixels = Pixels { values: Vec::new() };
    decode(&model.processor.preprocessor, &mut prompts[0], &mut pixels)?;
    let (features, _) = encode(model, &mut prompts)?;
    let (prompt, features) = prompts
        .pop()
        .zip(features.into_iter().next())
        .ok_or_else(|| Error::internal("one conversation gave no prompt"))?;
    let mut trace = Trace {
        input_ids: prompt.ids.clone(),
        pixel_values: pixels.values,
        tiles: prompt.tiles(),
        tile_size: model.processor.preprocessor.tile_size(),
        image_features: model.engine.download(&features)?,
        hidden: model.config().text.hidden,
        vocab: model.config().text.vocab,
        media: prompt.media.iter().map(TracedMedium::from).collect(),
        prompt: prompt.text,
        ..Trace::default()
    };
    let options = GenerateOptions::default().max_new_tokens(max_new_tokens);
    let sequence = model.engine.submit(Request { ids: prompt.ids, features, options, logits })?;
    let mut ended = false;
    let mut outputs = Vec::new();
    while !ended {
        model.engine.step(&mut outputs)?;
        for output in outputs.drain(..).filter(|output| output.sequence == sequence) {
            trace.logits.extend(output.prompt_logits);
            trace.generated_ids.extend(output.token);
            ended |= output.finish.is_some();
        }
    }
    Ok(trace)
}
