//! The command line, as typed.

mod scenes;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use scenes::{DataArg, DemoArgs, EvaluateArgs, PicturesArg, ScenesArgs, SplitArg};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 our fault, 2 usage, 3 bad input, 4 bad checkpoint, 5 out of memory or budget, 6 network.";

/// SmolVLM2 natively: images, several images, video and text in, text out.
#[derive(Debug, Parser)]
#[command(name = "smolvlm", version, styles = STYLES, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Run(RunArgs),
    Chat(ChatArgs),
    Info(InfoArgs),
    Download(DownloadArgs),
    Quantize(QuantizeArgs),
    Finetune(FinetuneArgs),
    Train(TrainArgs),
    Evaluate(EvaluateArgs),
    Scenes(ScenesArgs),
    Merge(MergeArgs),
    Frames(FramesArgs),
    Trace(TraceArgs),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
    /// Decode videos for another process of this program.
    #[command(name = MEDIA_WORKER, hide = true)]
    MediaWorker(MediaWorkerArgs),
}

/// Decode videos for another process of this program, or watch over a tool for it.
#[derive(Debug, Args)]
pub(crate) struct MediaWorkerArgs {
    /// A limit of memory in bytes, a tool and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) tool: Vec<String>,
}

/// The command that this program starts itself with.
pub(crate) const MEDIA_WORKER: &str = "media-worker";

/// Answer one prompt, or a file of conversations.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm run --image bee.jpg \"Can you describe this image?\"
  smolvlm run --video clip.mp4 \"What happens in this video?\"
  smolvlm run --image a.png --image b.png \"What differs between these two pictures?\"
  smolvlm run --messages conversation.json --max-new-tokens 64
  smolvlm run --model ./my-checkpoint --json \"Hello\" | jq .replies[0].text")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// A picture to show before the prompt: a path or URL. May be given several times.
    #[arg(long, value_name = "F")]
    pub(crate) image: Vec<String>,
    /// A video to show before the prompt: a path, URL or folder of frames. May be given several times.
    #[arg(long, value_name = "F")]
    pub(crate) video: Vec<String>,
    /// A system message. None is added unless given.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Conversations to answer instead: a JSON list of {role, content}, or a list of such lists.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "video", "system", "prompt"])]
    pub(crate) messages: Option<PathBuf>,
    /// What to ask.
    #[arg(required_unless_present = "messages")]
    pub(crate) prompt: Option<String>,
}

/// Talk with the model in the terminal; attach files with /image and /video.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm chat
  smolvlm chat --model ./my-checkpoint --system \"Answer in one sentence.\"

Inside, a line is a message. /image F and /video F attach a file to the next one; /undo takes the last exchange back; \
/reset starts over; /help lists all commands; /quit or end of input leaves.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// A system message. None is added unless given.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
}

/// Describe a model: architecture, parameters, the memory it will need, licence and intended use.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm info ./my-checkpoint
  smolvlm info ./my-checkpoint --adapter first-run/adapter
  smolvlm info HuggingFaceTB/SmolVLM2-256M-Video-Instruct --json")]
pub(crate) struct InfoArgs {
    /// A checkpoint folder or hub id.
    #[arg(default_value = smolvlm::DEFAULT_MODEL, value_name = "M")]
    pub(crate) model: String,
    /// Also describe an adapter in PEFT's layout, which must fit the model.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Fetch a model into the standard hub cache.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm download
  smolvlm download HuggingFaceTB/SmolVLM2-2.2B-Instruct
  HF_ENDPOINT=https://mirror.example HF_HOME=/data/hf smolvlm download")]
pub(crate) struct DownloadArgs {
    /// A hub id, owner/name or owner/name@revision.
    #[arg(default_value = smolvlm::DEFAULT_MODEL, value_name = "M")]
    pub(crate) model: String,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Write a packed checkpoint: smaller if wished, and loaded by memory map.
#[derive(Debug, Args)]
#[command(after_help = "\
The new folder holds the weights as they are computed with, and the model's other files. It is given as --model like any \
other; its number format is then the one chosen here, and replies are those of the original with the same --dtype.

Examples:
  smolvlm quantize --dtype q8 smolvlm-256m-q8
  smolvlm quantize --model HuggingFaceTB/SmolVLM2-2.2B-Instruct --dtype q4 smolvlm-2.2b-q4
  smolvlm quantize --model ./my-checkpoint --dtype bf16 my-checkpoint-packed --json
  smolvlm quantize --model ./my-checkpoint --adapter first-run/adapter --dtype q8 tuned-q8
  smolvlm run --model ./smolvlm-256m-q8 --image bee.jpg \"Can you describe this image?\"")]
