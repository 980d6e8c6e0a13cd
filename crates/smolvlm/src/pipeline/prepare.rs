//! From messages to a tokenised prompt, with media opened but not yet decoded.

use std::ops::Range;

use super::MediaOptions;
use super::layout::{Ending, Layout, lay_out};
use super::processor::Processor;
use crate::compat::Compat;
use crate::media::image::ImageFile;
use crate::media::source::MediaSource;
use crate::media::video::{StreamFacts, VideoSource, open_video};
use crate::messages::Messages;
use crate::preprocess::{ImagePlan, Preprocessor};
use crate::prompt::{ImageGrid, MediaSlot, VideoLayout};
use crate::{Error, Result};

/// A prompt whose media are open and still to be decoded.
pub struct Prepared {
    /// The prompt's text after expansion.
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    pub(super) replies: Vec<Range<usize>>,
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

    /// Pixels of the picture, or of one frame, as decoded.
    fn pixels(&self) -> u64 {
        let (width, height) = match self {
            Self::Image { file, .. } => (file.width(), file.height()),
            Self::Video(video) => (video.source.facts().width, video.source.facts().height),
        };
        (width as u64).saturating_mul(height as u64)
    }
}

impl Prepared {
    /// Token ids: `[T]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The text that the ids spell.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Ranges of [`ids`](Self::ids) that are the assistant's: from where an answer would be generated to its end token,
    /// which is included. None where they were not to be located.
    pub fn replies(&self) -> &[Range<usize>] {
        &self.replies
    }

    /// Tiles of all pictures, and frames of all videos.
    pub fn tiles(&self) -> usize {
        self.media.iter().map(PreparedMedium::tiles).sum()
    }

    /// Pixels of the largest picture or frame: three bytes each while it is decoded.
    pub fn largest_pixels(&self) -> u64 {
        self.media.iter().map(PreparedMedium::pixels).max().unwrap_or(0)
    }
}

/// Opens every medium of a batch of conversations and writes their prompts.
pub(super) fn prepare(processor: &Processor, conversations: &[Messages]) -> Result<Vec<Prepared>> {
    let prompts = conversations.iter().enumerate();
    prompts
        .map(|(i, messages)| {
            let prompt = open(processor, messages).and_then(|media| media.write(processor, messages, Ending::Open));
            prompt.map_err(|error| numbered(error, i, conversations.len()))
        })
        .collect()
}

/// The error of conversation `i` of a batch, with its number.
pub(super) fn numbered(error: Error, i: usize, conversations: usize) -> Error {
    if conversations == 1 { error } else { error.at(format!("conversation {i}")) }
}

/// One conversation's media, in order of appearance by kind.
pub(super) struct Opened {
    images: Vec<(ImageFile, ImagePlan)>,
    videos: Vec<PreparedVideo>,
}

pub(super) fn open(processor: &Processor, messages: &Messages) -> Result<Opened> {
    let limits = &processor.media.limits;
    let image = |source| {
        let file = ImageFile::open(source, limits, processor.compat)?;
        let plan = plan(processor, file.name(), file.width(), file.height())?;
        Ok((file, plan))
    };
    Ok(Opened {
        images: messages.images().map(image).collect::<Result<_>>()?,
        videos: open_videos(processor, messages)?,
    })
}

/// What a picture of this size becomes.
pub(super) fn plan(processor: &Processor, name: &str, width: usize, height: usize) -> Result<ImagePlan> {
    processor.preprocessor.plan_image(width, height).map_err(|error| error.at(name))
}

pub(super) fn open_videos(processor: &Processor, messages: &Messages) -> Result<Vec<PreparedVideo>> {
    let video = |source| open_prepared(&processor.preprocessor, &processor.media, processor.compat, source);
    messages.videos().map(video).collect()
}

/// What the prompt says of each video.
pub(super) fn layouts(videos: &[PreparedVideo]) -> Vec<VideoLayout> {
    // The reference pads the videos of a conversation to one length, and states that length for each.
    let stated_frames = videos.iter().map(|video| video.indices.len()).max().unwrap_or(0);
    let layout = |video: &PreparedVideo| VideoLayout {
        times: video.times.clone(),
        duration: video.source.facts().duration,
        stated_frames,
    };
    videos.iter().map(layout).collect()
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

impl Opened {
    pub(super) fn write(self, processor: &Processor, messages: &Messages, ending: Ending) -> Result<Prepared> {
        let grids: Vec<ImageGrid> = self.images.iter().map(|(_, plan)| ImageGrid::from(plan)).collect();
        let Layout { text, ids, replies, media } =
            lay_out(processor, messages, &grids, &layouts(&self.videos), ending)?;
        let (mut images, mut videos) = (self.images.into_iter(), self.videos.into_iter());
        let slots = media.iter().map(|slot| match slot {
            MediaSlot::Image(_) => images.next().map(|(file, plan)| PreparedMedium::Image { file, plan }),
            MediaSlot::Video(_) => videos.next().map(PreparedMedium::Video),
        });
        let media = slots.collect::<Option<_>>().ok_or_else(|| Error::internal("a prompt shows a medium twice"))?;
        Ok(Prepared { text, ids, replies, media })
    }
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
