//! `smolvlm demo`: what the demonstration model says of drawn pictures and a clip.

mod model;
mod scenes;

use serde_json::{Value, json};
use smolvlm::preprocess::Overrides;
use smolvlm::{GenerateOptions, MediaOptions, Reply, Result, SmolVlm};
use smolvlm_scenes::{Sample, correct};

use super::run::stream;
use crate::args::{DemoArgs, ModelArgs};
use crate::console::{self, Console, seconds};
use crate::drawn::{View, first_question};
use crate::picture::Protocol;
use crate::{json, plan};

/// Longer than any answer: a caption of six objects has 40 tokens.
const MOST_TOKENS: usize = 64;
const NAME: &str = "demonstration model";

pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    let mut model = load(args)?;
    let samples = scenes::samples(args.seed);
    let options = GenerateOptions::default().max_new_tokens(MOST_TOKENS);
    if args.json {
        let items: Vec<Value> =
            samples.iter().map(|sample| as_json(&mut model, sample, &options)).collect::<Result<_>>()?;
        let mut value = json::setup_of(&model, args.model.as_deref().unwrap_or(NAME));
        value["items"] = items.into();
        return json::print(&value);
    }
    let protocol = Protocol::choose(args.pictures);
    let mut right = 0;
    for sample in &samples {
        right += usize::from(show(&mut model, sample, &options, protocol)?);
    }
    console::print(&format!(
        "{right} of {} right. These kinds of pictures were kept out of training; --seed draws others, `smolvlm evaluate scenes` \
         counts over many.\n",
        samples.len()
    ))
}

/// The model that is named, else the one in this program. Pictures are shown in one tile: what is asked shows there.
fn load(args: &DemoArgs) -> Result<SmolVlm> {
    // Removed once the weights are in memory.
    let unpacked = if args.model.is_none() { Some(model::unpack()?) } else { None };
    let folder = unpacked.as_ref().map(|folder| folder.path().display().to_string());
    let model_args = ModelArgs {
        model: args.model.clone().or(folder).unwrap_or_default(),
        adapter: None,
        device: args.device,
        dtype: args.dtype,
        threads: args.threads,
        cache_memory: None,
        chunk: None,
        compat: None,
        quiet: true,
        verbose: false,
    };
    let mut model = plan::load(&model_args, None, &Console::new(true, false))?;
    let overrides = Overrides { split_images: Some(false), ..Overrides::default() };
    model.set_media_options(MediaOptions { overrides, ..MediaOptions::default() })?;
    let name = args.model.as_deref().unwrap_or(NAME);
    let parameters = model.config().parameter_count() as f64 / 1e6;
    let note = format!("{name}: {parameters:.1} M parameters, {} on {}", model.dtype().name(), model.compute());
    Console::new(args.quiet || args.json, false).note(&note);
    Ok(model)
}

/// Shows a sample and the model's answer; whether it is right.
fn show(model: &mut SmolVlm, sample: &Sample, options: &GenerateOptions, protocol: Protocol) -> Result<bool> {
    let turn = &sample.turns[0];
    let shown = protocol.show(&scenes::sheet(sample))?;
    let described = if shown.is_empty() { format!("[{}]\n", scenes::described(sample)) } else { shown };
    console::print(&format!("{described}{}\n  ", styled(protocol, "1", &turn.question)))?;
    let reply = stream(model, &first_question(sample, View::Seen), options)?;
    let right = correct(sample, 0, &reply.text);
    let verdict = if right {
        styled(protocol, "32", "✓ right")
    } else {
        format!("{} drawn for: {}", styled(protocol, "31", "✗"), turn.answer)
    };
    console::print(&format!("  {verdict} ({})\n\n", timing(&reply)))?;
    Ok(right)
}

fn timing(reply: &Reply) -> String {
    let (usage, timings) = (&reply.usage, &reply.timings);
    let later = usage.generated_tokens.saturating_sub(1);
    let speed = later as f64 / timings.decode.as_secs_f64().max(1e-9);
    let decode = if later == 0 { String::new() } else { format!(", then {speed:.0} tokens/s") };
    format!(
        "vision {}, {} tokens of prompt {}{decode}",
        seconds(timings.vision),
        usage.prompt_tokens,
        seconds(timings.prefill)
    )
}

/// Text in one of a terminal's styles, where there are any.
fn styled(protocol: Protocol, style: &str, text: &str) -> String {
    if protocol.has_colour() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

fn as_json(model: &mut SmolVlm, sample: &Sample, options: &GenerateOptions) -> Result<Value> {
    let reply = model.generate(&first_question(sample, View::Seen), options)?;
    let turn = &sample.turns[0];
    Ok(json!({
        "skill": sample.skill.name(),
        "media": scenes::described(sample),
        "question": turn.question,
        "expected": turn.answer,
        "right": correct(sample, 0, &reply.text),
        "reply": json::reply(model, &reply),
    }))
}
