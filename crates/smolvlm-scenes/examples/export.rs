//! Samples as files: pictures, folders of frames, and a JSONL list.
//!
//! `cargo run --release -p smolvlm-scenes --example export -- FOLDER [train|held] [FIRST] [END] [SKILL]`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use smolvlm_scenes::{Error, Generator, Mixture, Skill, Split, export};

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(args.first().map_or("scenes", String::as_str));
    let split = if args.get(1).is_some_and(|name| name == "held") { Split::Held } else { Split::Train };
    let number = |at: usize, default| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let mixture = args.get(4).and_then(|name| Skill::from_name(name)).map_or_else(Mixture::default, Mixture::only);
    let exported = export(&Generator::new(1, split, mixture), number(2, 0)..number(3, 100), &folder)?;
    println!("{}: {} samples", exported.list.display(), exported.samples);
    Ok(())
}
