//! Every operation, on every instruction set that this machine has, against the scalar reference.
//!
//! Sets that this machine lacks are named in the output of `every_instruction_set_of_this_machine_is_tested`.

#![allow(clippy::print_stdout, reason = "a test says what it did not check")]

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::cpu::InstructionSet;
use smolvlm_kernels::{
    Activation, Backend, CacheShape, CpuBackend, CudaBackend, Draw, DrawRules, Elements, FeatureRow, Format,
    LinearArgs, MatrixView, Norm, PAGE_TOKENS, PatchArgs, ReferenceBackend, RopeTable, Segment, TileBatch, TokenBatch,
    candidates, drawn,
};

/// Sums of up to 3,000 products of numbers around one, in f32, in any order.
const F32_TOLERANCE: f32 = 2e-5;
/// The products are the same as the reference's; hardware may flush denormals and rounds pairs.
const BF16_TOLERANCE: f32 = 1e-4;
/// Two roundings to eight bits.
const GPU_BF16_TOLERANCE: f32 = 1.2e-2;
/// Set it to run every case on the first GPU too.
const ASK_FOR_GPU: &str = "SMOLVLM_TEST_CUDA";

const FORMATS: [Format; 4] = [Format::F32, Format::Bf16, Format::Q8, Format::Q4];

const SHAPES: [(usize, usize, usize); 10] = [
    (0, 64, 64),
    (70, 3200, 100),
    (1, 64, 64),
    (1, 576, 576),
    (2, 33, 65),
    (5, 130, 49),
    (6, 64, 7),
    (7, 96, 200),
    (97, 48, 144),
    (200, 588, 72),
];

fn backends() -> Vec<CpuBackend> {
    let sets = InstructionSet::available();
    sets.into_iter().map(|set| CpuBackend::with_instruction_set(2, set).expect("threads start")).collect()
}

fn numbers(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
}

/// Numbers as the bytes of a file.
struct Stored {
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Stored {
    fn random(rng: &mut impl Rng, rows: usize, cols: usize) -> Self {
        let bytes = numbers(rng, rows * cols).iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { rows, cols, bytes }
    }

    fn view(&self) -> MatrixView<'_> {
        MatrixView::new(self.rows, self.cols, Elements::F32(&self.bytes))
    }
}

/// Compares relative to the largest number expected.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let scale = expected.iter().fold(1e-6_f32, |max, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "{what}: number {i} is {found}, expected {expected}");
    }
}

fn tolerance(format: Format) -> f32 {
    match format {
        Format::F32 => F32_TOLERANCE,
        Format::Bf16 => BF16_TOLERANCE,
        // Sums of integers are exact; an activation between two of them may fall to either side.
        Format::Q8 | Format::Q4 => 1e-2,
    }
}

/// The GPU, where one is asked for. One test at a time uses it.
fn gpu() -> Option<MutexGuard<'static, CudaBackend>> {
    static GPU: OnceLock<Option<Mutex<CudaBackend>>> = OnceLock::new();
    let asked = || std::env::var_os(ASK_FOR_GPU).is_some();
    let backend = GPU.get_or_init(|| asked().then(|| Mutex::new(CudaBackend::new(0, None).expect("a GPU"))));
    backend.as_ref().map(|backend| backend.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `case` on the reference, on every CPU backend and on the GPU, if there is one, and compares.
fn conforms(what: &str, tolerance: f32, case: impl Case) {
    let expected = case.run(&ReferenceBackend);
    for backend in backends() {
        let what = format!("{what} on {}", backend.instruction_set().name);
        assert_close(&what, &case.run(&backend), &expected, tolerance);
    }
    let on_gpu = match case.format() {
        Format::F32 => tolerance,
        // Results and what lies between operations are stored in bfloat16.
        Format::Bf16 => tolerance.max(GPU_BF16_TOLERANCE),
        Format::Q8 | Format::Q4 => return,
    };
    if let Some(backend) = gpu() {
        let found = case.run(&*backend);
        backend.failure().expect("the GPU works");
        assert_close(&format!("{what} on {}", backend.info().name), &found, &expected, on_gpu);
    }
}

/// One operation with its inputs, for any backend.
trait Case {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32>;
    /// How its weights, or what stands for them, are stored.
    fn format(&self) -> Format;
}

struct Linear {
    x: (usize, Vec<f32>),
    weight: Stored,
    second: Option<Stored>,
    bias: Option<Vec<f32>>,
    norm: Option<(Vec<f32>, Option<Vec<f32>>)>,
    residual: Option<Vec<f32>>,
    activation: Activation,
    format: Format,
}

impl Case for Linear {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let x = backend.upload(self.x.0, self.weight.cols, &self.x.1);
        let weight = match &self.second {
            Some(up) => backend.pack_gate_up(self.weight.view(), up.view(), self.format),
            None => backend.pack(&[self.weight.view()], self.format),
        };
        let bias = self.bias.as_ref().map(|bias| backend.vector(bias));
        let norm = self.norm.as_ref().map(|(w, b)| (backend.vector(w), b.as_ref().map(|b| backend.vector(b))));
        let residual = self.residual.as_ref().map(|r| backend.upload(self.x.0, self.weight.rows, r));
        let out = backend.linear(LinearArgs {
            bias: bias.as_ref(),
            norm: norm.as_ref().map(|(weight, bias)| match bias {
                Some(bias) => Norm::Layer { weight, bias, eps: 1e-6 },
                None => Norm::Rms { weight, eps: 1e-5 },
            }),
            activation: self.activation,
            residual: residual.as_ref(),
            ..LinearArgs::new(&x, &weight)
        });
        backend.download(&out)
    }

    fn format(&self) -> Format {
        self.format
    }
}

