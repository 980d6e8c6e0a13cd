//! The demonstration model's folder without its weights, and what its questions cost in tokens.
//!
//! `cargo run --release -p smolvlm-scenes --example model_folder -- FOLDER`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use smolvlm_scenes::{Error, Generator, Mixture, PARAMETERS, Skill, Split, train_tokenizer, write_model_folder};

/// Enough for every wording.
const SAMPLES: u64 = 20_000;

fn main() -> Result<(), Error> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "demo-model".to_owned()));
    let tokenizer = train_tokenizer(1, SAMPLES)?;
    write_model_folder(&tokenizer, &folder)?;
    println!("{}: {PARAMETERS} parameters to come", folder.display());
    println!("{:<14} {:>16} {:>14}", "skill", "question tokens", "answer tokens");
    for &skill in Skill::ALL {
        let generator = Generator::new(2, Split::Train, Mixture::only(skill));
        let (mut question, mut answer, mut turns) = (0, 0, 0);
        for index in 0..500 {
            for turn in generator.sample(index).turns {
                question += tokenizer.encode(&turn.question)?.len();
                answer += tokenizer.encode(&format!(" {}", turn.answer))?.len();
                turns += 1;
            }
        }
        let mean = |tokens: usize| tokens as f64 / f64::from(turns);
        println!("{:<14} {:>16.1} {:>14.1}", skill.name(), mean(question), mean(answer));
    }
    Ok(())
}
