//! `smolvlm info`: what a model is and what it needs.

use smolvlm::adapter::AdapterFile;
use smolvlm::checkpoint::{Checkpoint, MemoryEstimate, ModelConfig, StoredDtype, hub, memory_estimate};
use smolvlm::{Dtype, GpuLibrary, Result};

use crate::args::InfoArgs;
use crate::card;
use crate::console::{self, Console, bytes};
use crate::json;

pub(crate) fn info(args: &InfoArgs) -> Result<()> {
    let mut bar = Console::new(args.quiet, false).download();
    let folder = hub::resolve(&args.model, &mut |progress| bar.update(&progress))?;
    bar.finish();
    let checkpoint = Checkpoint::open(&folder)?;
    checkpoint.validate()?;
    let checkpoint = checkpoint.with_adapter_in(args.adapter.as_deref())?;
    let config = checkpoint.config();
    if args.json {
        return json::print(&as_json(args, &checkpoint, config));
    }
    console::print(&as_text(&checkpoint, config))
}

/// What the model needs in every number format that it can be used in.
fn estimates(checkpoint: &Checkpoint) -> Vec<(&'static str, MemoryEstimate)> {
    let packed = checkpoint.packed_as().map(Dtype::from);
    let usable = [Dtype::F32, Dtype::Bf16, Dtype::Q8, Dtype::Q4].into_iter();
    let usable = usable.filter(|dtype| packed.is_none_or(|packed| packed == *dtype));
    usable.map(|dtype| (dtype.name(), memory_estimate(checkpoint.config(), dtype.format()))).collect()
}

fn as_text(checkpoint: &Checkpoint, config: &ModelConfig) -> String {
    let (text, vision) = (&config.text, &config.vision);
    let parameters = config.parameter_count() as f64 / 1e6;
    let mut lines = vec![
        format!("folder        {}", checkpoint.dir().display()),
        format!("parameters    {parameters:.1} M, {}", stored_as(checkpoint)),
        format!(
            "vision        {} layers × {} wide, {} heads, MLP {}; tiles of {} pixels in patches of {}",
            vision.layers, vision.hidden, vision.heads, vision.mlp, vision.image_size, vision.patch
        ),
        format!(
            "connector     {} × {} patches → 1 token; {} tokens a tile",
            config.scale_factor,
            config.scale_factor,
            config.tokens_per_tile()
        ),
        format!(
            "text          {} layers × {} wide, {} heads on {} key-value heads of {}, MLP {}",
            text.layers, text.hidden, text.heads, text.kv_heads, text.head_dim, text.mlp
        ),
        format!(
            "              vocabulary {}, context {}, rope θ {}, {} head",
            text.vocab,
            text.max_positions,
            text.rope_theta,
            if checkpoint.head_is_tied() { "tied" } else { "untied" }
        ),
    ];
    lines.extend(checkpoint.adapter().map(adapter_line));
    for (dtype, memory) in estimates(checkpoint) {
        lines.push(format!(
            "memory {dtype:4}   weights {}, keys and values {} a token ({} at full context)",
            bytes(memory.weights),
            bytes(memory.cache_per_token),
            bytes(memory.cache_at_full_context)
        ));
    }
    lines.extend(gpu_lines());
    lines.push(format!("licence       {}", card::LICENCE));
    lines.push(format!("meant for     {}", card::INTENDED_USE));
    lines.push(format!("not for       {}", card::MISUSE));
    lines.push(format!("cite          {}", card::CITATION));
    lines.join("\n") + "\n"
}

fn adapter_line(adapter: &AdapterFile) -> String {
    let (modules, parameters) = (adapter.matrices.len(), adapter.parameter_count() as f64 / 1e6);
    let made_on = if adapter.base.is_empty() { String::new() } else { format!("; made on {}", adapter.base) };
    format!("adapter       {} on {modules} matrices, {parameters:.2} M{made_on}", adapter.options.describe())
}