#[test]
fn every_instruction_set_of_this_machine_is_tested() {
    let names: Vec<_> = InstructionSet::available().iter().map(|set| set.name).collect();
    for name in InstructionSet::NAMES {
        println!("{name}: {}", if names.contains(&name) { "tested" } else { "absent on this machine" });
    }
    assert!(names.contains(&"portable"));
}

#[test]
fn a_linear_layer_with_each_norm_and_epilogue_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (rows, inputs, outputs) in SHAPES {
        for format in FORMATS {
            for activation in [Activation::Identity, Activation::GeluTanh] {
                for layer_norm in [None, Some(false), Some(true)] {
                    let norm =
                        layer_norm.map(|layer| (numbers(&mut rng, inputs), layer.then(|| numbers(&mut rng, inputs))));
                    let case = Linear {
                        x: (rows, numbers(&mut rng, rows * inputs)),
                        weight: Stored::random(&mut rng, outputs, inputs),
                        second: None,
                        bias: rng.random_bool(0.5).then(|| numbers(&mut rng, outputs)),
                        norm,
                        residual: rng.random_bool(0.5).then(|| numbers(&mut rng, rows * outputs)),
                        activation,
                        format,
                    };
                    // A norm in f32 and in f64 may round to neighbouring bfloat16 numbers.
                    let slack = if case.norm.is_some() && format == Format::Bf16 { 20.0 } else { 1.0 };
                    conforms(&format!("{rows}×{inputs}×{outputs} {format:?}"), slack * tolerance(format), case);
                }
            }
        }
    }
}

#[test]
fn a_gated_layer_equals_the_reference_at_any_width() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, inputs, outputs) in SHAPES {
        for format in FORMATS {
            let case = Linear {
                x: (rows, numbers(&mut rng, rows * inputs)),
                weight: Stored::random(&mut rng, outputs, inputs),
                second: Some(Stored::random(&mut rng, outputs, inputs)),
                bias: None,
                norm: None,
                residual: None,
                activation: Activation::SwiGlu,
                format,
            };
            conforms(&format!("{rows}×{inputs}×{outputs} gated {format:?}"), tolerance(format), case);
        }
    }
}

/// An MLP between residuals, everything stored as the format stores it: a product, a norm and a product with an activation, a product with a
/// residual.
struct Mlp {
    rows: usize,
    x: Vec<f32>,
    weights: [Stored; 3],
    biases: [Vec<f32>; 3],
    norm: [Vec<f32>; 2],
}

