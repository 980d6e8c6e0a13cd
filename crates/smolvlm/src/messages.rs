//! What the caller says: a conversation of roles and content.

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
