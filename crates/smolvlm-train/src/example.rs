//! What is learned from: token ids, which of them count, and the tiles that they show.

use serde::Deserialize;
use smolvlm::TileRun;
use smolvlm::checkpoint::ModelConfig;
use smolvlm::preprocess::normalise::PixelTable;
use smolvlm_kernels::{FeatureRow, Segment, TileBatch, TokenBatch};

use crate::{Error, Result, data};

/// A tokenised conversation with its pixels.
#[derive(Debug, Clone, Default)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, how much it counts to predict it from those before; the first one's is not looked at. Zero: it is
    /// read and not learned.
    pub weights: Vec<f32>,
    /// Tiles in the order of the image tokens.
    pub tiles: Vec<TileRun>,
}

/// How much a token counts, by how many tokens its reply has: token, square and sample averaging of InternVL 2.5 (Chen et al. 2024,
/// arXiv 2412.05271).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// All tokens count the same, so that a reply counts as much as it is long.
    #[default]
    Tokens,
    /// A reply counts as much as the root of its length.
    Root,
    /// All replies count the same.
    Replies,
}

impl Weighting {
    /// The weight of each of `tokens` tokens of a reply.
    fn of(self, tokens: usize) -> f32 {
        match self {
            Self::Tokens => 1.0,
            Self::Root => 1.0 / (tokens as f32).sqrt(),
            Self::Replies => 1.0 / tokens as f32,
        }
    }
}

impl From<data::Example> for Example {
    /// A sample as data hands it out: every token that counts has a weight of 1.
    fn from(made: data::Example) -> Self {
        Self::weighted(made, Weighting::Tokens)
    }
}

impl Example {
    /// A sample as data hands it out. Tokens that count and follow each other are one reply.
    pub fn weighted(made: data::Example, weighting: Weighting) -> Self {
        let mut weights = Vec::with_capacity(made.counted.len());
        for stretch in made.counted.chunk_by(|a, b| a == b) {
            let weight = if stretch[0] { weighting.of(stretch.len()) } else { 0.0 };
            weights.resize(weights.len() + stretch.len(), weight);
        }
        Self { ids: made.ids, weights, tiles: made.pixels }
    }

    /// How many tiles it shows.
    pub fn tile_count(&self) -> usize {
        self.tiles.iter().map(|run| run.tiles.len()).sum()
    }

    /// Sum of the weights that count.
    pub fn counted(&self) -> f64 {
        self.weights.iter().skip(1).map(|weight| f64::from(*weight)).sum()
    }

    /// Whether the model can take it.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input): says what does not fit.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        let wrong = |message: String| Err(Error::input(message));
        let (ids, weights, text) = (self.ids.len(), self.weights.len(), &config.text);
        if ids == 0 || ids > text.max_positions {
            return wrong(format!("expected 1 to {} tokens, found {ids}", text.max_positions));
        }
        if weights != ids {
            return wrong(format!("expected a weight for each of {ids} tokens, found {weights}"));
        }
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= text.vocab) {
            return wrong(format!("expected token ids below {}, found {id}", text.vocab));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
            return wrong(format!("expected weights of at least 0, found {weight}"));
        }
        let (shown, tiles) = (self.image_tokens(config), self.tile_count());
        if shown != tiles * config.tokens_per_tile() {
            let expected = tiles * config.tokens_per_tile();
            return wrong(format!("expected {expected} image tokens for {tiles} tiles, found {shown}"));
        }
        let bytes = config.vision.image_size.pow(2) * 3;
        let mut each = self.tiles.iter().flat_map(|run| &run.tiles).map(|tile| &tile.rgb);
        if let Some(tile) = each.find(|tile| tile.len() != bytes) {
            let side = config.vision.image_size;
            return wrong(format!("expected {bytes} bytes of a tile of {side} pixels a side, found {}", tile.len()));
        }
        Ok(())
    }

    fn image_tokens(&self, config: &ModelConfig) -> usize {
        self.ids.iter().filter(|id| **id == config.image_token_id).count()
    }
}

/// Several examples as one ragged step.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) batch: TokenBatch,
    /// Of each output row.
    pub(crate) targets: Vec<u32>,
    pub(crate) weights: Vec<f32>,
}

impl Step {
    /// Rows of all examples; `sources` is how many rows of features each part of the tiles becomes, in order.
    pub(crate) fn new(examples: &[Example], config: &ModelConfig, sources: &[usize]) -> Self {
        let mut step = Self::default();
        let mut features = sources
            .iter()
            .enumerate()
            .flat_map(|(source, rows)| (0..*rows).map(move |index| (source as u32, index as u32)));
        for example in examples {
            let first = step.batch.ids.len();
            step.batch.ids.extend_from_slice(&example.ids);
            step.batch.segments.push(Segment { rows: first..step.batch.ids.len(), start: 0, pages: 0..0 });
            for (i, id) in example.ids.iter().enumerate() {
                let row = (first + i) as u32;
                if *id == config.image_token_id
                    && let Some((source, index)) = features.next()
                {
                    step.batch.features.push(FeatureRow { row, source, index });
                }
                if i > 0 && example.weights[i] > 0.0 {
                    step.batch.outputs.push(row - 1);
                    step.targets.push(*id);
                    step.weights.push(example.weights[i]);
                }
            }
        }
        step
    }

    /// Sum of the weights.
    pub(crate) fn counted(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }
}

/// The tiles of all examples in order, at most `most` that mean their values alike at a time.
pub(crate) fn tile_parts(examples: &[Example], most: usize) -> Vec<(&PixelTable, Vec<&[u8]>)> {
    let mut parts: Vec<(&PixelTable, Vec<&[u8]>)> = Vec::new();
    for run in examples.iter().flat_map(|example| &example.tiles) {
        for tile in &run.tiles {
            match parts.last_mut() {
                Some((values, part)) if part.len() < most && **values == run.pixel_values => part.push(&tile.rgb),
                _ => parts.push((&run.pixel_values, vec![&tile.rgb])),
            }
        }
    }
    parts
}

/// A part as a backend takes it.
pub(crate) fn tile_batch<'a>(size: usize, (pixel_values, tiles): &'a (&PixelTable, Vec<&'a [u8]>)) -> TileBatch<'a> {
    TileBatch { size, tiles, pixel_values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_long_replies_count_less_where_that_is_asked_for() {
        let made = || data::Example {
            name: String::new(),
            ids: vec![1; 8],
            counted: vec![false, true, true, true, true, false, false, true],
            pixels: Vec::new(),
        };
        let weights = |weighting| Example::weighted(made(), weighting).weights;
        assert_eq!(weights(Weighting::Tokens), Example::from(made()).weights);
        assert_eq!(weights(Weighting::Root), [0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 1.0]);
        assert_eq!(weights(Weighting::Replies), [0.0, 0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 1.0]);
    }
}
