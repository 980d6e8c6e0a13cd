//! The model card's second snippet: a video, its answer shown as it comes.
//!
//! `cargo run --release -p smolvlm --example describe_video -- [MODEL] [VIDEO]`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use smolvlm::{Content, GenerateOptions, Messages, Result, SmolVlm};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| smolvlm::DEFAULT_MODEL.to_owned());
    let video = args.next().unwrap_or_else(|| "clip.mp4".to_owned());

    let mut model = SmolVlm::from_pretrained(&model)?;
    let messages =
        Messages::new().user([Content::video(video.as_str()), Content::text("Describe this video in detail")]);
    for piece in model.stream(&messages, &GenerateOptions::default().max_new_tokens(64))? {
        print!("{}", piece?.text);
    }
    println!();
    Ok(())
}
