//! From flags to the library's options, and from those to a loaded model.

use std::time::Duration;

use smolvlm::generate::CachePlan;
use smolvlm::media::source::MediaLimits;
use smolvlm::media::video::{VideoOptions, VideoReader, WorkerCommand};
use smolvlm::preprocess::Overrides;
use smolvlm::{Compat, Dtype, GenerateOptions, LoadOptions, MediaOptions, Result, Sampling, SmolVlm};

use crate::args::{CompatArg, DtypeArg, GenerateArgs, MEDIA_WORKER, MediaArgs, ModelArgs, ReaderArg};
use crate::console::Console;

/// Loads the model that the flags name, showing progress and saying what is in use.
pub(crate) fn load(model: &ModelArgs, media: Option<&MediaArgs>, console: &Console) -> Result<SmolVlm> {
    let options = LoadOptions {
        dtype: model.dtype.map(dtype),
        adapter: model.adapter.clone(),
        device: model.device,
        threads: model.threads,
        compat: model.compat.map_or_else(Compat::default, compat),
        cache: CachePlan {
            bytes: model.cache_memory.map(|mib| mib.saturating_mul(1 << 20)),
            step_tokens: model.chunk.map(usize::from),
        },
        media: media.map(media_options).unwrap_or_default(),
    };
    let mut download = console.download();
    let mut loaded = options.load_with(&model.model, &mut |progress| download.update(&progress))?;
    download.finish();
    let adapter = model.adapter.as_ref().map_or(String::new(), |folder| format!(" with {}", folder.display()));
    console.note(&format!("{}{adapter}: {} on {}", model.model, loaded.dtype().name(), loaded.compute()));
    if !loaded.ignored_settings().is_empty() {
        let names = loaded.ignored_settings().join(", ");
        console.note(&format!("generation_config.json asks for what is not supported and is ignored: {names}"));
    }
    if let Some(hook) = console.vision_progress() {
        loaded.on_progress(hook);
    }
    Ok(loaded)
}

/// The checkpoint's defaults, changed where flags say so.
pub(crate) fn generate_options(model: &SmolVlm, args: &GenerateArgs) -> GenerateOptions {
    let defaults = model.default_options();
    let samples = args.temperature.is_some() || args.top_k.is_some() || args.top_p.is_some() || args.min_p.is_some();
    let base = defaults.sampling.clone().or_else(|| samples.then(Sampling::default));
    // A temperature of 0 is the usual way to ask for the likeliest token.
    let sampling = base.filter(|_| args.temperature != Some(0.0)).map(|base| Sampling {
        temperature: args.temperature.unwrap_or(base.temperature),
        top_k: args.top_k.unwrap_or(base.top_k),
        top_p: args.top_p.unwrap_or(base.top_p),
        min_p: args.min_p.unwrap_or(base.min_p),
        seed: args.seed.unwrap_or(base.seed),
    });
    let mut stop_strings = defaults.stop_strings.clone();
    stop_strings.extend_from_slice(&args.stop);
    GenerateOptions {
        max_new_tokens: args.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        sampling,
        repetition_penalty: args.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        stop_ids: args.stop_id.clone(),
        stop_strings,
        logprobs: args.logprobs,
        ..defaults
    }
}

pub(crate) fn media_options(args: &MediaArgs) -> MediaOptions {
    let overrides = Overrides {
        split_images: args.no_split.then_some(false),
        longest_edge: args.longest_edge,
        max_frames: args.max_frames,
        fps: args.fps,
    };
    let reader = match args.video_reader {
        ReaderArg::Auto => VideoReader::Auto,
        ReaderArg::Embedded => VideoReader::Embedded,
        ReaderArg::Ffmpeg => VideoReader::Ffmpeg,
    };
    let defaults = MediaLimits::default();
    let limits = MediaLimits {
        pixels: args.max_pixels.unwrap_or(defaults.pixels),
        timeout: args.media_timeout.map_or(defaults.timeout, Duration::from_secs),
        allow_private_addresses: args.allow_private_urls,
        ..defaults
    };
    MediaOptions { overrides, video: VideoOptions { reader, as_coded: args.no_rotate, worker: worker() }, limits }
}

/// Media of training data, decoded as those of prompts are by default.
pub(crate) fn training_media() -> MediaOptions {
    MediaOptions { video: VideoOptions { worker: worker(), ..VideoOptions::default() }, ..MediaOptions::default() }
}

/// This very program, started again to decode videos where a broken one can do no harm.
fn worker() -> Option<WorkerCommand> {
    let program = std::env::current_exe().ok()?;
    Some(WorkerCommand { program, arguments: vec![MEDIA_WORKER.to_owned()] })
}

pub(crate) fn dtype(arg: DtypeArg) -> Dtype {
    match arg {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::Bf16 => Dtype::Bf16,
        DtypeArg::Q8 => Dtype::Q8,
        DtypeArg::Q4 => Dtype::Q4,
    }
}

pub(crate) fn compat(arg: CompatArg) -> Compat {
    match arg {
        CompatArg::Hf523 => Compat::Hf523,
        CompatArg::Hf517 => Compat::Hf517,
        CompatArg::Hf457 => Compat::Hf457,
        CompatArg::Pil => Compat::Pil,
    }
}
