//! What only a GPU's backend has: a way to decode one token at once, held to the same model composed of the seam's operations, and memory
//! of its own that can run out.
//!
//! `SMOLVLM_TEST_CUDA` asks for the first GPU.

#![allow(clippy::print_stdout, reason = "a test says what it did not check")]

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::{
    Activation, Backend, CacheShape, CudaBackend, DecoderLayer, DecoderWeights, Elements, Format, LinearArgs,
    MatrixView, Norm, PAGE_TOKENS, RopeTable, Segment, TokenBatch,
};

const ASK_FOR_GPU: &str = "SMOLVLM_TEST_CUDA";
const POSITIONS: usize = 400;
const EPS: f32 = 1e-5;
/// Both ways round to bfloat16 between operations, at different places.
const TOLERANCE: f32 = 3e-2;

#[derive(Clone, Copy)]
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mlp: usize,
    layers: usize,
    vocab: usize,
}

/// The published models' shapes, and smaller ones whose numbers divide nothing evenly.
const SIZES: [Sizes; 4] = [
    Sizes { hidden: 576, heads: 9, kv_heads: 3, head_dim: 64, mlp: 1536, layers: 3, vocab: 1000 },
    Sizes { hidden: 960, heads: 15, kv_heads: 5, head_dim: 64, mlp: 2560, layers: 2, vocab: 777 },
    Sizes { hidden: 112, heads: 8, kv_heads: 2, head_dim: 16, mlp: 208, layers: 5, vocab: 259 },
    Sizes { hidden: 256, heads: 8, kv_heads: 4, head_dim: 32, mlp: 688, layers: 4, vocab: 2050 },
];

struct Layer<B: Backend> {
    norm1: B::Vector,
    qkv: B::Weight,
    out: B::Weight,
    norm2: B::Vector,
    gate_up: B::Weight,
    down: B::Weight,
}

impl<B: Backend> Layer<B> {
    fn weights(&self) -> DecoderLayer<'_, B> {
        let Self { norm1, qkv, out, norm2, gate_up, down } = self;
        DecoderLayer { norm1, qkv, out, norm2, gate_up, down }
    }
}

struct Text<B: Backend> {
    sizes: Sizes,
    embeddings: B::Table,
    layers: Vec<Layer<B>>,
    norm: B::Vector,
    head: B::Weight,
    rope: RopeTable<B>,
}

fn matrix(rng: &mut impl Rng, rows: usize, cols: usize) -> Vec<u8> {
    let scale = (3.0 / cols as f32).sqrt();
    (0..rows * cols).flat_map(|_| rng.random_range(-scale..scale).to_le_bytes()).collect()
}

impl<B: Backend> Text<B> {
    fn random(backend: &B, sizes: Sizes, rng: &mut impl Rng) -> Self {
        let Sizes { hidden, heads, kv_heads, head_dim, mlp, layers, vocab } = sizes;
        let pack = |rng: &mut _, rows, cols| {
            let bytes = matrix(rng, rows, cols);
            backend.pack(&[MatrixView::new(rows, cols, Elements::F32(&bytes))], Format::Bf16)
        };
        let norm = |rng: &mut ChaCha8Rng| -> B::Vector {
            backend.vector(&(0..hidden).map(|_| rng.random_range(0.5..1.5)).collect::<Vec<f32>>())
        };
        let mut rng = ChaCha8Rng::seed_from_u64(rng.random());
        let rng = &mut rng;
        let layers = (0..layers).map(|_| {
            let (gate, up) = (matrix(rng, mlp, hidden), matrix(rng, mlp, hidden));
            let view = |bytes| MatrixView::new(mlp, hidden, Elements::F32(bytes));
            Layer {
                norm1: norm(rng),
                qkv: pack(rng, (heads + 2 * kv_heads) * head_dim, hidden),
                out: pack(rng, hidden, heads * head_dim),
                norm2: norm(rng),
                gate_up: backend.pack_gate_up(view(&gate), view(&up), Format::Bf16),
                down: pack(rng, hidden, mlp),
            }
        });
        let layers = layers.collect();
        let table = matrix(rng, vocab, hidden);
        let half = head_dim / 2;
        let angle = |i: usize| (i / half) as f32 * 100.0_f32.powf(-((i % half) as f32) / half as f32);
        let angles: Vec<f32> = (0..POSITIONS * half).map(angle).collect();
        let of = |function: fn(f32) -> f32| angles.iter().map(|angle| function(*angle)).collect::<Vec<f32>>();
        Self {
            sizes,
            embeddings: backend.table(MatrixView::new(vocab, hidden, Elements::F32(&table)), Format::Bf16),
            layers,
            norm: norm(rng),
            head: pack(rng, vocab, hidden),
            rope: RopeTable { cos: backend.vector(&of(f32::cos)), sin: backend.vector(&of(f32::sin)) },
        }
    }

