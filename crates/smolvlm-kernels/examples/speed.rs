//! How fast the operations of the 256M model run: milliseconds, and operations per second as a share of the measured peak.
//!
//!     cargo run --release -p smolvlm-kernels --example speed -- [set] [format] [threads] [operation]

#![allow(clippy::print_stdout, reason = "a program")]

use std::time::Instant;

use smolvlm_kernels::cpu::InstructionSet;
use smolvlm_kernels::{
    Activation, Backend, CacheShape, CpuBackend, Elements, Format, LinearArgs, MatrixView, Norm, RopeTable, Segment,
    TokenBatch,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let (name, format, threads, only) = (argument(0, "best"), argument(1, "bf16"), argument(2, "2"), argument(3, ""));
    let format = match format.as_str() {
        "f32" => Format::F32,
        "q8" => Format::Q8,
        "q4" => Format::Q4,
        _ => Format::Bf16,
    };
    let set = InstructionSet::available().into_iter().find(|set| set.name == name).unwrap_or_else(InstructionSet::best);
    let backend = CpuBackend::with_instruction_set(threads.parse().unwrap_or(0), set).expect("threads");
    println!("{} {format:?}, {} threads", set.name, backend.threads());
    // One operation is asked for by who profiles it: then nothing else runs.
    let limit = if only.is_empty() { limit(&backend, format) } else { f64::NAN };
    for (what, rows, inputs, outputs, activation) in [
        ("patches", 1024, 768, 768, Activation::Identity),
        ("qkv", 1024, 768, 2304, Activation::Identity),
        ("out", 1024, 768, 768, Activation::Identity),
        ("fc1", 1024, 768, 3072, Activation::GeluTanh),
        ("fc2", 1024, 3072, 768, Activation::Identity),
        ("text qkv", 512, 576, 960, Activation::Identity),
        ("text gate/up", 512, 576, 3072, Activation::SwiGlu),
        ("text down", 512, 1536, 576, Activation::Identity),
        ("decode qkv", 1, 576, 960, Activation::Identity),
        ("decode gate/up", 1, 576, 3072, Activation::SwiGlu),
        ("decode down", 1, 1536, 576, Activation::Identity),
        ("head", 1, 576, 49280, Activation::Identity),
    ] {
        if !what.contains(&only) {
            continue;
        }
        let weight = numbers(inputs * outputs, 1);
        let weight = if activation == Activation::SwiGlu {
            let half = weight.len() / 2;
            backend.pack_gate_up(
                MatrixView::new(outputs / 2, inputs, Elements::F32(&weight[..half])),
                MatrixView::new(outputs / 2, inputs, Elements::F32(&weight[half..])),
                format,
            )
        } else {
            backend.pack(&[MatrixView::new(outputs, inputs, Elements::F32(&weight))], format)
        };
        let x = backend.upload(rows, inputs, &floats(rows * inputs, 2));
        let seconds = median(|| {
            let args = LinearArgs { activation, for_products: rows > 1, ..LinearArgs::new(&x, &weight) };
            drop(backend.linear(args));
        });
        let operations = 2.0 * (rows * inputs * outputs) as f64 / seconds;
        println!(
            "{what:16} {:9.3} ms {:9.1} GFLOP/s {:5.1} %  {:7.1} GB/s of weights",
            seconds * 1e3,
            operations / 1e9,
            operations / limit * 100.0,
            weight.bytes().len() as f64 / seconds / 1e9
        );
    }
    for tiles in [1, 2, 4] {
        if format!("encoder of {tiles}").contains(&only) {
            encoder(&backend, format, limit, tiles);
        }
    }
    if "tile attention".contains(&only) {
        tile_attention(&backend, format, limit);
    }
    if "cached attention".contains(&only) {
        for (start, rows) in [(0, 512), (512, 512), (1100, 1)] {
            cached_attention(&backend, format, start, rows);
        }
    }
}

/// The measured peak.
fn limit(backend: &CpuBackend, format: Format) -> f64 {
    let peak = backend.measure_peak();
    println!("{peak:.3?}");
    match format {
        Format::F32 => peak.f32_flops,
        Format::Bf16 => peak.bf16_flops,
        Format::Q8 | Format::Q4 => peak.q8_ops,
    }
}

