//! Times steps of training on a checkpoint: `step_speed CHECKPOINT [f32|bf16] [TOKENS] [TILES] [STEPS] [THREADS]`.
//!
//! One example of so many tokens, half of which count, and so many tiles; each step is a forward, a backward and an update.

#![allow(clippy::print_stdout, reason = "an example prints what it is for")]

use std::time::Instant;

use smolvlm::TileRun;
use smolvlm::checkpoint::Checkpoint;
use smolvlm::preprocess::Tile;
use smolvlm_kernels::{CpuBackend, Format};
use smolvlm_train::{Example, Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, otherwise: usize| args.get(i).map_or(Ok(otherwise), |text| text.parse());
    let checkpoint = Checkpoint::open(args.first().ok_or("expected a checkpoint folder")?.as_ref())?;
    let format = args.get(1).map_or(Some(Format::F32), |name| Format::named(name)).ok_or("expected f32 or bf16")?;
    let (tokens, tiles, steps) = (number(2, 256)?, number(3, 1)?, number(4, 3)?);
    let options = LearnerOptions { format, ..LearnerOptions::default() };
    let started = Instant::now();
    let mut learner = Learner::load(CpuBackend::new(number(5, 0)?)?, &checkpoint, options)?;
    println!("loaded in {:.1} s", started.elapsed().as_secs_f64());
    let example = example(checkpoint.config(), tokens, tiles);
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    for step in 0..steps {
        let started = Instant::now();
        let loss = learner.learn(std::slice::from_ref(&example), 1.0 / example.counted())?;
        let passes = started.elapsed();
        let norm = learner.update(&mut optimizer, Rates::same(1e-4))?;
        let update = started.elapsed() - passes;
        let (passes, update) = (passes.as_secs_f64(), update.as_secs_f64());
        println!(
            "step {step}: loss {:.4}, gradients {norm:.3}; passes {passes:.2} s, update {update:.2} s",
            loss.mean()
        );
    }
    Ok(())
}

fn example(config: &smolvlm::checkpoint::ModelConfig, tokens: usize, tiles: usize) -> Example {
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