    fn weights(&self) -> DecoderWeights<'_, B> {
        DecoderWeights {
            embeddings: &self.embeddings,
            layers: self.layers.iter().map(Layer::weights).collect(),
            norm: &self.norm,
            head: &self.head,
            eps: EPS,
            rope: &self.rope,
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
        }
    }

    fn cache(&self, backend: &B) -> B::Cache {
        backend.cache(CacheShape {
            layers: self.layers.len(),
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
            pages: 64,
            format: Format::Bf16,
        })
    }

    /// Logits of the last token.
    fn composed(&self, backend: &B, plan: &B::Plan, cache: &mut B::Cache) -> B::Tensor {
        let rms = |weight| Some(Norm::Rms { weight, eps: EPS });
        let body = || {
            let mut x = backend.embed(plan, &self.embeddings);
            for (i, layer) in self.layers.iter().enumerate() {
                let qkv = backend.linear(LinearArgs { norm: rms(&layer.norm1), ..LinearArgs::new(&x, &layer.qkv) });
                let attended = backend.cached_attention(plan, qkv, cache, i, &self.rope);
                x = backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&attended, &layer.out) });
                let activation = Activation::SwiGlu;
                let h = backend.linear(LinearArgs {
                    norm: rms(&layer.norm2),
                    activation,
                    for_products: true,
                    ..LinearArgs::new(&x, &layer.gate_up)
                });
                x = backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&h, &layer.down) });
            }
            let x = backend.gather_outputs(plan, &x);
            backend.linear(LinearArgs { norm: rms(&self.norm), reported: true, ..LinearArgs::new(&x, &self.head) })
        };
        backend.step(plan, body).expect("a step")
    }
}

/// One sequence's next tokens.
fn batch(ids: &[u32], start: usize, pages: &[u32]) -> TokenBatch {
    let pages = &pages[..(start + ids.len()).div_ceil(PAGE_TOKENS)];
    TokenBatch {
        ids: ids.to_vec(),
        segments: vec![Segment { rows: 0..ids.len(), start, pages: 0..pages.len() }],
        pages: pages.to_vec(),
        features: Vec::new(),
        outputs: vec![ids.len() as u32 - 1],
    }
}

fn gpu() -> Option<CudaBackend> {
    let asked = std::env::var_os(ASK_FOR_GPU).is_some();
    if !asked {
        println!("not checked: {ASK_FOR_GPU} is not set");
    }
    asked.then(|| CudaBackend::new(0, None).expect("a GPU"))
}

fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).expect("logits") as u32
}

/// Both ways side by side: a prompt, then tokens that follow the model's own choice, do not follow it, or come after a step of
/// another sequence.
struct SideBySide<'a> {
    backend: &'a CudaBackend,
    text: &'a Text<CudaBackend>,
    decoder: <CudaBackend as Backend>::Decoder,
    plan: <CudaBackend as Backend>::Plan,
    caches: [<CudaBackend as Backend>::Cache; 2],
}

impl SideBySide<'_> {
    /// Computes a prompt in both caches.
    fn prompt(&mut self, ids: &[u32], pages: &[u32]) {
        let tokens = batch(ids, 0, pages);
        for cache in &mut self.caches {
            self.backend.fill_tokens(&mut self.plan, cache, &tokens);
            self.text.composed(self.backend, &self.plan, cache);
        }
    }

    /// Decodes one token in both ways and returns the choice of the decoder.
    fn token(&mut self, what: &str, id: u32, position: usize, pages: &[u32]) -> u32 {
        let tokens = batch(&[id], position, pages);
        let [at_once, composed] = &mut self.caches;
        self.backend.fill_tokens(&mut self.plan, at_once, &tokens);
        let logits = self.backend.decode(&self.plan, &self.decoder, at_once).expect("one token").expect("a step");
        let mut choice = Vec::new();
        self.backend.largest_into(&logits, &mut choice);
        let found = self.backend.download(&logits);
        assert_eq!(choice, [largest(&found)], "{what}: the likeliest token");
        drop(logits);
        // Every other composed step comes between two of the decoder, which must not mind.
        self.backend.fill_tokens(&mut self.plan, composed, &tokens);
        let expected = self.backend.download(&self.text.composed(self.backend, &self.plan, composed));
        self.backend.failure().expect("the GPU works");
        let scale = expected.iter().fold(1e-6_f32, |most, logit| most.max(logit.abs()));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= TOLERANCE * scale, "{what}: logit {i} is {found}, expected {expected}");
        }
        choice[0]
    }

    /// The decoder's own continuation of a prompt, without anything in between: launches that run ahead are used.
    fn continuation(&mut self, prompt: &[u32], pages: &[u32], count: usize) -> Vec<u32> {
        self.prompt(prompt, pages);
        let (mut ids, mut next, mut choice) = (Vec::new(), 1, Vec::new());
        for i in 0..count {
            self.backend.fill_tokens(&mut self.plan, &mut self.caches[0], &batch(&[next], prompt.len() + i, pages));
            let logits = self.backend.decode(&self.plan, &self.decoder, &mut self.caches[0]);
            self.backend.largest_into(&logits.expect("one token").expect("a step"), &mut choice);
            next = choice[0];
            ids.push(next);
        }
        self.backend.failure().expect("the GPU works");
        ids
    }
}