/// The GPUs of this machine, and what is missing to compute on them.
fn gpu_lines() -> Vec<String> {
    let (gpus, libraries) = match smolvlm::gpus() {
        Ok(found) => found,
        Err(error) => return vec![format!("GPU           {error}")],
    };
    let missing = libraries.iter().filter(|library| !library.present);
    let missing = missing.map(|GpuLibrary { name, purpose, package, .. }| {
        format!("              {name} is missing ({purpose}): it comes with {package}")
    });
    let found = gpus.iter().map(|gpu| format!("GPU           cuda:{}: {gpu}", gpu.index));
    if gpus.is_empty() { vec!["GPU           none".to_owned()] } else { found.chain(missing).collect() }
}

fn gpus_as_json() -> serde_json::Value {
    let Ok((gpus, libraries)) = smolvlm::gpus() else { return serde_json::Value::Null };
    let gpus: Vec<serde_json::Value> = gpus
        .iter()
        .map(|gpu| {
            serde_json::json!({
                "device": format!("cuda:{}", gpu.index), "name": gpu.name, "memory_bytes": gpu.memory,
                "compute_capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
            })
        })
        .collect();
    let missing: Vec<&str> = libraries.iter().filter(|library| !library.present).map(|library| library.name).collect();
    serde_json::json!({ "devices": gpus, "missing_libraries": missing })
}

fn stored_as(checkpoint: &Checkpoint) -> String {
    match checkpoint.packed_as() {
        Some(format) => {
            format!("packed as {}: {} used where they are mapped", format.name(), bytes(checkpoint.weight_bytes()))
        }
        None => format!("stored as {}", stored(checkpoint.config())),
    }
}

fn stored(config: &ModelConfig) -> &'static str {
    match config.stored_dtype {
        Some(StoredDtype::F32) => "f32",
        Some(StoredDtype::Bf16) => "bf16",
        Some(StoredDtype::F16) => "f16",
        None => "an unnamed type",
    }
}

fn as_json(args: &InfoArgs, checkpoint: &Checkpoint, config: &ModelConfig) -> serde_json::Value {
    let (text, vision) = (&config.text, &config.vision);
    let memory = |memory: &MemoryEstimate| {
        serde_json::json!({
            "weights_bytes": memory.weights,
            "cache_bytes_per_token": memory.cache_per_token,
            "cache_bytes_at_full_context": memory.cache_at_full_context,
        })
    };
    let estimates = estimates(checkpoint);
    let memory: serde_json::Map<String, serde_json::Value> =
        estimates.iter().map(|(dtype, estimate)| ((*dtype).to_owned(), memory(estimate))).collect();
    serde_json::json!({
        "model": args.model,
        "folder": checkpoint.dir(),
        "parameters": config.parameter_count(),
        "stored_dtype": stored(config),
        "adapter": checkpoint.adapter().map(json::adapter),
        "gpu": gpus_as_json(),
        "packed_dtype": checkpoint.packed_as().map(|format| format.name()),
        "weight_file_bytes": checkpoint.weight_bytes(),
        "vision": {
            "layers": vision.layers, "hidden": vision.hidden, "heads": vision.heads, "mlp": vision.mlp,
            "image_size": vision.image_size, "patch": vision.patch,
        },
        "scale_factor": config.scale_factor,
        "tokens_per_tile": config.tokens_per_tile(),
        "text": {
            "layers": text.layers, "hidden": text.hidden, "heads": text.heads, "kv_heads": text.kv_heads,
            "head_dim": text.head_dim, "mlp": text.mlp, "vocab": text.vocab, "max_positions": text.max_positions,
            "rope_theta": text.rope_theta, "tied_head": checkpoint.head_is_tied(),
        },
        "memory": memory,
        "licence": card::LICENCE,
        "intended_use": card::INTENDED_USE,
        "misuse": card::MISUSE,
        "citation": card::CITATION,
    })
}
