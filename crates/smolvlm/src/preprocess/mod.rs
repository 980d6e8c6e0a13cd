//! Turns pictures and frames into tiles exactly as the reference processor does. Knows sizes and nothing about text.
//!
//! A still picture is resized to its longest edge, stretched to whole tiles, cut, and followed by a global view; a video
//! frame is resized twice and becomes one tile. Every resize is from 8 bits to 8 bits. Rules come from
//! `image_processing_smolvlm.py` and `video_processing_smolvlm.py`; [`Compat`] selects the release.

mod fields;
pub mod geometry;
pub mod normalise;
pub mod resample;
mod rules;
pub mod sampling;
pub mod settings;
mod tiles;

use self::geometry::{Size, fit_frame};
use self::normalise::PixelTable;
use self::resample::chain::{self, Source};
use self::resample::chains::Chains;
use self::rules::PixelRules;
use self::sampling::SamplingRule;
pub use self::settings::Settings;
pub use self::tiles::{ImagePlan, Tile};
use crate::machine::threads_for;
use crate::media::Image;
use crate::{Compat, Error, Result};

/// What the caller wants otherwise than the checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overrides {
    /// Whether still pictures are split into tiles.
    pub split_images: Option<bool>,
    /// Longer side of pictures and frames after the first resize, in pixels.
    pub longest_edge: Option<usize>,
    /// Most frames taken from one video.
    pub max_frames: Option<usize>,
    /// Frames taken per second of video.
    pub fps: Option<f64>,
}

/// Preprocessing for one checkpoint, one release of the reference and one caller's wishes.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    settings: Settings,
    image: PixelRules,
    frame: PixelRules,
    sampling: SamplingRule,
    chains: Chains,
}

impl Preprocessor {
    /// # Errors
    /// A usage error when an override is out of range.
    pub fn new(mut settings: Settings, compat: Compat, overrides: Overrides) -> Result<Self> {
        overrides.check()?;
        settings.split_images = overrides.split_images.unwrap_or(settings.split_images);
        settings.image.longest_edge = overrides.longest_edge.unwrap_or(settings.image.longest_edge);
        settings.video.longest_edge = overrides.longest_edge.unwrap_or(settings.video.longest_edge);
        settings.max_frames = overrides.max_frames.unwrap_or(settings.max_frames);
        settings.fps = overrides.fps.unwrap_or(settings.fps);
        Ok(Self {
            image: rules::for_images(compat, settings.image.filter),
            frame: rules::for_frames(compat, settings.video.filter),
            sampling: SamplingRule { max_frames: settings.max_frames, fps: settings.fps, skip_seconds: 1.0 },
            settings,
            chains: Chains::default(),
        })
    }

    /// The settings in force, overrides included.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Side of every tile, in pixels.
    pub fn tile_size(&self) -> usize {
        self.settings.image.tile_size
    }

    /// Image tokens per tile.
    pub fn image_seq_len(&self) -> usize {
        self.settings.image_seq_len
    }

    /// What a picture of this size will become.
    ///
    /// # Errors
    /// An input error for sides of zero or of over a million pixels, a usage error for over a thousand tiles.
    pub fn plan_image(&self, width: usize, height: usize) -> Result<ImagePlan> {
        let image = &self.settings.image;
        ImagePlan::new(Size::new(width, height), image.longest_edge, image.tile_size, self.settings.split_images)
    }

    /// The tiles of a picture: row by row, the global view (of the stretched picture) last.
    ///
    /// # Errors
    /// An input error when the picture's buffer does not fit its size, an internal one when `plan` is another picture's.
    pub fn image_tiles(&self, image: &Image, plan: &ImagePlan) -> Result<Vec<Tile>> {
        tiles::check_image(image)?;
        if self.plan_image(image.width, image.height)? != *plan {
            return Err(Error::internal("the plan was made for a picture of another size"));
        }
        let resampler = self.image.resampler;
        let to_grid = self.chains.get(resampler, plan.source, &[plan.fitted, plan.gridded]);
        let (rows, cols, size) = (plan.rows.max(1), plan.cols.max(1), self.tile_size());
        let mut tiles = tiles::blank(rows * cols, size);
        let threads = threads_for(plan.gridded.width * plan.gridded.height * 3);
        to_grid.run(Source::Picture(image), tiles::bands(&mut tiles, cols), threads);
        if plan.rows > 0 {
            let to_tile = self.chains.get(resampler, plan.gridded, &[Size::square(size)]);
            let mut global = vec![0; size * size * 3];
            to_tile.run(Source::Tiles(&tiles, cols), chain::bands(&mut global, size * 3), threads);
            tiles.push(Tile { size, rgb: global });
        }
        Ok(tiles)
    }

    /// The tile of a video frame: resized to the longest edge, then to a square.
    ///
    /// # Errors
    /// An input error when the frame's buffer does not fit its size.
    pub fn frame_tile(&self, image: &Image) -> Result<Tile> {
        tiles::check_image(image)?;
        let fitted = fit_frame(Size::new(image.width, image.height), self.settings.video.longest_edge);
        let (source, size) = (Size::new(image.width, image.height), self.tile_size());
        let to_tile = self.chains.get(self.frame.resampler, source, &[fitted, Size::square(size)]);
        Ok(Tile { size, rgb: to_tile.picture(Source::Picture(image)).rgb })
    }

    /// Indices of the frames to take from a video of `total` frames, `fps` per second, `duration` seconds; ascending.
    pub fn sample_frames(&self, total: usize, fps: f64, duration: f64) -> Vec<usize> {
        self.sampling.indices(total, fps, duration)
    }

    /// Indices of the frames to take from `total` frames that were picked already: all, or `max_frames` evenly spaced.
    pub fn picked_frames(&self, total: usize) -> Vec<usize> {
        self.sampling.all(total)
    }

    /// 8-bit value → number for the vision tower, per colour, for still pictures: `[3][256]`.
    pub fn pixel_table(&self) -> PixelTable {
        self.settings.image.normalisation.table(self.image.formula)
    }

    /// As [`Self::pixel_table`], for video frames; under some releases the last bit differs.
    pub fn frame_pixel_table(&self) -> PixelTable {
        self.settings.video.normalisation.table(self.frame.formula)
    }
}

impl Overrides {
    fn check(&self) -> Result<()> {
        let longest_edge = ("longest edge", self.longest_edge, settings::MAX_EDGE);
        for (what, value, most) in [longest_edge, ("frame count", self.max_frames, settings::MAX_FRAMES)] {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                return Err(Error::usage(format!("the {what} must be from 1 to {most}, not {value}")));
            }
        }
        match self.fps {
            Some(fps) if !(fps > 0.0 && fps <= settings::MAX_FPS) => Err(Error::usage(format!(
                "the frames per second must be above 0 and at most {}, not {fps}",
                settings::MAX_FPS
            ))),
            _ => Ok(()),
        }
    }
}
