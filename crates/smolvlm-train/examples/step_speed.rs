//! Times steps of training on a checkpoint; each is a forward and a backward of every part of the batch, and an update.
//!
//! ```text
//! step_speed CHECKPOINT [device=cpu|cuda] [dtype=f32|bf16] [samples=1] [part=1] [tokens=256] [tiles=1] [steps=3]
//!            [recompute=no|yes] [threads=0]
//! ```
//!
//! A sample has so many tokens, half of which count, and so many tiles; `part` of them go through the model together. A line for
//! each step goes to standard error; one line of JSON with medians to standard output.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it is for")]

use std::collections::HashMap;
use std::time::Instant;

use smolvlm::TileRun;
use smolvlm::checkpoint::{Checkpoint, ModelConfig};
use smolvlm::preprocess::Tile;
use smolvlm_kernels::{Backend, CpuBackend, CudaBackend, Format, TrainBackend};
use smolvlm_train::{Example, Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates, Recompute};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Steps before those that count: kernels are chosen, memory is taken.
const WARM_UP: usize = 2;

struct Settings {
    checkpoint: Checkpoint,
    format: Format,
    recompute: Recompute,
    samples: usize,
    part: usize,
    tokens: usize,
    tiles: usize,
    steps: usize,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let checkpoint = Checkpoint::open(args.next().ok_or("expected a checkpoint folder")?.as_ref())?;
    let named: HashMap<String, String> =
        args.filter_map(|arg| arg.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect();
    let word = |name: &str, otherwise: &str| named.get(name).map_or(otherwise.to_owned(), Clone::clone);
    let number = |name: &str, otherwise: usize| named.get(name).map_or(Ok(otherwise), |text| text.parse());
    let settings = Settings {
        checkpoint,
        format: Format::named(&word("dtype", "f32")).ok_or("expected dtype=f32 or dtype=bf16")?,
        recompute: if word("recompute", "no") == "yes" { Recompute::Blocks } else { Recompute::Nothing },
        samples: number("samples", 1)?,
        part: number("part", 1)?.max(1),
        tokens: number("tokens", 256)?,
        tiles: number("tiles", 1)?,
        steps: number("steps", 3)?,
    };
    match word("device", "cpu").as_str() {
        "cuda" => time(CudaBackend::new(0, Some(std::env::temp_dir().join("smolvlm-kernels")))?, &settings),
        _ => time(CpuBackend::new(number("threads", 0)?)?, &settings),
    }
}

fn time<B: TrainBackend>(backend: B, settings: &Settings) -> Result<()> {
    let options =
        LearnerOptions { format: settings.format, recompute: settings.recompute, ..LearnerOptions::default() };
    let mut learner = Learner::load(backend, &settings.checkpoint, options)?;
    let example = example(settings.checkpoint.config(), settings.tokens, settings.tiles);
    let examples = vec![example; settings.samples];
    let counted: f64 = examples.iter().map(Example::counted).sum();
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    let mut seconds = Vec::new();
    for step in 0..WARM_UP + settings.steps {
        let started = Instant::now();
        let mut loss = 0.0;
        for part in examples.chunks(settings.part) {
            loss += learner.learn(part, 1.0 / counted)?.sum / counted;
        }
        let passes = started.elapsed().as_secs_f64();
        let norm = learner.update(&mut optimizer, Rates::same(1e-5))?;
        learner.taped().inner().wait()?;
        let all = started.elapsed().as_secs_f64();
        eprintln!("step {step}: loss {loss:.4}, gradients {norm:.3}; passes {passes:.4} s, all {all:.4} s");
        if step >= WARM_UP {
            seconds.push(all);
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let memory = learner.taped().most_memory().map_or(0.0, |bytes| bytes as f64 / f64::from(1 << 20));
    println!(
        "{{\"step_seconds\": {median}, \"samples_per_second\": {}, \"memory_mib\": {memory}}}",
        settings.samples as f64 / median
    );
    Ok(())
}

fn example(config: &ModelConfig, tokens: usize, tiles: usize) -> Example {
    let shown = tiles * config.tokens_per_tile();
    let text = (0..tokens.saturating_sub(shown)).map(|i| 17 + (i * 37 % 200) as u32);
    let ids: Vec<u32> = std::iter::repeat_n(config.image_token_id, shown).chain(text).collect();
    let weights = (0..ids.len()).map(|i| if i > ids.len() / 2 { 1.0 } else { 0.0 }).collect();
    let size = config.vision.image_size;
    let rgb = |tile| (0..size * size * 3).map(|i| (i * 7 + tile * 31) as u8).collect();
    let drawn = (0..tiles).map(|tile| Tile { size, rgb: rgb(tile) }).collect();
    let pixel_values = [std::array::from_fn(|value| (value as f32 - 127.5) / 127.5); 3];
    Example { ids, weights, tiles: vec![TileRun { tiles: drawn, pixel_values }] }
}
