//! Conversations that are complete, answers included: what a model learns from.

use std::ops::Range;

use super::encode::{TileSink, decode};
use super::layout::{Ending, Layout, lay_out};
use super::prepare::{Prepared, layouts, open, open_videos, plan};
use super::processor::Processor;
use crate::Result;
use crate::media::image::read_size;
use crate::media::source::MediaSource;
use crate::messages::Messages;
use crate::preprocess::Tile;
use crate::preprocess::normalise::PixelTable;
use crate::prompt::ImageGrid;

/// Neighbouring tiles of a prompt whose values mean the same.
#[derive(Debug, Clone, PartialEq)]
pub struct TileRun {
    /// In prompt order.
    pub tiles: Vec<Tile>,
    /// What each value of each channel of these tiles means: `[3][256]`.
    pub pixel_values: PixelTable,
}

/// A prompt without its pixels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Token ids: `[T]`.
    pub ids: Vec<u32>,
    /// As [`Prepared::replies`].
    pub replies: Vec<Range<usize>>,
    /// Tiles of all pictures, and frames of all videos.
    pub tiles: usize,
    /// Pictures.
    pub images: usize,
    /// Videos.
    pub videos: usize,
    /// Frames that the model sees of all videos.
    pub frames: usize,
}

impl Prepared {
    /// Decodes the media in prompt order. Neighbours with equal pixel tables share one entry.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) for what cannot be decoded.
    pub fn read_tiles(&mut self, processor: &Processor) -> Result<Vec<TileRun>> {
        let mut media = TileRuns(Vec::new());
        decode(&processor.preprocessor, self, &mut media)?;
        Ok(media.0)
    }
}

/// Tiles as they come, cut where the meaning of their values changes.
struct TileRuns(Vec<TileRun>);

impl TileSink for TileRuns {
    fn tile(&mut self, tile: Tile, pixel_values: &PixelTable) -> Result<()> {
        match self.0.last_mut() {
            Some(run) if run.pixel_values == *pixel_values => run.tiles.push(tile),
            _ => self.0.push(TileRun { tiles: vec![tile], pixel_values: *pixel_values }),
        }
        Ok(())
    }
}

/// See [`Processor::prepare_complete`].
pub(super) fn prepare_complete(processor: &Processor, messages: &Messages, ending: Ending) -> Result<Prepared> {
    open(processor, messages)?.write(processor, messages, ending)
}

/// See [`Processor::outline_complete`].
pub(super) fn outline_complete(processor: &Processor, messages: &Messages, ending: Ending) -> Result<Outline> {
    let limits = &processor.media.limits;
    let grid = |source: &MediaSource| {
        let (width, height) = read_size(source, limits, processor.compat)?;
        plan(processor, &source.name(), width, height).map(|plan| (ImageGrid::from(&plan), plan.tile_count()))
    };
    let (grids, counts): (Vec<_>, Vec<_>) =
        messages.images().map(grid).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let videos = layouts(&open_videos(processor, messages)?);
    let Layout { ids, replies, .. } = lay_out(processor, messages, &grids, &videos, ending)?;
    let frames = videos.iter().map(|video| video.times.len()).sum();
    let tiles = counts.iter().sum::<usize>() + frames;
    Ok(Outline { ids, replies, tiles, images: grids.len(), videos: videos.len(), frames })
}
