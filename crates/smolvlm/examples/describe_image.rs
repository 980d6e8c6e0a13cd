//! The model card's first snippet: one picture, one question.
//!
//! `cargo run --release -p smolvlm --example describe_image -- [MODEL] [PICTURE]`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use smolvlm::{Content, GenerateOptions, Messages, Result, SmolVlm};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| smolvlm::DEFAULT_MODEL.to_owned());
    let picture = args.next().unwrap_or_else(|| "bee.jpg".to_owned());

    let mut model = SmolVlm::from_pretrained(&model)?;
    let question = Content::text("Can you describe this image?");
    let messages = Messages::new().user([Content::image(picture.as_str()), question]);
    let reply = model.generate(&messages, &GenerateOptions::default().max_new_tokens(64))?;
    println!("{}", reply.text);
    Ok(())
}
