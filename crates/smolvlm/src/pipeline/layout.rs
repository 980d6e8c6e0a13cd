//! From messages and the sizes of their media to a tokenised prompt. Nothing is decoded.

use std::ops::Range;

use super::processor::Processor;
use crate::generate::check_context;
use crate::messages::Messages;
use crate::prompt::{ImageGrid, MediaSlot, VideoLayout, expand};
use crate::{Error, Result};

/// How a prompt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Where the assistant's next answer begins.
    Open,
    /// With its last message, and nothing is said of who wrote what.
    Whole,
    /// With its last message; the answers in it are located.
    Answered,
}

/// A prompt without its media.
pub(super) struct Layout {
    /// The text after expansion.
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    /// Ranges of `ids` that are the assistant's, if they are located.
    pub(super) replies: Vec<Range<usize>>,
    /// In prompt order.
    pub(super) media: Vec<MediaSlot>,
}

/// Writes the prompt of a conversation whose pictures and videos are cut as given.
pub(super) fn lay_out(
    processor: &Processor,
    messages: &Messages,
    grids: &[ImageGrid],
    videos: &[VideoLayout],
    ending: Ending,
) -> Result<Layout> {
    check_media(processor, grids, videos)?;
    let rendered = processor.template.render(messages, ending == Ending::Open)?;
    let expanded = expand(&rendered, grids, videos, processor.preprocessor.image_seq_len())?;
    let ids = processor.tokenizer.encode(&expanded.text)?;
    check_context(ids.len(), processor.context)?;
    let found = ids.iter().filter(|id| **id == processor.image_token).count();
    if found != expanded.image_tokens {
        return Err(Error::internal(format!(
            "{found} image tokens after tokenising, {} before",
            expanded.image_tokens
        )));
    }
    let replies = match ending {
        Ending::Open | Ending::Whole => Vec::new(),
        Ending::Answered => {
            let spans = processor.template.reply_spans(messages, &rendered)?;
            let spans: Vec<_> = spans.into_iter().map(|span| expanded.at(span.start)..expanded.at(span.end)).collect();
            processor.tokenizer.tokens_of(&ids, &expanded.text, &spans)?
        }
    };
    Ok(Layout { text: expanded.text, ids, replies, media: expanded.media })
}

/// Refuses media that alone fill the context, before a prompt of any length is written for them.
fn check_media(processor: &Processor, grids: &[ImageGrid], videos: &[VideoLayout]) -> Result<()> {
    let tiles = grids.iter().map(|grid| grid.rows.saturating_mul(grid.cols).saturating_add(1));
    let tiles = tiles.chain(videos.iter().map(|video| video.times.len())).fold(0, usize::saturating_add);
    let tokens = tiles.saturating_mul(processor.preprocessor.image_seq_len());
    let context = processor.context;
    if tokens <= context {
        return Ok(());
    }
    Err(Error::input(format!(
        "the media alone need {tokens} image tokens; the model's context holds {context}. Use fewer or smaller images \
         or fewer frames"
    )))
}
