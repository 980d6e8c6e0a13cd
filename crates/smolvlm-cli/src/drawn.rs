//! Drawn samples as conversations.

use std::sync::Arc;

use smolvlm::media::source::{DecodedImage, DecodedVideo, MediaSource};
use smolvlm::{Content, Error, Messages};
use smolvlm_scenes::{Medium, Picture, Sample};

/// What a model gets to see of a sample's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The media.
    Seen,
    /// Grey media of the same sizes and times.
    Blank,
    /// Nothing.
    Unseen,
}

/// The grey of blank media: the middle, which the model's processor makes about 0.
const GREY: u8 = 128;

/// A sample's first question as a user asks it.
pub(crate) fn first_question(sample: &Sample, view: View) -> Messages {
    let start = sample.system.as_deref().map_or_else(Messages::new, |system| Messages::new().system(system));
    let media = if view == View::Unseen { &[] } else { sample.media.as_slice() };
    let mut blocks: Vec<Content> = media.iter().map(|medium| content(medium, view == View::Blank)).collect();
    blocks.extend(sample.turns.first().map(|turn| Content::text(turn.question.as_str())));
    start.user(blocks)
}

fn content(medium: &Medium, blank: bool) -> Content {
    match medium {
        Medium::Picture(picture) => Content::image(MediaSource::Decoded(decoded(picture, blank))),
        Medium::Clip(clip) => {
            let frames = clip.frames.iter().map(|frame| decoded(frame, blank)).collect();
            Content::video(MediaSource::DecodedVideo(Arc::new(DecodedVideo { frames, rate: clip.rate() })))
        }
    }
}

fn decoded(picture: &Picture, blank: bool) -> Arc<DecodedImage> {
    let data = if blank { vec![GREY; picture.rgb.len()] } else { picture.rgb.clone() };
    Arc::new(DecodedImage { width: picture.width, height: picture.height, channels: 3, data })
}

/// The generator's error as this program reports it.
pub(crate) fn ours(error: smolvlm_scenes::Error) -> Error {
    Error::input(error.to_string()).caused_by(error)
}
