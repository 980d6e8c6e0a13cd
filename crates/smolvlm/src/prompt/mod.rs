//! Renders the chat template, expands media placeholders, tokenises. Knows special tokens, not pixels.

pub mod clock;
pub mod expand;
pub mod number_words;
mod stream;
mod template;
mod tokenizer;

pub use self::expand::{Expanded, ImageGrid, MediaSlot, VideoLayout, expand};
pub use self::stream::TextStream;
pub use self::template::ChatTemplate;
pub use self::tokenizer::PromptTokenizer;