#[test]
fn a_token_at_once_equals_the_composed_step() {
    let Some(backend) = gpu() else { return };
    for (i, sizes) in SIZES.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(i as u64);
        let text = Text::random(&backend, sizes, &mut rng);
        let Some(decoder) = backend.decoder(&text.weights()) else {
            println!("not checked: this GPU has no such way for a width of {}", sizes.hidden);
            continue;
        };
        let caches = [text.cache(&backend), text.cache(&backend)];
        let mut both = SideBySide { backend: &backend, text: &text, decoder, plan: backend.plan(), caches };
        let mut word = || rng.random_range(0..sizes.vocab as u32);
        let prompt: Vec<u32> = (0..50).map(|_| word()).collect();
        let pages = [3, 0, 7, 5, 9, 2];
        both.prompt(&prompt, &pages);
        let mut next = word();
        // Over two boundaries of pages.
        for position in 50..200 {
            let chosen = both.token(&format!("{} wide at {position}", sizes.hidden), next, position, &pages);
            next = if position % 3 == 0 { word() } else { chosen };
        }
        both.token("a sequence's first token", word(), 0, &[1]);
    }
}

#[test]
fn launches_that_run_ahead_change_nothing() {
    let Some(backend) = gpu() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let sizes = SIZES[0];
    let text = Text::random(&backend, sizes, &mut rng);
    let Some(decoder) = backend.decoder(&text.weights()) else { return };
    let caches = [text.cache(&backend), text.cache(&backend)];
    let mut both = SideBySide { backend: &backend, text: &text, decoder, plan: backend.plan(), caches };
    let mut prompt = || (0..90).map(|_| rng.random_range(0..sizes.vocab as u32)).collect::<Vec<u32>>();
    let (first, second) = (prompt(), prompt());
    let pages = [4, 8, 1, 6, 0];
    let expected = both.continuation(&first, &pages, 150);
    // One token at a time with a step in between gives what an undisturbed run gives: nothing that ran ahead was stale.
    both.prompt(&first, &pages);
    let mut next = 1;
    for (i, expected) in expected.iter().take(80).enumerate() {
        next = both.token(&format!("token {i}"), next, first.len() + i, &pages);
        assert_eq!(next, *expected, "token {i}");
    }
    // Another sequence in the same pages, of the same length: what ran ahead of the first is not its.
    let other = both.continuation(&second, &pages, 150);
    assert_ne!(other, expected);
    assert_eq!(both.continuation(&first, &pages, 150), expected);
}

#[test]
fn memory_that_runs_out_is_an_error_that_says_so_and_work_goes_on() {
    let Some(backend) = gpu() else { return };
    // 16 MiB a page.
    let shape = CacheShape { layers: 64, kv_heads: 16, head_dim: 64, pages: 1 << 15, format: Format::Bf16 };
    let (mut cache, mut plan) = (backend.cache(shape), backend.plan());
    backend.fill_tokens(&mut plan, &mut cache, &batch(&[1], 0, &[(1 << 15) - 1]));
    let error = backend.failure().expect_err("512 GiB of pages");
    assert!(error.out_of_memory, "{error}");
    assert!(error.message.contains("allocating"), "{error}");
    let x = backend.upload(1, 2, &[3.0, 4.0]);
    assert_eq!(backend.download(&x), [3.0, 4.0]);
    backend.failure().expect("the GPU goes on");
}