impl Case for Mlp {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let weights = self.weights.each_ref().map(|weight| backend.pack(&[weight.view()], Format::Bf16));
        let [before, b1, b2] = self.biases.each_ref().map(|bias| backend.vector(bias));
        let [weight, bias] = self.norm.each_ref().map(|norm| backend.vector(norm));
        let x = backend.upload(self.rows, self.weights[0].cols, &self.x);
        let x = backend.linear(LinearArgs { bias: Some(&before), ..LinearArgs::new(&x, &weights[0]) });
        let norm = Some(Norm::Layer { weight: &weight, bias: &bias, eps: 1e-6 });
        let activation = Activation::GeluTanh;
        let h = backend.linear(LinearArgs {
            norm,
            activation,
            bias: Some(&b1),
            for_products: true,
            ..LinearArgs::new(&x, &weights[1])
        });
        let out =
            backend.linear(LinearArgs { bias: Some(&b2), residual: Some(&x), ..LinearArgs::new(&h, &weights[2]) });
        [backend.download(&x), backend.download(&h), backend.download(&out)].concat()
    }

    fn format(&self) -> Format {
        Format::Bf16
    }
}

#[test]
fn an_mlp_of_many_rows_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (rows, inputs, width, mlp) in
        [(512, 64, 128, 256), (700, 72, 136, 264), (1301, 200, 72, 648), (3000, 24, 200, 40)]
    {
        let case = Mlp {
            rows,
            x: numbers(&mut rng, rows * inputs),
            weights: [(width, inputs), (mlp, width), (width, mlp)]
                .map(|(outputs, inputs)| Stored::random(&mut rng, outputs, inputs)),
            biases: [width, mlp, width].map(|count| numbers(&mut rng, count)),
            norm: [0, 1].map(|_| numbers(&mut rng, width)),
        };
        // Norms in f32 and in f64 may round to neighbouring bfloat16 numbers, and three roundings follow each other: a row or an input in the wrong place is off by the whole.
        conforms(&format!("{rows} rows of {inputs}, {width}, {mlp}"), GPU_BF16_TOLERANCE, case);
    }
}

/// A product of activations as a layer stores them: what the kernels for tens to hundreds of rows take.
struct Stage {
    rows: usize,
    x: Vec<f32>,
    weight: Stored,
    second: Option<Stored>,
    norm: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    format: Format,
}

impl Case for Stage {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let x = as_stored(backend, self.rows, self.weight.cols, &self.x, self.format);
        let residual = self.residual.as_ref().map(|r| as_stored(backend, self.rows, self.weight.rows, r, self.format));
        let weight = match &self.second {
            Some(up) => backend.pack_gate_up(self.weight.view(), up.view(), self.format),
            None => backend.pack(&[self.weight.view()], self.format),
        };
        let norm = self.norm.as_ref().map(|weight| backend.vector(weight));
        let activation = if self.second.is_some() { Activation::SwiGlu } else { Activation::Identity };
        let norm = norm.as_ref().map(|weight| Norm::Rms { weight, eps: 1e-5 });
        let args = LinearArgs { norm, activation, residual: residual.as_ref(), ..LinearArgs::new(&x, &weight) };
        backend.download(&backend.linear(args))
    }

    fn format(&self) -> Format {
        self.format
    }
}

/// Rows that leave tiles half empty, inputs that end inside a chunk, outputs that end inside a tile; the 256M model's own widths.
#[test]
fn stages_of_a_decoding_layer_equal_the_reference_for_any_number_of_sequences() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let shapes =
        [(5, 576, 960), (16, 200, 72), (17, 72, 264), (33, 576, 576), (64, 136, 1544), (65, 64, 8), (100, 576, 96)];
    let larger = [(129, 200, 200), (256, 136, 968), (300, 64, 1000), (8, 1536, 576), (130, 648, 40)];
    for (rows, inputs, outputs) in shapes.into_iter().chain(larger) {
        for (gated, normed) in [(false, false), (false, true), (true, true), (true, false)] {
            let case = Stage {
                rows,
                x: numbers(&mut rng, rows * inputs),
                weight: Stored::random(&mut rng, outputs, inputs),
                second: gated.then(|| Stored::random(&mut rng, outputs, inputs)),
                norm: normed.then(|| numbers(&mut rng, inputs)),
                residual: (!gated && !normed && outputs < 600).then(|| numbers(&mut rng, rows * outputs)),
                format: Format::Bf16,
            };
            // Norms round at another place than the reference.
            let slack = if normed { 200.0 } else { 1.0 };
            let what = format!("a stage of {rows}×{inputs}×{outputs}, gated {gated}, normed {normed}");
            conforms(&what, slack * BF16_TOLERANCE, case);
        }
    }
}

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

