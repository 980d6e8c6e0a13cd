//! What a number format costs: how far logits move from f32's, and how often the likeliest token stays the same.
//!
//! `cargo run --release -p smolvlm --example format_cost -- MODEL PICTURE [PICTURE …]`
//!
//! Each picture is asked about once. Every position of every prompt counts, so that one early difference does not decide
//! all that follow; the last column follows greedy replies until they part.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use smolvlm::generate::Logits;
use smolvlm::{Content, Dtype, LoadOptions, Messages, Result, Trace};

const NEW_TOKENS: usize = 20;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| smolvlm::DEFAULT_MODEL.to_owned());
    let pictures: Vec<String> = args.collect();
    let exact = traces(&model, Dtype::F32, &pictures)?;
    println!("| format | relative L2 of logits | same likeliest token | greedy tokens before the first other |");
    println!("|---|---|---|---|");
    for dtype in [Dtype::Bf16, Dtype::Q8, Dtype::Q4] {
        let rounded = traces(&model, dtype, &pictures)?;
        let (mut error, mut size, mut same, mut positions, mut prefixes) = (0.0, 0.0, 0, 0, Vec::new());
        for (exact, rounded) in exact.iter().zip(&rounded) {
            for (a, b) in exact.logits.iter().zip(&rounded.logits) {
                error += f64::from(a - b).powi(2);
                size += f64::from(*a).powi(2);
            }
            let rows = exact.logits.chunks(exact.vocab).zip(rounded.logits.chunks(exact.vocab));
            same += rows.clone().filter(|(a, b)| likeliest(a) == likeliest(b)).count();
            positions += rows.len();
            let pairs = exact.generated_ids.iter().zip(&rounded.generated_ids);
            prefixes.push(pairs.take_while(|(a, b)| a == b).count());
        }
        let error = (error / size).sqrt();
        let share = 100.0 * same as f64 / positions as f64;
        println!("| {} | {error:.4} | {share:.1} % of {positions} | {prefixes:?} of {NEW_TOKENS} |", dtype.name());
    }
    Ok(())
}

fn traces(model: &str, dtype: Dtype, pictures: &[String]) -> Result<Vec<Trace>> {
    let mut model = LoadOptions::default().dtype(dtype).load(model)?;
    let ask = |picture: &String| {
        let question = Content::text("What is in this picture, and what is written on it?");
        let messages = Messages::new().user([Content::image(picture.as_str()), question]);
        model.trace(&messages, NEW_TOKENS, Logits::All)
    };
    pictures.iter().map(ask).collect()
}

fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}
