//! Tiles cut into patches.

use super::shared::SharedRows;
use super::tensor::{Stored, Tensor};
use super::{CpuBackend, Tiles};
use crate::backend::TileBatch;

impl Tiles {
    pub(super) fn fill(&mut self, batch: TileBatch<'_>) {
        self.size = batch.size;
        self.count = batch.tiles.len();
        self.pixel_values.clear();
        self.pixel_values.extend_from_slice(batch.pixel_values);
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
    let width = 3 * patch * patch;
    let mut out = backend.tensor(tiles.count * side * side, width, Stored::F32);
    let shared = SharedRows::new(&mut out);
    // A task is one row of patches.
    backend.threads.run(tiles.count * side, |task| {
        let (tile, patch_row) = (task / side, task % side);
        let pixels = &tiles.pixels[tile * tiles.size * tiles.size * 3..][..tiles.size * tiles.size * 3];
        for patch_column in 0..side {
            // SAFETY: each patch is written once.
            let values = unsafe { shared.segment::<f32>(task * side + patch_column, 0, width) };
            for y in 0..patch {
                let line = &pixels[((patch_row * patch + y) * tiles.size + patch_column * patch) * 3..][..patch * 3];
                for (channel, meaning) in tiles.pixel_values.iter().enumerate() {
                    let target = &mut values[(channel * patch + y) * patch..][..patch];
                    for (value, pixel) in target.iter_mut().zip(line.as_chunks::<3>().0) {
                        *value = meaning[usize::from(pixel[channel])];
                    }
                }
            }
        }
    });
    out
}
