//! Products of many rows in bf16, by a kernel for Hopper that takes bias, activation and residual along.

use super::CudaBackend;
use super::launch::{Module, Shape};
use super::matmul::Product;
use super::tensor::Element;
use super::tensor_map::TensorMap;

/// Fewer rows are left to others.
const FEWEST_ROWS: usize = 512;
/// Bytes of the rows and columns that are copied at a time, and of what one waits for.
const BOX_BYTES: usize = 64 * 64 * 2;
const BARRIER: usize = 8;
/// Blocks of a kernel.
const THREADS: u32 = 384;

/// A kernel of `many_rows_entries.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    name: &'static str,
    /// Of one warpgroup's tile; both warpgroups take turns.
    rows: usize,
    outputs: usize,
    stages: usize,
    /// Blocks that share a weight's tile.
    cluster: usize,
}

const LARGE: Tile = Tile { name: "128", rows: 128, outputs: 128, stages: 5, cluster: 2 };
const SMALL: Tile = Tile { name: "64", rows: 64, outputs: 128, stages: 8, cluster: 1 };

impl Tile {
    /// The kind whose last tiles leave fewest multiprocessors idle.
    fn of(rows: usize, outputs: usize, multiprocessors: usize) -> Self {
        let cost = |tile: Self| tile.items(rows, outputs).div_ceil(multiprocessors) * tile.rows;
        // A large tile reads less for each of its results.
        if cost(SMALL) * 10 < cost(LARGE) * 9 { SMALL } else { LARGE }
    }

    /// Tiles of a product, rounded up to whole clusters.
    fn items(self, rows: usize, outputs: usize) -> usize {
        rows.div_ceil(self.rows).next_multiple_of(self.cluster) * outputs.div_ceil(self.outputs)
    }

    /// Bytes of shared memory: the ring, both warpgroups' results, barriers.
    fn shared(self) -> usize {
        let boxes = self.rows / 64 + self.outputs / 64;
        let results = 2 * (self.rows / 64) * (self.outputs / 64);
        (self.stages * boxes + results) * BOX_BYTES + (2 * self.stages + 2) * BARRIER
    }
}

/// As `many_rows.cu` declares it.
#[repr(C)]
struct Arguments {
    x: TensorMap,
    weight: TensorMap,
    out: TensorMap,
    residual: TensorMap,
    bias: u64,
    rows: i32,
    inputs: i32,
    outputs: i32,
    residual_rows: i32,
}

/// Starts a product if there is a kernel for it; whether there is.
pub(super) fn start(backend: &CudaBackend, product: &Product<'_>) -> bool {
    let &Product { x, weight, out, residual, residual_rows, bias, gelu } = product;
    let (rows, inputs, outputs) = (x.rows, weight.inputs, weight.outputs);
    let in_bf16 = [x.element, weight.element, out.element].iter().all(|element| *element == Element::Bf16);
    // Rows of whole 16 bytes; a residual that repeats does so at a box's edge.
    let fits = inputs.is_multiple_of(8) && outputs.is_multiple_of(8) && inputs > 0;
    let repeats_in_boxes = residual.is_none() || residual_rows >= rows || residual_rows.is_multiple_of(64);
    if !backend.has_wgmma() || !in_bf16 || rows < FEWEST_ROWS || !fits || !repeats_in_boxes {
        return false;
    }
    let multiprocessors = backend.device.info.multiprocessors as usize;
    let tile = Tile::of(rows, outputs, multiprocessors);
    let map = |pointer, width, rows| TensorMap::of_bf16(&backend.device, pointer, &[width, rows]);
    let to = map(out.pointer(), outputs, rows);
    let arguments = Arguments {
        x: map(x.pointer(), inputs, rows),
        weight: map(weight.data.pointer(), inputs, outputs),
        residual: residual.map_or(to, |residual| map(residual, outputs, residual_rows)),
        out: to,
        bias: bias.unwrap_or(0),
        rows: rows as i32,
        inputs: inputs as i32,
        outputs: outputs as i32,
        residual_rows: if residual.is_some() { residual_rows as i32 } else { 0 },
    };
    let blocks = tile.items(rows, outputs).min(multiprocessors / tile.cluster * tile.cluster);
    let shape = Shape { shared: tile.shared() as u32, ..Shape::new((blocks as u32, 1, 1), THREADS) }.early();
    let activation = if gelu { "gelu" } else { "identity" };
    let kernel = backend.kernel(Module::ManyRows, &format!("many_rows_{}_{activation}", tile.name));
    // Safety: the structure is the kernel's; its maps describe all of what it reads and writes, and a bias has `outputs` numbers.
    unsafe { backend.device.launch_struct("a product of many rows", kernel, shape, &arguments) };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiprocessors_shared_memory_is_enough() {
        for tile in [LARGE, SMALL] {
            assert!(tile.shared() <= 227 << 10, "{tile:?}");
        }
    }

    #[test]
    fn small_tiles_are_for_products_that_large_ones_would_not_fill() {
        assert_eq!(Tile::of(1024, 768, 132), SMALL);
        assert_eq!(Tile::of(11 * 1024, 768, 132), LARGE);
        assert_eq!(LARGE.items(11 * 1024, 768), 4 * 132);
        assert_eq!(LARGE.items(129, 128), 2);
    }
}
