//! Patches, operations that only move rows, and rows that must not meet.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::cpu::InstructionSet;
use smolvlm_kernels::{
    Backend, CacheShape, CpuBackend, FeatureRow, Format, LinearArgs, PatchArgs, ReferenceBackend, TileBatch, TokenBatch,
};

use crate::{Case, FORMATS, Stored, conforms, numbers, tolerance};

struct PatchEmbed {
    format: Format,
    size: usize,
    patch: usize,
    width: usize,
    tiles: Vec<Vec<u8>>,
    weight: Stored,
    bias: Vec<f32>,
    positions: Vec<f32>,
}

impl Case for PatchEmbed {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let pixel_values = [0.9_f32, 1.0, 1.1].map(|scale| std::array::from_fn(|i| scale * (i as f32 / 127.5 - 1.0)));
        let tiles: Vec<&[u8]> = self.tiles.iter().map(Vec::as_slice).collect();
        let mut plan = backend.plan();
        backend.fill_tiles(&mut plan, TileBatch { size: self.size, tiles: &tiles, pixel_values: &pixel_values });
        let side = self.size / self.patch;
        let out = backend.patch_embed(
            &plan,
            PatchArgs {
                weight: &backend.pack(&[self.weight.view()], self.format),
                bias: &backend.vector(&self.bias),
                positions: &backend.upload(side * side, self.width, &self.positions),
                patch: self.patch,
            },
        );
        backend.download(&out)
    }

    fn format(&self) -> Format {
        self.format
    }
}

#[test]
fn patches_equal_the_reference_and_pixels_beyond_the_last_whole_patch_are_unused() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    // The last two have patches for a GPU's kernels that take a line at a time.
    for (size, patch, width, count) in [(24, 4, 48, 3), (29, 7, 20, 3), (40, 8, 24, 5), (128, 16, 72, 9)] {
        let side = size / patch;
        let format = if count > 3 { Format::Bf16 } else { Format::F32 };
        let tiles: Vec<Vec<u8>> = (0..count).map(|_| (0..size * size * 3).map(|_| rng.random()).collect()).collect();
        let mut case = PatchEmbed {
            format,
            size,
            patch,
            width,
            tiles,
            weight: Stored::random(&mut rng, width, 3 * patch * patch),
            bias: numbers(&mut rng, width),
            positions: numbers(&mut rng, side * side * width),
        };
        let before = case.run(&ReferenceBackend);
        if size % patch != 0 {
            let last = case.tiles[0].len() - 1;
            case.tiles[0][last] ^= 0xff;
            assert_eq!(case.run(&ReferenceBackend), before);
        }
        conforms(&format!("patches of {size} / {patch}"), tolerance(format), case);
    }
}

struct MovesRows {
    table: Stored,
    features: Vec<f32>,
}

impl Case for MovesRows {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let width = self.table.cols;
        let mut plan = backend.plan();
        let shape = CacheShape { layers: 1, kv_heads: 1, head_dim: 2, pages: 1, format: Format::Bf16 };
        backend.fill_tokens(
            &mut plan,
            &mut backend.cache(shape),
            &TokenBatch {
                ids: vec![3, 0, 7, 7, 1, 2],
                features: vec![FeatureRow { row: 1, source: 1, index: 2 }, FeatureRow { row: 4, source: 0, index: 0 }],
                outputs: vec![5, 1, 4],
                ..TokenBatch::default()
            },
        );
        let x = backend.embed(&plan, &backend.table(self.table.view(), Format::Bf16));
        let x = backend.scatter_features(
            &plan,
            x,
            &[&backend.upload(2, width, &self.features[20..]), &backend.upload(3, width, &self.features)],
        );
        let gathered = backend.download(&backend.gather_outputs(&plan, &x));
        let grid = backend.upload(36, 1, &self.features[..36]);
        let shuffled = backend.download(&backend.pixel_shuffle(&grid, 6, 3));
        [backend.download(&x), gathered, shuffled].concat()
    }

    fn format(&self) -> Format {
        Format::Bf16
    }
}

#[test]
fn operations_that_move_rows_equal_the_reference_exactly() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let case = MovesRows { table: Stored::random(&mut rng, 8, 20), features: numbers(&mut rng, 60) };
    conforms("moved rows", 0.0, case);
}

/// A product's numbers may not depend on the rows beside it or on the threads: later parts rely on equal bits.
#[test]
fn a_row_is_bit_equal_alone_and_in_any_batch() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    // More inputs than one pass takes in any format.
    let (rows, inputs, outputs) = (131, 1700, 300);
    let x = numbers(&mut rng, rows * inputs);
    let weight = Stored::random(&mut rng, outputs, inputs);
    for set in InstructionSet::available() {
        for format in FORMATS {
            let product = |threads: usize, first: usize, rows: usize| {
                let backend = CpuBackend::with_instruction_set(threads, set).expect("threads start");
                let weight = backend.pack(&[weight.view()], format);
                let x = backend.upload(rows, inputs, &x[first * inputs..(first + rows) * inputs]);
                backend.download(&backend.linear(LinearArgs::new(&x, &weight)))
            };
            let whole = product(2, 0, rows);
            for (threads, first, count) in [(1, 0, rows), (1, 17, 1), (2, 90, 7), (3, 5, 100)] {
                let part = product(threads, first, count);
                let expected = &whole[first * outputs..(first + count) * outputs];
                assert!(part == expected, "{} {format:?}: rows {first}..+{count} with {threads} threads", set.name);
            }
        }
    }
}