/// Twelve encoder blocks, one after another, so that weights and activations come from where they come from in use.
fn encoder(backend: &CpuBackend, format: Format, limit: f64, tiles: usize) {
    let pack = |outputs: usize, inputs: usize| {
        let weight: Vec<u8> = floats(inputs * outputs, 1).iter().flat_map(|x| (x * 0.02).to_le_bytes()).collect();
        backend.pack(&[MatrixView::new(outputs, inputs, Elements::F32(&weight))], format)
    };
    let blocks: Vec<_> = (0..12).map(|_| [pack(2304, 768), pack(768, 768), pack(3072, 768), pack(768, 3072)]).collect();
    let (weight, bias) = (backend.vector(&[1.0; 768]), backend.vector(&[0.0; 3072]));
    let norm = || Some(Norm::Layer { weight: &weight, bias: &bias, eps: 1e-6 });
    let input = floats(tiles * 1024 * 768, 2);
    let seconds = median(|| {
        let mut x = backend.upload(tiles * 1024, 768, &input);
        for [qkv, out, fc1, fc2] in &blocks {
            let h = backend.linear(LinearArgs { norm: norm(), for_products: true, ..LinearArgs::new(&x, qkv) });
            let h = backend.tile_attention(&h, 1024, 12);
            x = backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&h, out) });
            let (activation, bias) = (Activation::GeluTanh, Some(&bias));
            let args = LinearArgs { norm: norm(), activation, bias, for_products: true, ..LinearArgs::new(&x, fc1) };
            let h = backend.linear(args);
            x = backend.linear(LinearArgs { residual: Some(&x), ..LinearArgs::new(&h, fc2) });
        }
    }) / tiles as f64;
    let operations = 12.0 * (2.0 * 1024.0 * 768.0 * 9216.0 + 4.0 * 1024.0 * 1024.0 * 768.0) / seconds;
    let share = operations / limit * 100.0;
    println!("encoder of {tiles:5} {:9.3} ms {:9.1} GFLOP/s {share:5.1} %", seconds * 1e3, operations / 1e9);
}

fn tile_attention(backend: &CpuBackend, format: Format, limit: f64) {
    let one = numbers(64 * 2304, 5);
    let weight = backend.pack(&[MatrixView::new(2304, 64, Elements::F32(&one))], format);
    let x = backend.upload(1024, 64, &floats(1024 * 64, 6));
    let qkv = backend.linear(LinearArgs { for_products: true, ..LinearArgs::new(&x, &weight) });
    let seconds = median(|| drop(backend.tile_attention(&qkv, 1024, 12)));
    let operations = 4.0 * 1024.0 * 1024.0 * 768.0 / seconds;
    println!(
        "{:16} {:9.3} ms {:9.1} GFLOP/s {:5.1} %",
        "tile attention",
        seconds * 1e3,
        operations / 1e9,
        operations / limit * 100.0
    );
}

fn cached_attention(backend: &CpuBackend, format: Format, start: usize, rows: usize) {
    let shape = CacheShape { layers: 1, kv_heads: 3, head_dim: 64, pages: 32, format: format.of_attention() };
    let mut cache = backend.cache(shape);
    let angles = floats(4096 * 32, 3);
    let rope = RopeTable { cos: backend.vector(&angles), sin: backend.vector(&angles) };
    let mut plan = backend.plan();
    let mut attend = |start: usize, rows: usize| {
        let segments = vec![Segment { rows: 0..rows, start, pages: 0..32 }];
        let batch = TokenBatch { segments, pages: (0..32).collect(), ..TokenBatch::default() };
        backend.fill_tokens(&mut plan, &mut cache, &batch);
        let qkv = backend.upload(rows, 960, &floats(rows * 960, 4));
        let started = Instant::now();
        drop(backend.cached_attention(&plan, qkv, &mut cache, 0, &rope));
        started.elapsed().as_secs_f64()
    };
    for first in (0..start).step_by(512) {
        attend(first, 512.min(start - first));
    }
    let mut times: Vec<f64> = (0..20).map(|_| attend(start, rows)).collect();
    times.sort_by(f64::total_cmp);
    println!("{:16} {:9.3} ms", format!("cached {start}+{rows}"), times[10] * 1e3);
}

fn floats(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn numbers(count: usize, seed: u32) -> Vec<u8> {
    floats(count, seed).iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Of at least five runs and a tenth of a second, one more before them.
const SECONDS: f64 = 0.3;

fn median(mut run: impl FnMut()) -> f64 {
    run();
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || started.elapsed().as_secs_f64() < SECONDS {
        let started = Instant::now();
        run();
        times.push(started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
