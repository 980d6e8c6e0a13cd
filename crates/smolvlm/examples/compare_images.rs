//! The model card's third snippet: two pictures in one question.
//!
//! `cargo run --release -p smolvlm --example compare_images -- [MODEL] [PICTURE] [PICTURE]`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use smolvlm::{Content, GenerateOptions, Messages, Result, SmolVlm};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| smolvlm::DEFAULT_MODEL.to_owned());
    let [first, second] = ["first.jpg", "second.jpg"].map(|name| args.next().unwrap_or_else(|| name.to_owned()));

    let mut model = SmolVlm::from_pretrained(&model)?;
    let question = Content::text("What is the similarity between these two images?");
    let messages = Messages::new().user([question, Content::image(first), Content::image(second)]);
    let reply = model.generate(&messages, &GenerateOptions::default().max_new_tokens(64))?;
    println!("{}", reply.text);
    Ok(())
}
