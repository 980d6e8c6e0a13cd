//! `smolvlm run`: one prompt or a file of conversations, answered.

use smolvlm::messages::{Content, Messages};
use smolvlm::{FinishReason, GenerateOptions, Reply, Result, SmolVlm};

use super::read_messages;
use crate::args::RunArgs;
use crate::console::{self, Console, seconds};
use crate::{json, plan};

pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let conversations = conversations(args)?;
    let mut model = plan::load(&args.model, Some(&args.media), &console)?;
    let options = plan::generate_options(&model, &args.generate);
    if args.generate.json {
        let replies = model.generate_batch(&conversations, &options)?;
        let mut value = json::setup(&model, &args.model);
        value["replies"] = replies.iter().map(|reply| json::reply(&model, reply)).collect();
        return json::print(&value);
    }
    let replies = if let [conversation] = conversations.as_slice() {
        vec![stream(&mut model, conversation, &options)?]
    } else {
        print_all(&model.generate_batch(&conversations, &options)?)?
    };
    replies.iter().for_each(|reply| report(console, reply, &options));
    Ok(())
}

/// What the flags ask: the conversations of a file, or one message with its media first.
fn conversations(args: &RunArgs) -> Result<Vec<Messages>> {
    if let Some(path) = &args.messages {
        return read_messages(path).map(|file| file.list);
    }
    let mut blocks: Vec<Content> = args.image.iter().map(|source| Content::image(source.as_str())).collect();
    blocks.extend(args.video.iter().map(|source| Content::video(source.as_str())));
    blocks.extend(args.prompt.as_deref().map(Content::text));
    let start = Messages::new();
    let start = match &args.system {
        Some(system) => start.system(system.as_str()),
        None => start,
    };
    Ok(vec![start.user(blocks)])
}

/// Prints a reply as it comes.
pub(super) fn stream(model: &mut SmolVlm, conversation: &Messages, options: &GenerateOptions) -> Result<Reply> {
    let mut stream = model.stream(conversation, options)?;
    let mut begun = false;
    for piece in &mut stream {
        let piece = piece?;
        // The prompt ends in "Assistant:", so replies begin with a space that says nothing.
        let text = if begun { piece.text.as_str() } else { piece.text.trim_start() };
        begun |= !text.is_empty();
        console::print(text)?;
    }
    console::print("\n")?;
    let mut replies = stream.into_replies();
    Ok(replies.swap_remove(0))
}

fn print_all(replies: &[Reply]) -> Result<Vec<Reply>> {
    for (i, reply) in replies.iter().enumerate() {
        console::print(&format!("[{i}] {}\n", reply.text.trim_start()))?;
    }
    Ok(replies.to_vec())
}

/// Says what a reply cost, and that it was cut off if it was.
pub(super) fn report(console: Console, reply: &Reply, options: &GenerateOptions) {
    let (usage, timings) = (&reply.usage, &reply.timings);
    let later = usage.generated_tokens.saturating_sub(1) as f64 / timings.decode.as_secs_f64().max(1e-9);
    console.detail(&format!(
        "{} prompt tokens ({} of images), {} generated; open {}, decode and resize {}, vision {}, prefill {}, first token \
         after {}, then {later:.1} tokens/s",
        usage.prompt_tokens,
        usage.image_tokens,
        usage.generated_tokens,
        seconds(timings.prepare),
        seconds(timings.media),
        seconds(timings.vision),
        seconds(timings.prefill),
        seconds(timings.first_token),
    ));
    match reply.finish {
        FinishReason::Length => {
            console.note(&format!("(cut off after {} tokens; --max-new-tokens allows more)", options.max_new_tokens))
        }
        FinishReason::Context => console.note("(cut off: the model's context is full)"),
        _ => {}
    }
}
