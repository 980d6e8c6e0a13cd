//! Tile products of every instruction set this machine has: against the portable ones, and rows against themselves.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CHUNK, Dot, PANEL, Panels, Rows, TILE_ROWS, Tile, TileKernels};
use crate::aligned::Aligned;
use crate::cpu::InstructionSet;

/// Of inputs: an odd number, so that no kernel can count on more than whole ones.
const CHUNKS: usize = 3;
/// A row is longer than what is multiplied.
const ROW: usize = (CHUNKS + 1) * CHUNK;
const PANEL_BYTES: usize = CHUNKS * CHUNK * PANEL;
const DOTS: [Dot; 3] = [Dot::F32, Dot::Bf16, Dot::U8I8];

/// Rows and panels of random numbers.
struct Operands {
    dot: Dot,
    rows: Aligned,
    panels: Aligned,
}

impl Operands {
    fn random(dot: Dot, panels: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut fill = |len: usize| {
            let mut bytes = Aligned::zeroed(len);
            for number in bytes.as_chunks_mut::<4>().0 {
                let mut float = || rng.random_range(-1.0_f32..1.0).to_le_bytes();
                *number = match dot {
                    Dot::F32 => float(),
                    Dot::Bf16 => [float(), float()].map(|[_, _, a, b]| [a, b]).as_flattened().try_into().unwrap(),
                    // Both ends of both ranges are common: −128 and 127, 0 and 255.
                    Dot::U8I8 => {
                        std::array::from_fn(|_| [0x80, 0x7f, 0x00, 0xff, rng.random()][rng.random_range(0..5)])
                    }
                };
            }
            bytes
        };
        Self { dot, rows: fill(2 * TILE_ROWS * ROW), panels: fill(panels * PANEL_BYTES) }
    }

    /// Of rows by panels, twice: replaced, then added to.
    fn product(&self, kernels: &TileKernels, rows: Range<usize>, panels: Range<usize>) -> Vec<Tile> {
        let mut tiles = vec![Tile::ZERO; panels.len()];
        let rows = Rows { bytes: &self.rows[rows.start * ROW..], stride: ROW, count: rows.len() };
        let bytes = &self.panels[panels.start * PANEL_BYTES..];
        let panels = Panels { bytes, stride: PANEL_BYTES, count: panels.len() };
        for add in [false, true] {
            kernels.session().multiply(self.dot, rows, panels, CHUNKS, &mut tiles, add);
        }
        tiles
    }
}

/// What an accumulator means, and how far it may be off: integers are exact, of the others 2 × 96 or 192 products of
/// numbers below one are added.
fn number(dot: Dot, sum: f32) -> (f64, f64) {
    match dot {
        Dot::F32 | Dot::Bf16 => (f64::from(sum), 1e-4),
        Dot::U8I8 => (f64::from(sum.to_bits().cast_signed()), 0.0),
    }
}

/// `count` rows by `panels` panels at once, against plain Rust one panel at a time.
fn equals_portable(set: &InstructionSet, operands: &Operands, count: usize, panels: usize) {
    let dot = operands.dot;
    for (panel, found) in operands.product(&set.tiles, 0..count, 0..panels).iter().enumerate() {
        let expected = &operands.product(&TileKernels::portable(), 0..count, panel..panel + 1)[0];
        for row in 0..count {
            for (found, expected) in found.0[row].iter().zip(&expected.0[row]) {
                let ((found, tolerance), (expected, _)) = (number(dot, *found), number(dot, *expected));
                let what = format!("{} {dot:?}: row {row} of {count}, panel {panel} of {panels}", set.name);
                assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn tiles_of_any_number_of_rows_and_panels_equal_the_portable_ones() {
    for set in InstructionSet::available() {
        for dot in DOTS {
            let kernel = set.tiles.of(dot);
            let operands = Operands::random(dot, kernel.few_panels);
            for count in 1..=kernel.rows {
                let most = if count <= kernel.few_rows { kernel.few_panels } else { 1 };
                (1..=most).for_each(|panels| equals_portable(&set, &operands, count, panels));
            }
        }
    }
}

#[test]
fn a_row_of_a_tile_has_the_bits_it_has_alone() {
    let bits = |tile: &Tile, row: usize| tile.0[row].map(f32::to_bits);
    for set in InstructionSet::available() {
        for dot in DOTS {
            let most = set.tiles.of(dot).rows;
            let operands = Operands::random(dot, 1);
            for count in 1..=most {
                let tile = &operands.product(&set.tiles, 0..count, 0..1)[0];
                for row in 0..count {
                    let alone = &operands.product(&set.tiles, row..row + 1, 0..1)[0];
                    assert!(bits(tile, row) == bits(alone, 0), "{} {dot:?}: row {row} of {count}", set.name);
                }
            }
        }
    }
}
