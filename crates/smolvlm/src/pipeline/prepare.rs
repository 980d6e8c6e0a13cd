//! From messages to a tokenised prompt, with media opened but not yet decoded.

use super::{MediaOptions, SmolVlm};
use crate::compat::Compat;
use crate::generate::check_context;
use crate::media::image::ImageFile;
use crate::media::source::MediaSource;
use crate::media::video::{StreamFacts, VideoSource, open_video};
use crate::messages::Messages;
use crate::preprocess::{ImagePlan, Preprocessor};
use crate::prompt::{ImageGrid, MediaSlot, VideoLayout, expand};
use crate::{Error, Result};

/// A prompt whose media are still to be encoded.
pub(super) struct Prepared {
    /// The prompt's text after expansion.
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    /// In prompt order.
    pub(super) media: Vec<PreparedMedium>,
}

/// A medium that is open.
pub(super) enum PreparedMedium {
    Image { file: ImageFile, plan: ImagePlan },
    Video(PreparedVideo),
}

/// A video and the frames the model will see.
pub(super) struct PreparedVideo {
    pub(super) source: Box<dyn VideoSource>,
    pub(super) indices: Vec<usize>,
    /// Seconds, as the prompt prints them.
    pub(super) times: Vec<f64>,
}

impl PreparedMedium {
    pub(super) fn tiles(&self) -> usize {
        match self {
            Self::Image { plan, .. } => plan.tile_count(),
            Self::Video(video) => video.indices.len(),
        }
    }
}

impl Prepared {
    pub(super) fn tiles(&self) -> usize {
        self.media.iter().map(PreparedMedium::tiles).sum()
    }
}

/// Opens every medium of a batch of conversations and writes their prompts.
pub(super) fn prepare(model: &SmolVlm, conversations: &[Messages]) -> Result<Vec<Prepared>> {
    let prompts = conversations.iter().enumerate();
    prompts
        .map(|(i, messages)| {
            let prompt = open(model, messages).and_then(|media| write(model, messages, media));
            prompt.map_err(|error| numbered(error, i, conversations.len()))
        })
        .collect()
}

/// The error of conversation `i` of a batch, with its number.
pub(super) fn numbered(error: Error, i: usize, conversations: usize) -> Error {
    if conversations == 1 { error } else { error.at(format!("conversation {i}")) }
}

/// One conversation's media, in order of appearance by kind.
struct Opened {
    images: Vec<(ImageFile, ImagePlan)>,
    videos: Vec<PreparedVideo>,
}

fn open(model: &SmolVlm, messages: &Messages) -> Result<Opened> {
    let limits = &model.media.limits;
    let image = |source| {
        let file = ImageFile::open(source, limits, model.compat)?;
        let plan = model.preprocessor.plan_image(file.width(), file.height()).map_err(|error| error.at(file.name()))?;
        Ok((file, plan))
    };
    let video = |source| open_prepared(&model.preprocessor, &model.media, model.compat, source);
    Ok(Opened {
        images: messages.images().map(image).collect::<Result<_>>()?,
        videos: messages.videos().map(video).collect::<Result<_>>()?,
    })
}

/// Opens a video and picks its frames.
pub(super) fn open_prepared(
    preprocessor: &Preprocessor,
    media: &MediaOptions,
    compat: Compat,
    source: &MediaSource,
) -> Result<PreparedVideo> {
    let source = open_video(source, &media.limits, &media.video)?;
    let facts = source.facts();
    let indices = if facts.picked {
        preprocessor.picked_frames(facts.frame_count)
    } else {
        preprocessor.sample_frames(facts.frame_count, facts.average_rate, facts.duration)
    };
    let times = printed_times(facts, source.timestamps(), &indices, compat);
    Ok(PreparedVideo { source, indices, times })
}

/// What the prompt prints for each frame: index ÷ rate on constant-rate files, as the reference; on variable-rate ones
/// the stream's own times, unless a release is to be reproduced.
fn printed_times(facts: &StreamFacts, timestamps: &[f64], indices: &[usize], compat: Compat) -> Vec<f64> {
    let own = !facts.constant_rate && matches!(compat, Compat::Newest | Compat::Pil);
    let time = |i: usize| if own { timestamps[i] } else { i as f64 / facts.average_rate };
    indices.iter().map(|i| time(*i)).collect()
}

fn write(model: &SmolVlm, messages: &Messages, media: Opened) -> Result<Prepared> {
    // The reference pads the videos of a conversation to one length, and states that length for each.
    let stated_frames = media.videos.iter().map(|video| video.indices.len()).max().unwrap_or(0);
    let grids: Vec<ImageGrid> = media.images.iter().map(|(_, plan)| ImageGrid::from(plan)).collect();
    let layouts: Vec<VideoLayout> = media
        .videos
        .iter()
        .map(|video| VideoLayout { times: video.times.clone(), duration: video.source.facts().duration, stated_frames })
        .collect();
    check_media(model, &grids, &layouts)?;
    let rendered = model.template.render(messages, true)?;
    let expanded = expand(&rendered, &grids, &layouts, model.preprocessor.image_seq_len())?;
    let ids = model.tokenizer.encode(&expanded.text)?;
    check_context(ids.len(), model.config())?;
    let image_token = model.config().image_token_id;
    let found = ids.iter().filter(|id| **id == image_token).count();
    if found != expanded.image_tokens {
        return Err(Error::internal(format!(
            "{found} image tokens after tokenising, {} before",
            expanded.image_tokens
        )));
    }
    let mut images = media.images.into_iter();
    let mut videos = media.videos.into_iter();
    let slots = expanded.media.iter().map(|slot| match slot {
        MediaSlot::Image(_) => images.next().map(|(file, plan)| PreparedMedium::Image { file, plan }),
        MediaSlot::Video(_) => videos.next().map(PreparedMedium::Video),
    });
    let media = slots.collect::<Option<_>>().ok_or_else(|| Error::internal("a prompt shows a medium twice"))?;
    Ok(Prepared { text: expanded.text, ids, media })
}

/// Refuses media that alone fill the context, before a prompt of any length is written for them.
fn check_media(model: &SmolVlm, grids: &[ImageGrid], layouts: &[VideoLayout]) -> Result<()> {
    let tiles = grids.iter().map(|grid| grid.rows.saturating_mul(grid.cols).saturating_add(1));
    let tiles = tiles.chain(layouts.iter().map(|video| video.times.len())).fold(0, usize::saturating_add);
    let tokens = tiles.saturating_mul(model.preprocessor.image_seq_len());
    let context = model.config().text.max_positions;
    if tokens <= context {
        return Ok(());
    }
    Err(Error::input(format!(
        "the media alone need {tokens} image tokens; the model's context holds {context}. Use fewer or smaller images \
         or fewer frames"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(constant_rate: bool, compat: Compat) -> Vec<f64> {
        let facts = StreamFacts {
            name: String::new(),
            codec: String::new(),
            container: String::new(),
            width: 2,
            height: 2,
            frame_count: 3,
            average_rate: 2.0,
            duration: 1.5,
            rotation: 0,
            constant_rate,
            picked: false,
        };
        printed_times(&facts, &[0.0, 0.1, 1.4], &[0, 2], compat)
    }

    #[test]
    fn variable_rate_files_print_the_streams_own_times_unless_a_release_is_asked_for() {
        assert_eq!(times(true, Compat::Newest), [0.0, 1.0]);
        assert_eq!(times(false, Compat::Newest), [0.0, 1.4]);
        assert_eq!(times(false, Compat::Hf523), [0.0, 1.0]);
    }
}
