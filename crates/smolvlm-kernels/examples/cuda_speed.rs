//! Times single operations of the CUDA backend at the 256M model's dimensions.
//!
//!     cargo run --release -p smolvlm-kernels --example cuda_speed -- [operation]
//!
//! Operations of a decoding step are recorded and replayed, thirty of a kind, as in a model.

#![allow(clippy::print_stdout, reason = "a table")]

use std::time::Instant;

use smolvlm_kernels::{
    Activation, Backend, CacheShape, CudaBackend, Elements, Format, LinearArgs, MatrixView, Norm, PAGE_TOKENS,
    RopeTable, Segment, TokenBatch,
};

/// Of each timing, after as many that are not timed; the best of three is shown.
const REPEATS: usize = 20;
/// Operations of a kind in a recorded step.
const IN_A_STEP: usize = 30;

type Tensor = <CudaBackend as Backend>::Tensor;
type Weight = <CudaBackend as Backend>::Weight;

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let backend = CudaBackend::new(0, None).expect("a GPU");
    println!("{}", backend.info());
    for tiles in [1, 16, 64] {
        if only.is_empty() || only == "vision" {
            vision(&backend, tiles);
        }
    }
    for rows in [1, 8, 64, 256] {
        if only.is_empty() || only == "decode" {
            decode(&backend, rows);
        }
    }
    for rows in [1148, 5000] {
        if only.is_empty() || only == "prefill" {
            prefill(&backend, rows);
        }
    }
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn weight(backend: &CudaBackend, outputs: usize, inputs: usize) -> Weight {
    let scale = (inputs as f32).sqrt().recip();
    let bytes: Vec<u8> = numbers(outputs * inputs, 7).iter().flat_map(|x| (x * scale).to_le_bytes()).collect();
    backend.pack(&[MatrixView::new(outputs, inputs, Elements::F32(&bytes))], Format::Bf16)
}

/// Random activations as a layer stores them.
fn activations(backend: &CudaBackend, rows: usize, width: usize) -> Tensor {
    const INPUTS: usize = 8;
    let x = backend.upload(rows, INPUTS, &numbers(rows * INPUTS, 3));
    backend.linear(LinearArgs::new(&x, &weight(backend, width, INPUTS)))
}

fn wait(backend: &CudaBackend, x: &Tensor) {
    let mut row = Vec::new();
    backend.download_rows(x, 0..1, &mut row);
    backend.failure().expect("the GPU works");
}

/// Microseconds of one `work`, of many started one after another.
fn time(backend: &CudaBackend, name: &str, flops: f64, work: impl Fn() -> Tensor) {
    let run = || {
        let started = Instant::now();
        let mut last = work();
        for _ in 1..REPEATS {
            last = work();
        }
        wait(backend, &last);
        started.elapsed().as_secs_f64() / REPEATS as f64
    };
    run();
    let best = (0..3).map(|_| run()).fold(f64::INFINITY, f64::min);
    println!("{name:36} {:9.1} µs {:8.0} TFLOP/s", best * 1e6, flops / best / 1e12);
}

/// Microseconds of one `operation` inside a recorded step of `rows` sequences.
fn time_in_step(backend: &CudaBackend, name: &str, rows: usize, bytes: f64, operation: impl Fn() -> Tensor + Sync) {
    let mut plan = backend.plan();
    let shape = CacheShape { layers: 1, kv_heads: 1, head_dim: 64, pages: rows + 1, format: Format::Bf16 };
    let mut cache = backend.cache(shape);
    backend.fill_tokens(&mut plan, &mut cache, &one_token_each(rows, 1));
    let run = || {
        let body = || (1..IN_A_STEP).fold(operation(), |_, _| operation());
        let started = Instant::now();
        for _ in 0..REPEATS {
            drop(backend.repeated_step(&plan, body).expect("a step"));
        }
        let last = backend.repeated_step(&plan, body).expect("a step");
        wait(backend, &last);
        started.elapsed().as_secs_f64() / ((REPEATS + 1) * IN_A_STEP) as f64
    };
    run();
    let best = (0..3).map(|_| run()).fold(f64::INFINITY, f64::min);
    println!("{name:36} {:9.2} µs {:8.0} GB/s", best * 1e6, bytes / best / 1e9);
}

fn one_token_each(rows: usize, past: usize) -> TokenBatch {
    let pages = (past + 1).div_ceil(PAGE_TOKENS);
    TokenBatch {
        ids: (0..rows as u32).collect(),
        segments: (0..rows)
            .map(|i| Segment { rows: i..i + 1, start: past, pages: i * pages..(i + 1) * pages })
            .collect(),
        pages: (0..(rows * pages) as u32).collect(),
        features: Vec::new(),
        outputs: (0..rows as u32).collect(),
    }
}

