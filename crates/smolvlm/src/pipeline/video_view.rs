//! A video as the model will see it, without the model.

use super::MediaOptions;
use super::prepare::{PreparedVideo, open_prepared};
use crate::Result;
use crate::compat::Compat;
use crate::media::Frame;
use crate::media::source::MediaSource;
use crate::media::video::StreamFacts;
use crate::preprocess::{Preprocessor, Settings, Tile};

/// The frames of a video that a model sees: which they are, when they are shown, and what they become.
pub struct VideoView {
    preprocessor: Preprocessor,
    video: PreparedVideo,
}

impl VideoView {
    /// Opens a video as a model with these settings does. Nothing is decoded yet.
    ///
    /// # Errors
    /// As [`open_video`](crate::media::video::open_video), and a usage error for overrides out of range.
    pub fn open(source: &MediaSource, settings: Settings, media: &MediaOptions, compat: Compat) -> Result<Self> {
        let preprocessor = Preprocessor::new(settings, compat, media.overrides)?;
        let video = open_prepared(&preprocessor, media, compat, source)?;
        Ok(Self { preprocessor, video })
    }

    /// What the container and stream say.
    pub fn facts(&self) -> &StreamFacts {
        self.video.source.facts()
    }

    /// Indices of the frames, ascending.
    pub fn indices(&self) -> &[usize] {
        &self.video.indices
    }

    /// Seconds that the prompt prints for each frame.
    pub fn times(&self) -> &[f64] {
        &self.video.times
    }

    /// Seconds that the stream itself says of each frame.
    pub fn stream_times(&self) -> Vec<f64> {
        let all = self.video.source.timestamps();
        self.video.indices.iter().map(|&index| all[index]).collect()
    }

    /// Decodes the frames in order and hands over each with the tile it becomes.
    ///
    /// # Errors
    /// `Input` for what cannot be decoded, and whatever `sink` returns.
    pub fn read(&mut self, sink: &mut dyn FnMut(Frame, Tile) -> Result<()>) -> Result<()> {
        let Self { preprocessor, video } = self;
        video.source.read(&video.indices, &mut |frame| {
            let tile = preprocessor.frame_tile(&frame.image)?;
            sink(frame, tile)
        })
    }
}
