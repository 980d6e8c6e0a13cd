//! Tiles cut into patches.

use rayon::prelude::*;

use super::tensor::Tensor;
use super::{CpuBackend, Tiles};
use crate::backend::TileBatch;

impl Tiles {
    pub(super) fn fill(&mut self, batch: TileBatch<'_>) {
        self.size = batch.size;
        self.count = batch.tiles.len();
        self.pixel_values = batch.pixel_values.to_vec();
        self.pixels.clear();
        for tile in batch.tiles {
            assert_eq!(tile.len(), batch.size * batch.size * 3, "a tile of {} pixels a side", batch.size);
            self.pixels.extend_from_slice(tile);
        }
    }
}

/// The patches of every tile, row-major, as rows ordered (channel, row, column); pixels that fill no whole patch are
/// left out, as a convolution without padding leaves them.
pub(super) fn unfold(backend: &CpuBackend, tiles: &Tiles, patch: usize) -> Tensor {
    let side = tiles.size / patch;
    let mut out = backend.tensor(tiles.count * side * side, 3 * patch * patch);
    let width = out.width();
    out.data_mut().par_chunks_mut(width).enumerate().for_each(|(row, values)| {
        let (tile, index) = (row / (side * side), row % (side * side));
        let (top, left) = (index / side * patch, index % side * patch);
        let pixels = &tiles.pixels[tile * tiles.size * tiles.size * 3..][..tiles.size * tiles.size * 3];
        for (y, x) in (0..patch).flat_map(|y| (0..patch).map(move |x| (y, x))) {
            let pixel = &pixels[((top + y) * tiles.size + left + x) * 3..][..3];
            for (channel, value) in pixel.iter().enumerate() {
                values[(channel * patch + y) * patch + x] = tiles.pixel_values[channel][usize::from(*value)];
            }
        }
    });
    out
}
