//! `smolvlm scenes`: drawn pictures and clips with questions, as files to train on.

use smolvlm::{Error, Result};
use smolvlm_scenes::{Generator, Mixture, Split, export_samples};

use crate::args::{ScenesArgs, SplitArg};
use crate::console::{self, Console};
use crate::drawn::ours;
use crate::json;

pub(crate) fn scenes(args: &ScenesArgs) -> Result<()> {
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Held => Split::Held,
    };
    let mixture = if args.skill.is_empty() {
        Mixture::default()
    } else {
        Mixture::new(args.skill.iter().map(|skill| (*skill, 1.0))).map_err(|error| Error::usage(error.to_string()))?
    };
    let generator = Generator::new(args.seed, split, mixture);
    let count = u64::from(args.samples.get());
    let bar = Console::new(args.quiet, false).bar(count, "drawing  {wide_bar:.cyan/dim} {pos}/{len} samples {eta:>4}");
    let samples = (0..count).map(|index| (index, generator.sample(index))).inspect(|_| bar.inc(1));
    let written = export_samples(samples, split.name(), &args.folder).map_err(ours);
    bar.finish_and_clear();
    let written = written?;
    if args.json {
        return json::print(&serde_json::json!({ "list": written.list, "samples": written.samples }));
    }
    console::print(&format!("{}\n", written.list.display()))
}
