//! From open media to image features, a few tiles at a time: memory does not grow with the number of frames.

use std::time::{Duration, Instant};

use super::prepare::{Prepared, PreparedMedium, numbered};
use super::{Progress, SmolVlm};
use crate::Result;
use crate::generate::{Engine, Features};
use crate::preprocess::normalise::PixelTable;
use crate::preprocess::{Preprocessor, Tile};

/// Where the time of encoding went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EncodeTimes {
    /// Decoding files and cutting tiles.
    pub(super) media: Duration,
    /// The vision tower and connector, but for what a device computes while files are decoded.
    pub(super) vision: Duration,
}

/// Receives a prompt's tiles in order.
pub(super) trait TileSink {
    /// `pixel_values` says what each value of each channel means.
    fn tile(&mut self, tile: Tile, pixel_values: &PixelTable) -> Result<()>;
}

/// Decodes a prompt's media in order and hands on their tiles.
pub(super) fn decode(preprocessor: &Preprocessor, prepared: &mut Prepared, sink: &mut dyn TileSink) -> Result<()> {
    let (image_values, frame_values) = (preprocessor.pixel_table(), preprocessor.frame_pixel_table());
    for medium in &mut prepared.media {
        match medium {
            PreparedMedium::Image { file, plan } => {
                for tile in preprocessor.image_tiles(&file.decode()?, plan)? {
                    sink.tile(tile, &image_values)?;
                }
            }
            PreparedMedium::Video(video) => video
                .source
                .read(&video.indices, &mut |frame| sink.tile(preprocessor.frame_tile(&frame.image)?, &frame_values))?,
        }
    }
    Ok(())
}

/// Image features of a batch of prompts.
pub(super) fn encode(model: &mut SmolVlm, prompts: &mut [Prepared]) -> Result<(Vec<Features>, EncodeTimes)> {
    let started = Instant::now();
    let total = prompts.iter().map(Prepared::tiles).sum();
    let mut encoder = Encoder {
        engine: model.engine.as_mut(),
        progress: &mut |done| {
            if let Some(hook) = &mut model.progress {
                hook(Progress::Vision { done, total });
            }
        },
        waiting: Vec::new(),
        pixel_values: None,
        features: Features::default(),
        done: 0,
        vision: Duration::ZERO,
    };
    let mut features = Vec::new();
    let conversations = prompts.len();
    for (i, prompt) in prompts.iter_mut().enumerate() {
        let encoded = decode(&model.processor.preprocessor, prompt, &mut encoder).and_then(|()| encoder.flush());
        encoded.map_err(|error| numbered(error, i, conversations))?;
        features.push(std::mem::take(&mut encoder.features));
    }
    // A device may have computed while media were decoded: only what is left of it counts.
    let decoded = Instant::now();
    encoder.engine.wait()?;
    let vision = encoder.vision + decoded.elapsed();
    Ok((features, EncodeTimes { media: started.elapsed().saturating_sub(vision), vision }))
}

/// Collects tiles and encodes them a few at a time.
struct Encoder<'a> {
    engine: &'a mut dyn Engine,
    progress: &'a mut dyn FnMut(usize),
    waiting: Vec<Tile>,
    pixel_values: Option<PixelTable>,
    features: Features,
    done: usize,
    vision: Duration,
}

impl TileSink for Encoder<'_> {
    fn tile(&mut self, tile: Tile, pixel_values: &PixelTable) -> Result<()> {
        if self.pixel_values.as_ref() != Some(pixel_values) {
            self.flush()?;
            self.pixel_values = Some(*pixel_values);
        }
        self.waiting.push(tile);
        if self.waiting.len() == self.engine.tiles_at_a_time() { self.flush() } else { Ok(()) }
    }
}

impl Encoder<'_> {
    fn flush(&mut self) -> Result<()> {
        let Some(pixel_values) = &self.pixel_values else { return Ok(()) };
        if self.waiting.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let tiles: Vec<&[u8]> = self.waiting.iter().map(|tile| tile.rgb.as_slice()).collect();
        self.features.append(self.engine.encode(&tiles, pixel_values)?);
        self.vision += started.elapsed();
        self.done += self.waiting.len();
        self.waiting.clear();
        (self.progress)(self.done);
        Ok(())
    }
}