pub(crate) struct QuantizeArgs {
    /// The original: a checkpoint folder or hub id.
    #[arg(long, default_value = smolvlm::DEFAULT_MODEL, value_name = "M")]
    pub(crate) model: String,
    /// An adapter that was trained on the original, in PEFT's layout. It is folded into the weights before they are packed.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// Number format of the packed weights: f32 and bf16 round nothing that loading in them does not; q8 and q4 are
    /// integers of 8 bits, and of 4 bits in the text layers.
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: DtypeArg,
    /// The new folder.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace the packed checkpoint that OUT holds. Nothing else is ever replaced.
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads that pack. 0: one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Teach a checkpoint what a data set holds: all weights, or adapters beside them.
#[derive(Debug, Args)]
#[command(after_help = "\
The configuration is a YAML file; what is not named has a default:
  model: ./smolvlm2-256m                  # a checkpoint folder or hub id
  data: mixture.yaml                      # a mixture, or a file or folder of records
  output: first-run                       # log.jsonl, the last place, what was learned
  epochs: 3
  batch: {by: count, samples: 4}
  learning_rate: {vision: 0, connector: 1e-4, text: 1e-4}
  lora: {rank: 8, alpha: 16}              # none: all weights learn; dora: true adds magnitudes
  evaluation: {share: 2%, every: 100, generate: 16}
A run that was stopped goes on where it last saved when it is started again.

Examples:
  smolvlm finetune --config run.yaml
  smolvlm finetune --config run.yaml --check
  smolvlm finetune --config run.yaml --steps 200 --rate 5e-5 --output second-run
  smolvlm finetune --config run.yaml --set schedule.warmup=20 --set 'lora={rank: 16, alpha: 32}'
  smolvlm run --model first-run/model --image bee.jpg \"What is this?\"
  smolvlm run --model ./smolvlm2-256m --adapter first-run/adapter --image bee.jpg \"What is this?\"")]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) run: TrainingArgs,
}

/// Train a model from nothing: its folder has no weights, they are drawn from a seed.
#[derive(Debug, Args)]
#[command(after_help = "\
The configuration is that of `smolvlm finetune`; `model` is a folder with config.json, the tokenizer's and the processor's \
files and no weights. The result is an ordinary checkpoint folder.
  model: ./demo-model                     # as `cargo run -p smolvlm-scenes --example model_folder` writes one
  data: [{scenes: {seed: 1, tiles: 0.1}}] # drawn while the model learns; or files, as for finetune
  output: demo-run
  steps: 20000
  batch: {by: count, samples: 384}
  learning_rate: 1e-3
  initial: {seed: 0}                      # what first weights are drawn from
  evaluation: {data: [{scenes: {split: held}}], every: 500, samples: 512}

