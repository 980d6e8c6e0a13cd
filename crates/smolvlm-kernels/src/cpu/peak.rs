//! What this machine can do at most, measured: the figures that benchmarks are shares of.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::CpuBackend;
use super::matmul::{CHUNK, Dot, PANEL, Panels, Rows, TILE_ROWS, Tile};
use crate::aligned::Aligned;
use crate::backend::Ceilings;
use crate::view::Format;

/// How long each figure is measured.
const MEASURE: Duration = Duration::from_millis(150);
/// Chunks of inputs of the product that is repeated: everything stays in the first-level cache.
const CHUNKS: usize = 4;
/// Bytes read for the bandwidth: more than most caches.
const BANDWIDTH_BYTES: usize = 512 << 20;

/// Measured peaks, over all threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Floating-point operations per second of f32 products.
    pub f32_flops: f64,
    /// The same of bfloat16 products.
    pub bf16_flops: f64,
    /// Operations per second of products of 8-bit integers.
    pub q8_ops: f64,
    /// Bytes per second read from memory.
    pub read_bandwidth: f64,
}

impl Peak {
    /// What holds back a model in a format.
    pub(super) fn ceilings(&self, format: Format) -> Ceilings {
        let (matrices, attention) = match format {
            Format::F32 => (self.f32_flops, self.f32_flops),
            Format::Bf16 => (self.bf16_flops, self.bf16_flops),
            Format::Q8 | Format::Q4 => (self.q8_ops, self.bf16_flops),
        };
        Ceilings { matrices, attention, memory: self.read_bandwidth }
    }
}

impl CpuBackend {
    /// Measures this machine's peaks with the backend's instruction set and threads; takes about a second.
    pub fn measure_peak(&self) -> Peak {
        Peak {
            f32_flops: self.rate(Dot::F32, 4),
            bf16_flops: self.rate(Dot::Bf16, 2),
            q8_ops: self.rate(Dot::U8I8, 1),
            read_bandwidth: self.read_bandwidth(),
        }
    }

    /// Operations per second of all threads together, on numbers of so many bytes.
    fn rate(&self, dot: Dot, number: usize) -> f64 {
        let rows = self.isa.tiles.of(dot).rows;
        let operations = (2 * rows * PANEL * CHUNKS * CHUNK / number) as f64;
        let total = Mutex::new(0.0);
        // Each thread takes one task, since all last equally long.
        self.threads.run(self.threads.count(), |_| {
            // 0x3c3c3c3c: small numbers in every format.
            let mut a = Aligned::zeroed(TILE_ROWS * CHUNKS * CHUNK);
            let mut panel = Aligned::zeroed(PANEL * CHUNKS * CHUNK);
            a.fill(0x3c);
            panel.fill(0x3c);
            let session = self.isa.tiles.session();
            let mut tiles = [Tile::ZERO];
            let (started, mut count) = (Instant::now(), 0_u64);
            while started.elapsed() < MEASURE {
                for _ in 0..1000 {
                    let rows = Rows { bytes: black_box(&a), stride: CHUNKS * CHUNK, count: rows };
                    let panels = Panels { bytes: &panel, stride: 0, count: 1 };
                    session.multiply(dot, rows, panels, CHUNKS, black_box(&mut tiles), false);
                }
                count += 1000;
            }
            let rate = count as f64 * operations / started.elapsed().as_secs_f64();
            *total.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += rate;
        });
        total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read_bandwidth(&self) -> f64 {
        let data = vec![1_u64; BANDWIDTH_BYTES / size_of::<u64>()];
        let part = data.len().div_ceil(self.threads());
        let read = || {
            self.threads.run(self.threads(), |i| {
                let part = &data[(i * part).min(data.len())..((i + 1) * part).min(data.len())];
                black_box(part.iter().fold(0, |sum: u64, x| sum.wrapping_add(*x)));
            });
        };
        read();
        let started = Instant::now();
        let rounds = 3;
        (0..rounds).for_each(|_| read());
        (rounds * BANDWIDTH_BYTES) as f64 / started.elapsed().as_secs_f64()
    }
}
