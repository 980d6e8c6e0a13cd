//! Any text as a chat template, rendered over a conversation; and any bytes as a tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smolvlm::prompt::{ChatTemplate, PromptTokenizer};
use smolvlm::{Content, Messages};

fuzz_target!(|files: (&str, &[u8])| {
    let (template, tokenizer) = files;
    let messages = Messages::new().user([Content::image("a.png"), Content::text("What is this?")]);
    if let Ok(template) = ChatTemplate::from_caller(template) {
        let _ = template.render(&messages, true);
    }
    if let Ok(tokenizer) = PromptTokenizer::from_bytes(tokenizer) {
        let _ = tokenizer.encode("What is this? <image>");
    }
});
