//! What `--json` prints.

use serde::Serialize;
use serde_json::{Value, json};
use smolvlm::adapter::AdapterFile;
use smolvlm::generate::{Candidate, TokenLogprob};
use smolvlm::{Error, Reply, Result, SmolVlm};

use crate::args::ModelArgs;
use crate::console;

/// Prints a value, indented.
pub(crate) fn print(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::internal(error.to_string()))?;
    console::print(&(text + "\n"))
}

/// What is in use: recorded with every result.
pub(crate) fn setup(model: &SmolVlm, args: &ModelArgs) -> Value {
    let mut value = setup_of(model, &args.model);
    if let Some(adapter) = &args.adapter {
        value["adapter"] = json!(adapter);
    }
    value
}

/// The same of a model by name.
pub(crate) fn setup_of(model: &SmolVlm, name: &str) -> Value {
    json!({ "model": name, "dtype": model.dtype().name(), "compute": model.compute() })
}

/// What an adapter is.
pub(crate) fn adapter(file: &AdapterFile) -> Value {
    let options = &file.options;
    json!({
        "base": file.base,
        "rank": options.rank,
        "alpha": options.alpha,
        "scaling": options.scaling(),
        "dora": options.dora,
        "modules": file.matrices.iter().map(|matrices| matrices.module.as_str()).collect::<Vec<&str>>(),
        "parameters": file.parameter_count(),
    })
}

/// One reply.
pub(crate) fn reply(model: &SmolVlm, reply: &Reply) -> Value {
    let seconds = |duration: std::time::Duration| duration.as_secs_f64();
    let timings = &reply.timings;
    let mut value = json!({
        "text": reply.text,
        "ids": reply.ids,
        "finish": reply.finish.name(),
        "usage": {
            "prompt_tokens": reply.usage.prompt_tokens,
            "image_tokens": reply.usage.image_tokens,
            "generated_tokens": reply.usage.generated_tokens,
        },
        "timings_seconds": {
            "prepare": seconds(timings.prepare),
            "media": seconds(timings.media),
            "vision": seconds(timings.vision),
            "prefill": seconds(timings.prefill),
            "decode": seconds(timings.decode),
            "first_token": seconds(timings.first_token),
            "total": seconds(timings.total),
        },
    });
    if !reply.logprobs.is_empty() {
        value["logprobs"] = reply.logprobs.iter().map(|logprob| token(model, logprob)).collect();
    }
    value
}

fn token(model: &SmolVlm, logprob: &TokenLogprob) -> Value {
    let candidate = |candidate: &Candidate| {
        let text = model.tokenizer().decode(&[candidate.id], false);
        json!({ "id": candidate.id, "text": text, "logprob": candidate.logprob })
    };
    let mut value = candidate(&logprob.chosen);
    value["top"] = logprob.top.iter().map(candidate).collect();
    value
}