Examples:
  smolvlm train --config run.yaml
  smolvlm train --config run.yaml --steps 100 --seed 1 --output trial
  smolvlm run --model demo-run/model --image scene.png \"How many stars are there?\"")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) run: TrainingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TrainingArgs {
    /// The run's file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Look at the data, say what cannot be used, and end.
    #[arg(long)]
    pub(crate) check: bool,
    /// A checkpoint folder or hub id.
    #[arg(long, value_name = "M", help_heading = "In place of the file's")]
    pub(crate) model: Option<String>,
    /// A mixture, or a file or folder of records.
    #[arg(long, value_name = "PATH", help_heading = "In place of the file's")]
    pub(crate) data: Option<PathBuf>,
    /// The run's folder.
    #[arg(long, value_name = "FOLDER", help_heading = "In place of the file's")]
    pub(crate) output: Option<PathBuf>,
    /// Most steps.
    #[arg(long, value_name = "N", help_heading = "In place of the file's")]
    pub(crate) steps: Option<u64>,
    /// One full learning rate for all parts.
    #[arg(long, value_name = "RATE", help_heading = "In place of the file's")]
    pub(crate) rate: Option<f64>,
    /// What order, adapters and dropout are drawn from.
    #[arg(long, value_name = "N", help_heading = "In place of the file's")]
    pub(crate) seed: Option<u64>,
    /// Number format.
    #[arg(long, value_name = "TYPE", help_heading = "In place of the file's")]
    pub(crate) dtype: Option<DtypeArg>,
    /// Any other value, as YAML; a key inside another is joined by a dot. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", help_heading = "In place of the file's")]
    pub(crate) set: Vec<String>,
    /// What computes: auto (an NVIDIA GPU if there is one that can be used), cpu, cuda or cuda:N.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub(crate) device: smolvlm::Device,
    /// Threads that compute. 0: one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Write JSON to standard output: a line for each step, then where the result is.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Write a checkpoint with an adapter in its weights.
#[derive(Debug, Args)]
#[command(after_help = "\
The adapter is a folder in PEFT's layout, LoRA or DoRA, as finetune and PEFT write it. The new folder holds the merged weights \
and the model's other files, and is given as --model like any other. (run, chat, bench, trace and evaluate also take --adapter itself, and \
quantize packs with it.)

Examples:
  smolvlm merge --adapter first-run/adapter tuned
  smolvlm merge --model ./my-checkpoint --adapter first-run/adapter tuned --dtype bf16
  smolvlm merge --model ./my-checkpoint --adapter first-run/adapter tuned --force --json
  smolvlm run --model ./tuned --image bee.jpg \"What is this?\"")]
