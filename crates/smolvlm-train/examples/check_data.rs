//! Looks at a data set as training would: `cargo run --release -p smolvlm-train --example check_data -- CHECKPOINT DATA [SAMPLES]`
//!
//! DATA is a mixture (.yaml), or a file or folder of records. Lists what cannot be used and prints the table; with SAMPLES, so many
//! are then made into examples by the loader, and timed.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use smolvlm::{Compat, MediaOptions, Processor};
use smolvlm_train::data::{
    BatchRule, CheckOptions, DEFAULT_CACHE, ExampleMaker, ExampleRules, Loader, LoaderOptions, Mixture, Samples,
    Schedule, ScheduleOptions, check,
};
use smolvlm_train::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, data, rest @ ..] = arguments.as_slice() else {
        return Err(Error::usage("check_data CHECKPOINT DATA [SAMPLES]"));
    };
    let is_mixture = data.ends_with(".yaml") || data.ends_with(".yml");
    let mixture = if is_mixture { Mixture::from_file(Path::new(data))? } else { Mixture::of(data) };
    let started = Instant::now();
    let samples = Arc::new(Samples::open(&mixture, DEFAULT_CACHE)?);
    println!("{} samples indexed in {:.2?}", samples.len(), started.elapsed());
    let processor = Processor::open(Path::new(checkpoint), Compat::default(), MediaOptions::default())?;
    let maker = ExampleMaker::new(samples, Arc::new(processor), ExampleRules::default())?;
    let started = Instant::now();
    let report = check(&maker, &CheckOptions::default(), &|_, _| {});
    println!("checked in {:.2?}; {} cannot be used", started.elapsed(), report.problem_count);
    for message in report.problems.iter().flat_map(|problem| &problem.messages) {
        println!("  {message}");
    }
    println!("\n{}", report.table);
    match rest.first().and_then(|count| count.parse().ok()) {
        Some(count) => time(&maker, count),
        None => Ok(()),
    }
}

/// Makes examples and says how fast.
fn time(maker: &ExampleMaker, count: usize) -> Result<()> {
    let rule = BatchRule::Count { samples: 4 };
    let options = ScheduleOptions { seed: 0, shuffled: true, rule, epochs: 1, lengths: None };
    for threads in [1, 2] {
        let schedule = Schedule::new(maker, options.clone())?;
        let started = Instant::now();
        let loader = LoaderOptions { threads, ..LoaderOptions::default() };
        let mut loader = Loader::start(maker.clone(), schedule.clone(), schedule.start(), &loader)?;
        let mut made = 0;
        while made < count {
            let Some(batch) = loader.next_batch()? else { break };
            made += batch.examples.len();
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{threads} threads: {made} examples, {:.0} a second, at most {} MB ahead",
            made as f64 / seconds,
            loader.peak_bytes() >> 20
        );
    }
    Ok(())
}
