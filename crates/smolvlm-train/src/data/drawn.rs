//! Samples that are drawn rather than read: each from its number alone.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use smolvlm::messages::Messages;

use crate::{Error, Result};

/// A source of any number of samples. What it draws must depend on nothing but its settings and the number, so that any
/// worker may draw any sample, and a run goes on where it stopped.
pub trait Drawing: fmt::Debug + Send + Sync {
    /// Sample `number`, without those before it.
    ///
    /// # Errors
    /// An input error that says what cannot be drawn.
    fn sample(&self, number: u64) -> Result<Sample>;

    /// Everything that samples depend on beside their number, for telling whether a saved place is one of this source's.
    fn identity(&self) -> String;
}

/// A conversation, and how its pictures are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The conversation, answers included. Pictures and clips that were drawn are in memory.
    pub messages: Messages,
    /// How its pictures become tiles.
    pub showing: Showing,
}

/// How the pictures of a sample become tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Showing {
    /// As the checkpoint says.
    #[default]
    AsSet,
    /// Split.
    Split,
    /// Each in one tile, as `smolvlm run --no-split` does: by way of the checkpoint's longest edge, mostly four tiles.
    Whole,
    /// Each in one tile by a single resize. Its values are near those of [`Whole`](Self::Whole), and it takes a fraction of the time.
    Direct,
}

impl From<Messages> for Sample {
    /// Pictures are shown as the checkpoint says.
    fn from(messages: Messages) -> Self {
        Self { messages, showing: Showing::AsSet }
    }
}

/// Makes a source from the settings that an entry's `scenes` holds.
pub type OpenDrawing<'a> = &'a dyn Fn(&Value) -> Result<Arc<dyn Drawing>>;

/// For mixtures of files alone.
///
/// # Errors
/// A usage error, always.
pub fn no_drawing(_: &Value) -> Result<Arc<dyn Drawing>> {
    Err(Error::usage("`scenes`: nothing draws samples here; expected `path`"))
}
