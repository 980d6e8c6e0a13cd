//! Commands about drawn pictures.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use smolvlm_scenes::Skill;

use super::{DtypeArg, ModelArgs};

/// Ask a model questions whose answers are known, and count the right ones.
#[derive(Debug, Args)]
#[command(after_help = "\
Questions are about what was kept out of training, one for each picture or clip, answered greedily. Equal seeds give equal \
questions. Pictures are shown in one tile, and split where what is asked is too small for that; such questions are asked \
both ways. Beside each share of right answers stand its 95 % interval (Wilson), the share of somebody who sees the text \
alone and knows how the data is made, and the model's own without the picture and with a grey one.

Examples:
  smolvlm evaluate scenes --model ./my-checkpoint
  smolvlm evaluate scenes --model ./my-checkpoint --samples 1000 --compare-formats f32,bf16,q8,q4 --out report
  smolvlm evaluate scenes --model ./my-checkpoint --skill count,relation --no-baselines --json | jq .overall")]
pub(crate) struct EvaluateArgs {
    /// What is asked: scenes, drawn pictures and clips (docs/scenes.md).
    #[arg(value_name = "DATA")]
    pub(crate) data: DataArg,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Questions of each skill.
    #[arg(long, default_value = "200", value_name = "N")]
    pub(crate) samples: NonZeroU32,
    /// Which questions.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Only these skills. Default: all that the default mixture trains.
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME", value_parser = skill)]
    pub(crate) skill: Vec<Skill>,
    /// Split every picture.
    #[arg(long, conflicts_with = "no_split")]
    pub(crate) split: bool,
    /// Show every picture in one tile.
    #[arg(long)]
    pub(crate) no_split: bool,
    /// Do not ask again without the picture and with a grey one.
    #[arg(long)]
    pub(crate) no_baselines: bool,
    /// Ask again in these number formats, side by side.
    #[arg(long, value_delimiter = ',', value_name = "TYPE,TYPE")]
    pub(crate) compare_formats: Vec<DtypeArg>,
    /// Most tokens of a reply, the end token included.
    #[arg(long, short = 'n', default_value = "64", value_name = "N")]
    pub(crate) max_new_tokens: NonZeroUsize,
    /// Questions answered together. Changes no reply.
    #[arg(long, default_value = "32", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
    /// Write report.md and report.json into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Write what is asked into this folder: pictures, frames, and held.jsonl.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) export: Option<PathBuf>,
    /// Write JSON to standard output, every question with its reply, instead of the tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataArg {
    Scenes,
}

/// Draw pictures and clips with questions and answers into a folder, to train on.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder gets pictures (PNG), clips (folders of frames), and train.jsonl or held.jsonl in the format that finetune reads. \
docs/scenes.md says what is drawn.

Examples:
  smolvlm scenes drawn --samples 2000
  smolvlm scenes drawn --samples 2000 --skill empty-quarter
  smolvlm scenes drawn --samples 100 --split held")]
pub(crate) struct ScenesArgs {
    /// Where to write.
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// Pictures or clips, each with one to four questions.
    #[arg(long, default_value = "1000", value_name = "N")]
    pub(crate) samples: NonZeroU32,
    /// To learn from, or of the kinds that are kept out of training.
    #[arg(long, default_value = "train", value_name = "SPLIT")]
    pub(crate) split: SplitArg,
    /// Only these skills, as many of each. Default: the default mixture.
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME", value_parser = skill)]
    pub(crate) skill: Vec<Skill>,
    /// Which samples.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    Train,
    Held,
}

/// Show what the demonstration model says of drawn pictures, two pictures, and a clip.
#[derive(Debug, Args)]
#[command(after_help = "\
A program built with models/demo has the model in it, and fetches nothing; another needs --model. Pictures and clips are drawn from a seed, and are of kinds that \
were kept out of training; a tick says that an answer is the one that the picture was drawn for.

Examples:
  smolvlm demo
  smolvlm demo --seed 7
  smolvlm demo --model ./my-checkpoint --json")]
pub(crate) struct DemoArgs {
    /// A checkpoint folder or hub id instead of the demonstration model.
    #[arg(long, value_name = "M")]
    pub(crate) model: Option<String>,
    /// What computes: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub(crate) device: smolvlm::Device,
    /// Number format of weights and cache.
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<DtypeArg>,
    /// Compute threads of the processor. 0: one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Which pictures are drawn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// How pictures are shown. auto: as the terminal says of itself, and not at all elsewhere.
    #[arg(long, default_value = "auto", value_name = "HOW")]
    pub(crate) pictures: PicturesArg,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Neither progress nor notes on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PicturesArg {
    Auto,
    /// kitty's graphics protocol.
    Kitty,
    /// iTerm2's inline pictures.
    Iterm,
    Sixel,
    /// Half blocks in 24-bit colour.
    Blocks,
    /// Half blocks in 256 colours.
    #[value(name = "256")]
    Blocks256,
    None,
}

fn skill(name: &str) -> Result<Skill, String> {
    Skill::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Skill::ALL.iter().map(|skill| skill.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}