pub(crate) struct MergeArgs {
    /// What the adapter was trained on: a checkpoint folder or hub id.
    #[arg(long, default_value = smolvlm::DEFAULT_MODEL, value_name = "M")]
    pub(crate) model: String,
    /// The adapter.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: PathBuf,
    /// Number format of the merged weights. Default: each tensor keeps its own.
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<StoredDtypeArg>,
    /// The new folder.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace the checkpoint that OUT holds. Nothing else is ever replaced.
    #[arg(long)]
    pub(crate) force: bool,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoredDtypeArg {
    F32,
    Bf16,
    F16,
}

/// Write every stage's numbers of one conversation, for comparing with other implementations.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes safetensors: input_ids i64 [T]; pixel_values f32 [tiles, 3, S, S] in prompt order; image_features f32 \
[image tokens, hidden]; logits f32 [T or 1, vocab]; generated_ids i64. The expanded prompt, frame indices and timestamps \
are metadata. The tensors of a batch are prefixed 0., 1., and so on.

Example:
  smolvlm trace --model ./my-checkpoint --messages conversation.json --out trace.safetensors")]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Conversations: a JSON list of {role, content}, or a list of such lists.
    #[arg(long, value_name = "FILE")]
    pub(crate) messages: PathBuf,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Greedy tokens to generate.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// Which prompt positions' logits to write.
    #[arg(long, default_value = "all", value_name = "WHICH")]
    pub(crate) logits: LogitsArg,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogitsArg {
    All,
    Last,
}

/// Show which frames of a video the model will see, and when.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm frames clip.mp4
  smolvlm frames clip.mp4 --out sheet.png
  smolvlm frames clip.mp4 --fps 2 --max-frames 16 --out sheet.png --columns 4
  smolvlm frames clip.mp4 --json | jq '.frames[].prompt_seconds'")]
pub(crate) struct FramesArgs {
    /// A video: a path, URL, folder of frames, or animated picture.
    #[arg(value_name = "VIDEO")]
    pub(crate) video: String,
    /// Whose settings to use: a checkpoint folder, or a hub id. Default: the published 256M and 500M models'.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Write one picture (PNG) of all the frames, with their times.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write each frame as it enters the vision tower, as PNG, into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) each: Option<PathBuf>,
    /// Frames side by side on the sheet.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) columns: u16,
    /// Pixels across of a frame on the sheet.
    #[arg(long, default_value_t = 200, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(16..=4096))]
    pub(crate) frame_width: u16,
    /// Which release of the reference to agree with.
    #[arg(long, value_name = "RELEASE")]
    pub(crate) compat: Option<CompatArg>,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Nothing on standard error but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Measure this machine: vision, prefill, decode, memory, and their share of the machine's measured peak.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvlm bench --model ./my-checkpoint
  smolvlm bench --model ./my-checkpoint --dtype f32 --threads 1 --prompt-tokens 128,1100 --json")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tiles encoded in one repetition.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) tiles: usize,
    /// Prompt lengths to measure prefill and decode at.
    #[arg(long, default_value = "128,1100", value_delimiter = ',', value_name = "N,N")]
    pub(crate) prompt_tokens: Vec<NonZeroUsize>,
    /// Also decode for so many sequences together.
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub(crate) sequences: Vec<NonZeroUsize>,
    /// Frames of the clip that is asked about.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) frames: usize,
    /// Tokens decoded in one repetition.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) decode_tokens: usize,
    /// Repetitions; the median is reported, with minimum and maximum.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) repeat: usize,
    /// Write JSON to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print a shell's completion script.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvlm completions bash > ~/.local/share/bash-completion/completions/smolvlm")]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A checkpoint folder or hub id.
    #[arg(long, default_value = smolvlm::DEFAULT_MODEL, value_name = "M")]
    pub(crate) model: String,
    /// An adapter that was trained on the model, in PEFT's layout. It is folded into the weights as they load.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// What computes: auto (an NVIDIA GPU if there is one that can be used), cpu, cuda or cuda:N.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub(crate) device: smolvlm::Device,
    /// Number format of weights and cache. Default: that of a packed checkpoint; of others, bf16 where the device
    /// multiplies it fast, else f32.
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<DtypeArg>,
    /// Compute threads of the processor. 0: one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Most memory for keys and values, in MiB. Default: what the machine has left.
    #[arg(long, value_name = "MIB")]
    pub(crate) cache_memory: Option<u64>,
    /// Tokens computed at a time while a prompt is read. Changes no result.
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<NonZeroUsize>,
    /// Agree with an older release of the Python reference (see docs/compat.md).
    #[arg(long, value_name = "RELEASE")]
    pub(crate) compat: Option<CompatArg>,
    /// Neither progress nor notes on standard error.
    #[arg(long, short, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Timings and details on standard error.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    Bf16,
    Q8,
    Q4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompatArg {
    #[value(name = "hf-5.23")]
    Hf523,
    #[value(name = "hf-5.17")]
    Hf517,
    #[value(name = "hf-4.57")]
    Hf457,
    Pil,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Images and video")]
pub(crate) struct MediaArgs {
    /// Show each picture as one tile instead of splitting it.
    #[arg(long)]
    pub(crate) no_split: bool,
    /// Longest edge, in pixels, that pictures and frames are brought to before they are cut into tiles.
    #[arg(long, value_name = "PIXELS")]
    pub(crate) longest_edge: Option<usize>,
    /// Most frames taken from a video.
    #[arg(long, value_name = "N")]
    pub(crate) max_frames: Option<usize>,
    /// Frames taken from each second of video.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) fps: Option<f64>,
    /// What decodes videos.
    #[arg(long, default_value = "auto", value_name = "READER")]
    pub(crate) video_reader: ReaderArg,
    /// Show videos as they are coded, not turned as their file asks.
    #[arg(long)]
    pub(crate) no_rotate: bool,
    /// Largest picture or frame that is decoded, in pixels. Default: 200 million.
    #[arg(long, value_name = "N")]
    pub(crate) max_pixels: Option<u64>,
    /// Longest wait for a remote file. Default: 120.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) media_timeout: Option<u64>,
    /// Let URLs reach this machine and private networks.
    #[arg(long)]
    pub(crate) allow_private_urls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReaderArg {
    Auto,
    Embedded,
    Ffmpeg,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerateArgs {
    /// Most tokens to generate, the end token included. Default: the checkpoint's, else 20 as in the reference.
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Choose at random, sharper below 1, flatter above. Without it and the options below: the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Choose at random among the K likeliest (0: all).
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Choose at random among the likeliest that together reach probability P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Choose at random among tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Seed of the random choice. Equal seeds give equal replies.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Make tokens that already occurred less likely (above 1).
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// End the reply before this text. May be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// End the reply at this token id too. May be given several times.
    #[arg(long, value_name = "ID")]
    pub(crate) stop_id: Vec<u32>,
    /// Report each token's log-probability and the N likeliest alternatives (with --json).
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0", requires = "json")]
    pub(crate) logprobs: Option<usize>,
    /// Write JSON to standard output, with timings and token counts.
    #[arg(long)]
    pub(crate) json: bool,
}
