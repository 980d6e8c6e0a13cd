//! Samples of every skill to look at, as PNG files.
//!
//! `cargo run --release -p smolvlm-scenes --example contact_sheet -- FOLDER [train|held] [SKILL]`

use std::path::PathBuf;

use smolvlm_scenes::{Error, Generator, Mixture, Sample, Skill, Split, contact_sheet, write_png};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| ".".to_owned()));
    let split = if args.next().as_deref() == Some("held") { Split::Held } else { Split::Train };
    let only = args.next().and_then(|name| Skill::from_name(&name));
    for &skill in Skill::ALL.iter().filter(|skill| only.is_none_or(|only| only == **skill)) {
        let generator = Generator::new(1, split, Mixture::only(skill));
        let samples: Vec<Sample> = (0..12).map(|index| generator.sample(index)).collect();
        let name = format!("{}-{}.png", split.name(), skill.name());
        write_png(&contact_sheet(&samples, 3), &folder.join(name))?;
    }
    Ok(())
}
