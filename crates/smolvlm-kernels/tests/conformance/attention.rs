//! Attention inside tiles and over pages.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::{
    Backend, CacheShape, Elements, Format, LinearArgs, MatrixView, PAGE_TOKENS, RopeTable, Segment, TokenBatch,
};

use crate::{BF16_TOLERANCE, Case, F32_TOLERANCE, as_stored, conforms, numbers, tolerance};

struct TileAttention {
    format: Format,
    tiles: usize,
    tile_rows: usize,
    heads: usize,
    dim: usize,
    qkv: Vec<f32>,
}

impl Case for TileAttention {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let width = 3 * self.heads * self.dim;
        let qkv = backend.upload(self.tiles * self.tile_rows, width, &self.qkv);
        // A product by one leaves the numbers as the format stores them for attention.
        let one: Vec<u8> = (0..width * width).flat_map(|i| f32::from(i % (width + 1) == 0).to_le_bytes()).collect();
        let one = backend.pack(&[MatrixView::new(width, width, Elements::F32(&one))], self.format);
        let qkv = backend.linear(LinearArgs { for_products: true, ..LinearArgs::new(&qkv, &one) });
        backend.download(&backend.tile_attention(&qkv, self.tile_rows, self.heads))
    }

    fn format(&self) -> Format {
        self.format
    }
}

#[test]
fn attention_inside_tiles_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (tiles, tile_rows, heads, dim) in
        [(1, 36, 3, 16), (2, 64, 2, 64), (3, 81, 2, 72), (1, 300, 1, 64), (1, 200, 1, 130)]
    {
        let numbers: Vec<f32> =
            numbers(&mut rng, tiles * tile_rows * 3 * heads * dim).iter().map(|x| x * 3.0).collect();
        for format in [Format::F32, Format::Bf16] {
            let case = TileAttention { format, tiles, tile_rows, heads, dim, qkv: numbers.clone() };
            // Weights and results are rounded to bfloat16 too.
            let tolerance = if format == Format::F32 { F32_TOLERANCE } else { 6e-3 };
            conforms(&format!("attention of {tiles} × {tile_rows} rows, {heads} × {dim} {format:?}"), tolerance, case);
        }
    }
}

struct CachedAttention {
    heads: usize,
    shape: CacheShape,
    steps: Vec<(TokenBatch, Vec<f32>)>,
}

impl Case for CachedAttention {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        let angles = |f: fn(f32) -> f32| -> Vec<f32> {
            (0..4096 * head_dim / 2).map(|i| f((i / (head_dim / 2)) as f32 / (1 + i % (head_dim / 2)) as f32)).collect()
        };
        let rope = RopeTable { cos: backend.vector(&angles(f32::cos)), sin: backend.vector(&angles(f32::sin)) };
        let mut cache = backend.cache(self.shape);
        let mut plan = backend.plan();
        let mut out = Vec::new();
        for (batch, qkv) in &self.steps {
            let rows = batch.segments.last().expect("a segment").rows.end;
            backend.fill_tokens(&mut plan, &mut cache, batch);
            for layer in 0..self.shape.layers {
                let qkv = as_stored(backend, rows, (self.heads + 2 * kv_heads) * head_dim, qkv, self.shape.format);
                let attended = backend.cached_attention(&plan, qkv, &mut cache, layer, &rope);
                out.extend(backend.download(&attended));
            }
        }
        out
    }

    fn format(&self) -> Format {
        self.shape.format
    }
}

#[test]
fn attention_over_pages_equals_the_reference_for_ragged_chunks() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (heads, kv_heads, head_dim) in [(4, 2, 16), (9, 3, 64), (2, 2, 72)] {
        for format in [Format::F32, Format::Bf16] {
            let shape = CacheShape { layers: 2, kv_heads, head_dim, pages: 8, format };
            let plan: [Vec<(usize, usize)>; 5] = [
                vec![(0, 70), (0, 3)],
                vec![(70, 5), (3, 1)],
                vec![(75, 60)],
                vec![(135, 1), (4, 130)],
                vec![(136, 1), (134, 1)],
            ];
            let steps = plan
                .iter()
                .map(|step| {
                    let (mut row, mut batch) = (0, TokenBatch::default());
                    for (i, (start, len)) in step.iter().enumerate() {
                        // The one sequence's pages run up, the other's down.
                        let all = if step.len() == 1 || i == 0 { [2, 0, 1, 3] } else { [7, 6, 5, 4] };
                        let first = batch.pages.len();
                        batch.pages.extend(&all[..(start + len).div_ceil(PAGE_TOKENS)]);
                        let pages = first..batch.pages.len();
                        batch.segments.push(Segment { rows: row..row + len, start: *start, pages });
                        row += len;
                    }
                    let qkv = numbers(&mut rng, row * (heads + 2 * kv_heads) * head_dim);
                    (batch, qkv)
                })
                .collect();
            let case = CachedAttention { heads, shape, steps };
            // Rotation in fused and unfused arithmetic may round to neighbouring bfloat16 keys.
            let slack = if format == Format::Bf16 { 30.0 } else { 1.0 };
            conforms(
                &format!("paged attention {heads}/{kv_heads} × {head_dim} {format:?}"),
                slack * tolerance(format),
                case,
            );
        }
    }
}

/// One token of each of several sequences, in every place of a tile, and over more than one part of the keys.
#[test]
fn attention_of_one_token_of_each_sequence_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let in_one_part = [0_usize, 1, 14, 15, 16, 63, 64, 130, 255].as_slice();
    for (heads, kv_heads) in [(9, 3), (4, 4), (2, 1), (8, 2)] {
        for pasts in [in_one_part, &[300, 20, 256]] {
            let (mut prompts, mut tokens) = (TokenBatch::default(), TokenBatch::default());
            let (mut row, mut page) = (0, 0);
            for (i, past) in pasts.iter().enumerate() {
                let first = page as usize;
                prompts.pages.extend((page..).take((past + 1).div_ceil(PAGE_TOKENS)));
                page = prompts.pages.len() as u32;
                let pages = first..page as usize;
                if *past > 0 {
                    prompts.segments.push(Segment { rows: row..row + past, start: 0, pages: pages.clone() });
                }
                tokens.segments.push(Segment { rows: i..i + 1, start: *past, pages });
                row += past;
            }
            // The device's order of pages is not that of the sequences.
            prompts.pages.reverse();
            tokens.pages.clone_from(&prompts.pages);
            let width = (heads + 2 * kv_heads) * 64;
            let (before, now) = (numbers(&mut rng, row * width), numbers(&mut rng, pasts.len() * width));
            let shape = CacheShape { layers: 1, kv_heads, head_dim: 64, pages: page as usize, format: Format::Bf16 };
            let case = CachedAttention { heads, shape, steps: vec![(prompts, before), (tokens, now)] };
            // A key that rounded to its neighbour matters more to a row that meets few others.
            conforms(&format!("one token each, {heads}/{kv_heads}, after {pasts:?}"), 60.0 * BF16_TOLERANCE, case);
        }
    }
}
