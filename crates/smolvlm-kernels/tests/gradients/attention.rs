//! Attention inside tiles and inside sequences.

use smolvlm_kernels::training::{AttentionBackward, HeadCounts, Rope};
use smolvlm_kernels::{CpuBackend, Format, RopeTable, Segment, TokenBatch, TrainBackend};

use crate::case::{
    Case, Named, check_by_differences, check_on_the_gpu, check_on_the_processor, numbers, of, rng, short, stored,
};

fn turn<B: TrainBackend>(rope: &RopeTable<B>) -> Rope<'_, B> {
    Rope { cos: &rope.cos, sin: &rope.sin }
}

struct Tiles {
    tiles: usize,
    tile_rows: usize,
    heads: usize,
    dim: usize,
    format: Format,
}

impl Tiles {
    fn rows(&self) -> usize {
        self.tiles * self.tile_rows
    }
}

impl Case for Tiles {
    fn inputs(&self) -> Named {
        vec![("qkv", short(numbers(&mut rng(4), self.rows() * 3 * self.heads * self.dim), self.format))]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let qkv = stored(backend, self.rows(), 3 * self.heads * self.dim, of(inputs, "qkv"), self.format);
        backend.download(&backend.tile_attention_keeping(&qkv, self.tile_rows, self.heads).0)
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let qkv = stored(backend, self.rows(), 3 * self.heads * self.dim, of(inputs, "qkv"), self.format);
        let (out, saved) = backend.tile_attention_keeping(&qkv, self.tile_rows, self.heads);
        let dy = backend.upload(self.rows(), self.heads * self.dim, dy);
        let args = AttentionBackward { qkv: &qkv, out: &out, saved: &saved, dy: &dy };
        vec![backend.download(&backend.tile_attention_backward(args, self.tile_rows, self.heads))]
    }

    fn format(&self) -> Format {
        self.format
    }
}

struct Causal {
    lengths: Vec<usize>,
    heads: HeadCounts,
    dim: usize,
    format: Format,
}

impl Causal {
    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn width(&self) -> usize {
        (self.heads.queries + 2 * self.heads.keys) * self.dim
    }

    fn plan<B: TrainBackend>(&self, backend: &B) -> B::Plan {
        let mut batch = TokenBatch { ids: vec![0; self.rows()], ..TokenBatch::default() };
        let mut first = 0;
        for length in &self.lengths {
            batch.segments.push(Segment { rows: first..first + length, start: 0, pages: 0..0 });
            first += length;
        }
        let mut plan = backend.plan();
        backend.fill_sequences(&mut plan, &batch);
        plan
    }

    fn rope<B: TrainBackend>(&self, backend: &B) -> RopeTable<B> {
        let half = self.dim / 2;
        let angle = |i: usize| (i / half) as f32 * 100.0_f32.powf(-((i % half) as f32) / half as f32);
        let angles: Vec<f32> = (0..self.rows() * half).map(angle).collect();
        let of = |f: fn(f32) -> f32| backend.vector(&angles.iter().map(|angle| f(*angle)).collect::<Vec<_>>());
        RopeTable { cos: of(f32::cos), sin: of(f32::sin) }
    }
}

impl Case for Causal {
    fn inputs(&self) -> Named {
        vec![("qkv", short(numbers(&mut rng(6), self.rows() * self.width()), self.format))]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let qkv = stored(backend, self.rows(), self.width(), of(inputs, "qkv"), self.format);
        let (plan, rope) = (self.plan(backend), self.rope(backend));
        backend.download(&backend.causal_attention(&plan, &qkv, self.heads, turn(&rope), self.format).0)
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let qkv = stored(backend, self.rows(), self.width(), of(inputs, "qkv"), self.format);
        let (plan, rope) = (self.plan(backend), self.rope(backend));
        let (out, saved) = backend.causal_attention(&plan, &qkv, self.heads, turn(&rope), self.format);
        let dy = backend.upload(self.rows(), self.heads.queries * self.dim, dy);
        let args = AttentionBackward { qkv: &qkv, out: &out, saved: &saved, dy: &dy };
        vec![backend.download(&backend.causal_attention_backward(&plan, args, self.heads, turn(&rope)))]
    }