fn vision(backend: &CudaBackend, tiles: usize) {
    const WIDTH: usize = 768;
    const MLP: usize = 3072;
    const PATCHES: usize = 1024;
    let rows = tiles * PATCHES;
    println!("\nvision, {tiles} tiles");
    let x = activations(backend, rows, WIDTH);
    let (one, zero) = (backend.vector(&vec![1.0; WIDTH]), backend.vector(&vec![0.0; MLP]));
    let norm = || Norm::Layer { weight: &one, bias: &zero, eps: 1e-6 };
    time(backend, "layer norm", 0.0, || backend.norm(&x, norm()));
    let linear = |name: &str, outputs: usize, inputs: usize, activation, residual: Option<&Tensor>| {
        let (weight, input) = (weight(backend, outputs, inputs), activations(backend, rows, inputs));
        let flops = 2.0 * (rows * outputs * inputs) as f64;
        time(backend, name, flops, || {
            backend.linear(LinearArgs { bias: Some(&zero), activation, residual, ..LinearArgs::new(&input, &weight) })
        });
    };
    linear("qkv", 3 * WIDTH, WIDTH, Activation::Identity, None);
    linear("out with residual", WIDTH, WIDTH, Activation::Identity, Some(&x));
    linear("fc1 with gelu", MLP, WIDTH, Activation::GeluTanh, None);
    linear("fc2 with residual", WIDTH, MLP, Activation::Identity, Some(&x));
    let qkv = activations(backend, rows, 3 * WIDTH);
    let flops = 4.0 * (rows * PATCHES * WIDTH) as f64;
    time(backend, "attention", flops, || backend.tile_attention(&qkv, PATCHES, 12));
    time(backend, "pixel shuffle", 0.0, || backend.pixel_shuffle(&x, 32, 4));
}

fn decode(backend: &CudaBackend, rows: usize) {
    const WIDTH: usize = 576;
    const MLP: usize = 1536;
    println!("\ndecoding, {rows} sequences");
    let x = activations(backend, rows, WIDTH);
    let one = backend.vector(&[1.0; WIDTH]);
    let linear = |name: &str, outputs: usize, inputs: usize, normed: bool, activation, residual: Option<&Tensor>| {
        let (weight, input) = (weight(backend, outputs, inputs), activations(backend, rows, inputs));
        time_in_step(backend, name, rows, (2 * outputs * inputs) as f64, || {
            let norm = normed.then_some(Norm::Rms { weight: &one, eps: 1e-5 });
            backend.linear(LinearArgs { norm, activation, residual, ..LinearArgs::new(&input, &weight) })
        });
    };
    linear("norm, qkv", 960, WIDTH, true, Activation::Identity, None);
    linear("out with residual", WIDTH, WIDTH, false, Activation::Identity, Some(&x));
    linear("norm, gate up, swiglu", 2 * MLP, WIDTH, true, Activation::SwiGlu, None);
    linear("down with residual", WIDTH, MLP, false, Activation::Identity, Some(&x));
    linear("norm, head", 49_280, WIDTH, true, Activation::Identity, None);
    for past in [103, 1147] {
        paged(backend, &format!("attention after {past}"), &one_token_each(rows, past), IN_A_STEP);
    }
}

fn prefill(backend: &CudaBackend, rows: usize) {
    println!("\nprefill of {rows}");
    let pages = rows.div_ceil(PAGE_TOKENS);
    let batch = TokenBatch {
        ids: vec![1; rows],
        segments: vec![Segment { rows: 0..rows, start: 0, pages: 0..pages }],
        pages: (0..pages as u32).collect(),
        ..TokenBatch::default()
    };
    paged(backend, "attention", &batch, 1);
}

/// Making queries, keys and values (by looking rows up), rotating, appending, attending; in a recorded step where there are several of them.
fn paged(backend: &CudaBackend, name: &str, batch: &TokenBatch, count: usize) {
    const QKV: usize = 960;
    let shape = CacheShape { layers: 1, kv_heads: 3, head_dim: 64, pages: batch.pages.len(), format: Format::Bf16 };
    let bytes: Vec<u8> = numbers(512 * QKV, 9).iter().flat_map(|x| x.to_le_bytes()).collect();
    let table = backend.table(MatrixView::new(512, QKV, Elements::F32(&bytes)), Format::Bf16);
    let mut plan = backend.plan();
    let mut cache = backend.cache(shape);
    let angles = numbers(8192 * 32, 5);
    let rope = RopeTable { cos: backend.vector(&angles), sin: backend.vector(&angles) };
    backend.fill_tokens(&mut plan, &mut cache, batch);
    let mut run = |repeats: usize| {
        let started = Instant::now();
        let mut last = None;
        for _ in 0..repeats {
            drop(last.take());
            let body = || {
                let mut out = None;
                for _ in 0..count {
                    drop(out.take());
                    let qkv = backend.embed(&plan, &table);
                    out = Some(backend.cached_attention(&plan, qkv, &mut cache, 0, &rope));
                }
                out.expect("one at least")
            };
            last = Some(backend.repeated_step(&plan, body).expect("a step"));
        }
        wait(backend, &last.expect("one at least"));
        started.elapsed().as_secs_f64() / (repeats * count) as f64
    };
    run(3);
    let best = (0..3).map(|_| run(REPEATS)).fold(f64::INFINITY, f64::min);
    println!("{name:36} {:9.2} µs", best * 1e6);
}
