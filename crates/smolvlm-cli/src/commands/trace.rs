//! `smolvlm trace`: every stage's numbers, for comparing with other implementations.

use smolvlm::generate::Logits;
use smolvlm::{Result, Trace};

use super::{Conversations, read_messages};
use crate::args::{LogitsArg, TraceArgs};
use crate::console::{self, Console};
use crate::{json, plan};

pub(crate) fn trace(args: &TraceArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let Conversations { list: conversations, is_batch } = read_messages(&args.messages)?;
    let mut model = plan::load(&args.model, Some(&args.media), &console)?;
    let logits = match args.logits {
        LogitsArg::All => Logits::All,
        LogitsArg::Last => Logits::Last,
    };
    let traces: Vec<Trace> = conversations
        .iter()
        .enumerate()
        .map(|(i, messages)| {
            let trace = model.trace(messages, args.max_new_tokens, logits);
            trace.map_err(|error| if conversations.len() == 1 { error } else { error.at(format!("conversation {i}")) })
        })
        .collect::<Result<_>>()?;
    Trace::write(&traces, &args.out, is_batch)?;
    if args.json {
        let mut value = json::setup(&model, &args.model);
        value["out"] = serde_json::json!(args.out);
        value["conversations"] = traces.iter().map(summary).collect();
        return json::print(&value);
    }
    for trace in &traces {
        console::print(&format!(
            "{} prompt tokens, {} tiles, {} generated\n",
            trace.input_ids.len(),
            trace.tiles,
            trace.generated_ids.len()
        ))?;
    }
    Ok(())
}

fn summary(trace: &Trace) -> serde_json::Value {
    serde_json::json!({
        "prompt_tokens": trace.input_ids.len(),
        "tiles": trace.tiles,
        "generated_ids": trace.generated_ids,
    })
}
