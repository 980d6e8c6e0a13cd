//! `smolvlm info`: what a model is and what it needs.

use smolvlm::Result;
use smolvlm::checkpoint::{Checkpoint, MemoryEstimate, ModelConfig, StoredDtype, hub, memory_estimate};

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
    let config = checkpoint.config();
    if args.json {
        return json::print(&as_json(args, &checkpoint, config));
    }
    console::print(&as_text(&checkpoint, config))
}

fn estimates(config: &ModelConfig) -> [(&'static str, MemoryEstimate); 2] {
    [("bf16", memory_estimate(config, StoredDtype::Bf16)), ("f32", memory_estimate(config, StoredDtype::F32))]
}

fn as_text(checkpoint: &Checkpoint, config: &ModelConfig) -> String {
    let (text, vision) = (&config.text, &config.vision);
    let parameters = config.parameter_count() as f64 / 1e6;
    let mut lines = vec![
        format!("folder        {}", checkpoint.dir().display()),
        format!("parameters    {parameters:.1} M, stored as {}", stored(config)),
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
    for (dtype, memory) in estimates(config) {
        lines.push(format!(
            "memory {dtype:4}   weights {}, keys and values {} a token ({} at full context)",
            bytes(memory.weights),
            bytes(memory.cache_per_token),
            bytes(memory.cache_at_full_context)
        ));
    }
    lines.push(format!("licence       {}", card::LICENCE));
    lines.push(format!("meant for     {}", card::INTENDED_USE));
    lines.push(format!("not for       {}", card::MISUSE));
    lines.push(format!("cite          {}", card::CITATION));
    lines.join("\n") + "\n"
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
    let [(_, bf16), (_, f32)] = estimates(config);
    serde_json::json!({
        "model": args.model,
        "folder": checkpoint.dir(),
        "parameters": config.parameter_count(),
        "stored_dtype": stored(config),
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
        "memory": { "bf16": memory(&bf16), "f32": memory(&f32) },
        "licence": card::LICENCE,
        "intended_use": card::INTENDED_USE,
        "misuse": card::MISUSE,
        "citation": card::CITATION,
    })
}
