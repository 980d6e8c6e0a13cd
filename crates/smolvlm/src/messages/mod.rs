//! What the caller says: a conversation of roles and content.
//!
//! ```
//! use smolvlm::messages::{Content, Messages};
//!
//! let messages = Messages::new()
//!     .system("Answer in one sentence.")
//!     .user([Content::image("cat.jpg"), Content::text("What is the cat doing?")])
//!     .assistant("It sleeps.")
//!     .user("Where?");
//! assert_eq!(messages.0.len(), 4);
//! ```

mod json;

use std::path::{Path, PathBuf};

pub use self::json::parse;
use crate::media::source::MediaSource;

/// A conversation: messages in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Messages(pub Vec<Message>);

/// One message: who says it, and what.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `user`, `assistant`, `system`, or whatever the template knows.
    pub role: String,
    /// Blocks in order.
    pub content: Vec<Content>,
}

/// One block of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Words.
    Text(String),
    /// A still picture.
    Image(MediaSource),
    /// A video.
    Video(MediaSource),
}

/// The blocks of one message: made from text, from one block, or from several.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks(pub Vec<Content>);

impl Messages {
    /// A conversation without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// The conversation with one more message.
    #[must_use]
    pub fn message(mut self, role: impl Into<String>, blocks: impl Into<Blocks>) -> Self {
        self.0.push(Message { role: role.into(), content: blocks.into().0 });
        self
    }

    /// The conversation with one more message of the user.
    #[must_use]
    pub fn user(self, blocks: impl Into<Blocks>) -> Self {
        self.message("user", blocks)
    }

    /// The conversation with one more message of the assistant: an earlier answer.
    #[must_use]
    pub fn assistant(self, blocks: impl Into<Blocks>) -> Self {
        self.message("assistant", blocks)
    }

    /// The conversation with one more message of the system. None is ever added unasked.
    #[must_use]
    pub fn system(self, blocks: impl Into<Blocks>) -> Self {
        self.message("system", blocks)
    }

    /// The pictures in order of appearance.
    pub fn images(&self) -> impl Iterator<Item = &MediaSource> {
        self.blocks().filter_map(|content| if let Content::Image(source) = content { Some(source) } else { None })
    }

    /// The videos in order of appearance.
    pub fn videos(&self) -> impl Iterator<Item = &MediaSource> {
        self.blocks().filter_map(|content| if let Content::Video(source) = content { Some(source) } else { None })
    }

    fn blocks(&self) -> impl Iterator<Item = &Content> {
        self.0.iter().flat_map(|message| &message.content)
    }
}

impl Content {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A still picture: a path or URL as text, or any source.
    pub fn image(source: impl Into<MediaSource>) -> Self {
        Self::Image(source.into())
    }

    /// A video: a path or URL as text, or any source.
    pub fn video(source: impl Into<MediaSource>) -> Self {
        Self::Video(source.into())
    }
}

impl From<&str> for Blocks {
    fn from(text: &str) -> Self {
        Self(vec![Content::text(text)])
    }
}

impl From<String> for Blocks {
    fn from(text: String) -> Self {
        Self(vec![Content::Text(text)])
    }
}

impl From<Content> for Blocks {
    fn from(content: Content) -> Self {
        Self(vec![content])
    }
}

impl From<Vec<Content>> for Blocks {
    fn from(content: Vec<Content>) -> Self {
        Self(content)
    }
}

impl<const N: usize> From<[Content; N]> for Blocks {
    fn from(content: [Content; N]) -> Self {
        Self(content.into())
    }
}

impl From<&str> for MediaSource {
    fn from(text: &str) -> Self {
        Self::parse(text, None)
    }
}

impl From<String> for MediaSource {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for MediaSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for MediaSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_reads_as_it_was_built() {
        let messages = Messages::new().user([Content::image("a.jpg"), Content::text("Hi")]).assistant("Hello");
        assert_eq!(messages.0[0].content, [Content::Image(MediaSource::Path("a.jpg".into())), Content::text("Hi")]);
        assert_eq!(messages.0[1], Message { role: "assistant".into(), content: vec![Content::text("Hello")] });
    }

    #[test]
    fn media_are_listed_in_order_of_appearance() {
        let messages = Messages::new()
            .user([Content::image("1"), Content::video("2"), Content::image("3")])
            .user([Content::text("x"), Content::video("4")]);
        let names = |sources: Vec<&MediaSource>| sources.into_iter().map(MediaSource::name).collect::<Vec<_>>();
        assert_eq!(names(messages.images().collect()), ["1", "3"]);
        assert_eq!(names(messages.videos().collect()), ["2", "4"]);
    }
}
