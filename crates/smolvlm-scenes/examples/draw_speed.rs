//! Samples, pictures and clips a second on one core, by skill.
//!
//! `cargo run --release -p smolvlm-scenes --example draw_speed -- [SECONDS]`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use smolvlm_scenes::{Generator, Medium, Mixture, Skill, Split};

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0.5);
    println!("{:<14} {:>10} {:>11} {:>12}", "skill", "samples/s", "pictures/s", "questions/s");
    for &skill in Skill::ALL {
        measure(skill.name(), Mixture::only(skill), seconds);
    }
    measure("mixture", Mixture::default(), 4.0 * seconds);
}

/// Draws for some seconds and prints how much.
fn measure(name: &str, mixture: Mixture, seconds: f64) {
    let generator = Generator::new(1, Split::Train, mixture);
    black_box(generator.sample(0));
    let (start, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let (mut samples, mut pictures, mut questions) = (0u64, 0, 0);
    while start.elapsed() < limit {
        let sample = black_box(generator.sample(samples));
        samples += 1;
        questions += sample.turns.len();
        pictures += sample
            .media
            .iter()
            .map(|medium| match medium {
                Medium::Picture(_) => 1,
                Medium::Clip(clip) => clip.frames.len(),
            })
            .sum::<usize>();
    }
    let took = start.elapsed().as_secs_f64();
    let rate = |count: f64| count / took;
    println!(
        "{name:<14} {:>10.0} {:>11.0} {:>12.0}",
        rate(samples as f64),
        rate(pictures as f64),
        rate(questions as f64)
    );
}