    fn format(&self) -> Format {
        self.format
    }
}

#[test]
fn attention_agrees_with_differences() {
    check_by_differences("tiles", &Tiles { tiles: 2, tile_rows: 3, heads: 2, dim: 4, format: Format::F32 });
    let heads = HeadCounts { queries: 4, keys: 2 };
    check_by_differences("sequences", &Causal { lengths: vec![4, 1, 3], heads, dim: 4, format: Format::F32 });
}

#[test]
fn attention_on_the_processor_agrees_with_the_reference() {
    for (tiles, tile_rows, heads, dim) in [(2, 36, 3, 16), (1, 100, 2, 24), (3, 9, 1, 72)] {
        check_on_the_processor("tiles", &Tiles { tiles, tile_rows, heads, dim, format: Format::F32 });
    }
    for (queries, keys, dim) in [(4, 2, 16), (9, 3, 64), (2, 2, 6)] {
        let heads = HeadCounts { queries, keys };
        check_on_the_processor("sequences", &Causal { lengths: vec![37, 1, 130], heads, dim, format: Format::F32 });
    }
}

/// In bfloat16 the GPU has kernels of its own for heads of 64.
#[test]
fn attention_in_bfloat16_on_the_gpu_agrees_with_the_reference() {
    let format = Format::Bf16;
    for (tiles, tile_rows, heads, dim) in
        [(2, 36, 3, 16), (2, 64, 2, 64), (3, 100, 1, 64), (1, 256, 1, 64), (1, 65, 1, 72)]
    {
        let what = format!("{tiles} tiles of {tile_rows}, {heads} heads of {dim}");
        check_on_the_gpu(&what, &Tiles { tiles, tile_rows, heads, dim, format });
    }
    for (queries, keys, dim) in [(4, 2, 16), (3, 1, 64), (2, 2, 64)] {
        let heads = HeadCounts { queries, keys };
        check_on_the_gpu(
            &format!("sequences, {heads:?} of {dim}"),
            &Causal { lengths: vec![37, 1, 130, 64], heads, dim, format },
        );
    }
}

/// The forward pass that is trained is the one that answers.
#[test]
fn attention_without_a_cache_is_that_with_one_bit_for_bit() {
    use smolvlm_kernels::{Backend, CacheShape, PAGE_TOKENS};
    let case = Causal { lengths: vec![70, 5], heads: HeadCounts { queries: 4, keys: 2 }, dim: 16, format: Format::F32 };
    for format in [Format::F32, Format::Bf16] {
        let backend = CpuBackend::new(2).expect("threads start");
        let inputs = case.inputs();
        let qkv = || backend.upload(case.rows(), case.width(), of(&inputs, "qkv"));
        let rope = case.rope(&backend);
        let plan = case.plan(&backend);
        let alone = backend.causal_attention(&plan, &qkv(), case.heads, turn(&rope), format).0;
        let batch = TokenBatch {
            ids: vec![0; case.rows()],
            segments: vec![
                Segment { rows: 0..70, start: 0, pages: 0..2 },
                Segment { rows: 70..75, start: 0, pages: 2..3 },
            ],
            pages: vec![2, 0, 1],
            ..TokenBatch::default()
        };
        assert!(batch.segments[0].rows.len() <= 2 * PAGE_TOKENS);
        let mut cache = backend.cache(CacheShape { layers: 1, kv_heads: 2, head_dim: 16, pages: 3, format });
        let mut plan = backend.plan();
        backend.fill_tokens(&mut plan, &mut cache, &batch);
        let cached = backend.cached_attention(&plan, qkv(), &mut cache, 0, &rope);
        assert!(backend.download(&alone) == backend.download(&cached), "{format:?}");
    }
}