/// `numbers` as a linear layer of a format leaves them: a product by one.
fn as_stored<B: Backend>(backend: &B, rows: usize, width: usize, numbers: &[f32], format: Format) -> B::Tensor {
    let one: Vec<u8> = (0..width * width).flat_map(|i| f32::from(i % (width + 1) == 0).to_le_bytes()).collect();
    let one = backend.pack(&[MatrixView::new(width, width, Elements::F32(&one))], format);
    backend.linear(LinearArgs::new(&backend.upload(rows, width, numbers), &one))
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
    // The last has patches for a GPU's kernel that takes a line at a time.
    for (size, patch, width, count) in [(24, 4, 48, 3), (29, 7, 20, 3), (128, 16, 72, 9)] {
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

/// Rows of logits of all kinds: spread, with many equal ones, all equal, nearly sure, far apart.
fn kinds_of_logits(rng: &mut impl Rng, width: usize) -> Vec<Vec<f32>> {
    let spread: Vec<f32> = numbers(rng, width).iter().map(|x| 6.0 * x).collect();
    let equal = spread.iter().map(|x| x.round()).collect();
    let mut sure = numbers(rng, width);
    sure[width / 3] = 60.0;
    sure[width / 2] = 59.5;
    let far = spread.iter().map(|x| 20.0 * x).collect();
    vec![spread, equal, vec![1.5; width], sure, far]
}

#[test]
fn a_drawn_token_is_the_one_that_the_host_draws() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let off = DrawRules { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let rules = [
        off,
        DrawRules { temperature: 0.3, ..off },
        DrawRules { top_k: 1, ..off },
        DrawRules { top_k: 50, ..off },
        DrawRules { top_p: 0.7303, ..off },
        DrawRules { top_p: 1e-6, ..off },
        DrawRules { min_p: 0.07, ..off },
        DrawRules { temperature: 1.7, top_k: 400, top_p: 0.9007, min_p: 0.01 },
        DrawRules { top_k: usize::MAX, top_p: 0.5003, ..off },
    ];
    for width in [3, 64, 1000, 49_280] {
        let rows = kinds_of_logits(&mut rng, width);
        let mut draws = Vec::new();
        for row in 0..rows.len() {
            for rules in rules {
                draws.extend([0.0, rng.random(), rng.random(), 1.0 - f64::EPSILON].map(|uniform| Draw {
                    row,
                    rules,
                    uniform,
                }));
            }
        }
        for backend in backends() {
            check_draws(&backend, &rows, &draws);
        }
        if let Some(backend) = gpu() {
            check_draws(&*backend, &rows, &draws);
            backend.failure().expect("the GPU works");
        }
    }
}

fn check_draws<B: Backend>(backend: &B, rows: &[Vec<f32>], draws: &[Draw]) {
    // Probabilities are summed in f32.
    const BORDER: f64 = 1e-5;
    let width = rows[0].len();
    let mut found = Vec::new();
    backend.draw_into(&backend.upload(rows.len(), width, &rows.concat()), draws, &mut found);
    assert_eq!(found.len(), draws.len());
    for (draw, found) in draws.iter().zip(found) {
        if found == drawn(&rows[draw.row], &draw.rules, draw.uniform) {
            continue;
        }
        // Only at a border between two tokens may sums in another order decide otherwise.
        let kept = candidates(&rows[draw.row], &draw.rules);
        let Some(at) = kept.iter().position(|(id, _)| *id == found) else {
            // The last that stays may be another, and is drawn by what is nearly one.
            let DrawRules { top_p, min_p, .. } = draw.rules;
            let looser = DrawRules { top_p: top_p + BORDER as f32, min_p: min_p * 0.9999, ..draw.rules };
            let stays = candidates(&rows[draw.row], &looser).iter().any(|(id, _)| *id == found);
            assert!(stays && draw.uniform > 1.0 - 1e-4, "{draw:?} of {width}: {found} was not to be drawn");
            continue;
        };
        let before: f64 = kept[..at].iter().map(|(_, probability)| f64::from(*probability)).sum();
        let through = before + f64::from(kept[at].1);
        let near = before - BORDER <= draw.uniform && draw.uniform <= through + BORDER;
        assert!(near, "{draw:?} of {width}: {found}, which stands for {before}..{through}");
    }
}
