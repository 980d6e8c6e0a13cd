//! Cutting a picture into the squares that the vision tower takes.

use super::geometry::{Size, fit_longest_edge, fit_tiles};
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

/// The tile of `image` at this row and column, from 0.
pub(super) fn cut(image: &Image, row: usize, col: usize, size: usize) -> Tile {
    let lines = image.rgb.chunks_exact(image.width * 3).skip(row * size).take(size);
    let columns = col * size * 3..(col + 1) * size * 3;
    Tile { size, rgb: lines.flat_map(|line| &line[columns.clone()]).copied().collect() }
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
