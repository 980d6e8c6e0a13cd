//! What this machine can do at most, measured: the figures that benchmarks are shares of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::CpuBackend;
use super::matmul::{PANEL, Rows, TILE_ROWS, Tile};
use crate::aligned::Aligned;

/// How long each figure is measured.
const MEASURE: Duration = Duration::from_millis(150);
/// Inputs of the product that is repeated: everything stays in the first-level cache.
const INPUTS: usize = 64;
/// Bytes read for the bandwidth: more than any cache.
const BANDWIDTH_BYTES: usize = 512 << 20;

/// Measured peaks, over all threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Floating-point operations per second of f32 products.
    pub f32_flops: f64,
    /// The same of bfloat16 products.
    pub bf16_flops: f64,
    /// Bytes per second read from memory.
    pub read_bandwidth: f64,
}

impl CpuBackend {
    /// Measures this machine's peaks with the backend's instruction set and threads; takes about a second.
    pub fn measure_peak(&self) -> Peak {
        let tiles = &self.isa.tiles;
        let operations = (2 * TILE_ROWS * PANEL * INPUTS) as f64;
        let f32_flops = self.rate(|| {
            let (a, panel) = (vec![1e-3_f32; TILE_ROWS * INPUTS], Aligned::<f32>::zeroed(INPUTS * PANEL));
            move |tile: &mut Tile| tiles.f32(rows(black_box(&a)), &panel, INPUTS, tile, true)
        });
        let bf16_flops = self.rate(|| {
            let (a, panel) = (vec![0x3a83_u16; TILE_ROWS * INPUTS], Aligned::<u16>::zeroed(INPUTS * PANEL));
            move |tile: &mut Tile| tiles.bf16(rows(black_box(&a)), &panel, INPUTS, tile, true)
        });
        Peak {
            f32_flops: f32_flops * operations,
            bf16_flops: bf16_flops * operations,
            read_bandwidth: self.read_bandwidth(),
        }
    }

    /// Products per second of all threads together.
    fn rate<F: FnMut(&mut Tile)>(&self, product: impl Fn() -> F + Sync) -> f64 {
        let per_thread = self.threads.broadcast(|_| {
            let mut product = product();
            let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
            let (started, mut count) = (Instant::now(), 0_u64);
            while started.elapsed() < MEASURE {
                (0..1000).for_each(|_| product(black_box(&mut tile)));
                count += 1000;
            }
            count as f64 / started.elapsed().as_secs_f64()
        });
        per_thread.iter().sum()
    }

    fn read_bandwidth(&self) -> f64 {
        let data = vec![1_u64; BANDWIDTH_BYTES / size_of::<u64>()];
        let part = data.len().div_ceil(self.threads());
        let read = || -> u64 {
            self.threads.install(|| {
                data.par_chunks(part).map(|part| part.iter().fold(0, |sum: u64, x| sum.wrapping_add(*x))).sum()
            })
        };
        black_box(read());
        let started = Instant::now();
        let rounds = 3;
        (0..rounds).for_each(|_| {
            black_box(read());
        });
        (rounds * BANDWIDTH_BYTES) as f64 / started.elapsed().as_secs_f64()
    }
}

fn rows<T>(data: &[T]) -> Rows<'_, T> {
    Rows { data, stride: INPUTS, count: TILE_ROWS }
}
