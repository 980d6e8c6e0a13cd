//! Cutting a picture into the squares that the vision tower takes.

use super::geometry::{Size, fit_longest_edge, fit_tiles};
use super::resample::chain::{BAND, Band};
use crate::media::Image;
use crate::{Error, Result};

/// Longest side of a picture that is resized at all, in pixels; bounds the filter's tables.
const MAX_SOURCE_SIDE: usize = 1 << 20;

/// Most tiles cut from one picture. The published sizes need 17 at most, and only 6 rows and columns have tokens.
const MAX_TILES: usize = 1024;

/// One square of pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Side, in pixels.
    pub size: usize,
    /// `[size, size, 3]`, row-major.
    pub rgb: Vec<u8>,
}

/// What will become of a picture of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePlan {
    /// Rows of tiles; 0 when the picture is not split.
    pub rows: usize,
    /// Columns of tiles; 0 when the picture is not split.
    pub cols: usize,
    /// The size it was made for.
    pub source: Size,
    /// The size after the first resize, which keeps the aspect ratio.
    pub fitted: Size,
    /// The size after the second resize, which does not: whole tiles.
    pub gridded: Size,
}

impl ImagePlan {
    /// Tiles the picture becomes: the grid and the global view, or just one.
    pub fn tile_count(&self) -> usize {
        self.rows * self.cols + 1
    }

    /// `resize`, `resize_for_vision_encoder` and `split_images` of the reference, on sizes alone.
    pub(super) fn new(source: Size, edge: usize, tile: usize, split: bool) -> Result<Self> {
        check_source(source)?;
        let fitted = fit_longest_edge(source, edge);
        let gridded = if split { fit_tiles(fitted, tile) } else { Size::square(tile) };
        let is_grid = gridded.width > tile || gridded.height > tile;
        let (rows, cols) = if is_grid { (gridded.height / tile, gridded.width / tile) } else { (0, 0) };
        let plan = Self { rows, cols, source, fitted, gridded };
        if plan.tile_count() > MAX_TILES {
            return Err(Error::usage(format!(
                "a picture of {}×{} pixels would become {} tiles of {tile} pixels, at most {MAX_TILES} are supported: \
                 lower the longest edge (now {edge}) or do not split",
                source.width,
                source.height,
                plan.tile_count()
            )));
        }
        Ok(plan)
    }
}

/// So many black tiles.
pub(super) fn blank(count: usize, size: usize) -> Vec<Tile> {
    (0..count).map(|_| Tile { size, rgb: vec![0; size * size * 3] }).collect()
}

/// The lines of a picture that `tiles`, `columns` in a row, are cut from.
pub(super) fn bands(tiles: &mut [Tile], columns: usize) -> Vec<Band<'_>> {
    let mut bands = Vec::new();
    for (row, tiles) in tiles.chunks_mut(columns).enumerate() {
        let size = tiles[0].size;
        let mut chunks: Vec<_> = tiles.iter_mut().map(|tile| tile.rgb.chunks_mut(size * 3 * BAND)).collect();
        for first in (0..size).step_by(BAND) {
            let lines = row * size + first..row * size + (first + BAND).min(size);
            bands.push(Band { lines, columns: chunks.iter_mut().filter_map(Iterator::next).collect() });
        }
    }
    bands
}

/// Refuses pictures that cannot be resized: empty, absurdly long, or with a buffer that does not fit their size.
pub(super) fn check_image(image: &Image) -> Result<()> {
    check_source(Size::new(image.width, image.height))?;
    if image.width.checked_mul(image.height).and_then(|pixels| pixels.checked_mul(3)) != Some(image.rgb.len()) {
        return Err(Error::input(format!(
            "a picture of {}×{} pixels came with {} bytes instead of three per pixel",
            image.width,
            image.height,
            image.rgb.len()
        )));
    }
    Ok(())
}

fn check_source(source: Size) -> Result<()> {
    let sides = 1..=MAX_SOURCE_SIDE;
    if sides.contains(&source.width) && sides.contains(&source.height) {
        return Ok(());
    }
    Err(Error::input(format!(
        "a picture of {}×{} pixels cannot be resized: each side must have 1 to {MAX_SOURCE_SIDE} pixels",
        source.width, source.height
    )))
}
