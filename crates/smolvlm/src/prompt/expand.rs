//! Replaces each medium's placeholder in a rendered prompt by the tokens the model was trained on.

use std::fmt::Write;

use super::clock;
use super::number_words::number_words;
use crate::preprocess::ImagePlan;
use crate::{Error, Result};

/// Stands for one picture in a rendered prompt, and for one of its tokens in an expanded one.
pub const IMAGE: &str = "<image>";
/// Stands for one video in a rendered prompt.
pub const VIDEO: &str = "<video>";
const FAKE: &str = "<fake_token_around_image>";
const GLOBAL: &str = "<global-img>";

/// Most image tokens in one prompt; far beyond any context, near enough to keep the text small.
const MAX_IMAGE_TOKENS: usize = 1 << 24;

/// How a picture was split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageGrid {
    /// Rows of tiles; 0 when not split.
    pub rows: usize,
    /// Columns of tiles; 0 when not split.
    pub cols: usize,
}

impl From<&ImagePlan> for ImageGrid {
    fn from(plan: &ImagePlan) -> Self {
        Self { rows: plan.rows, cols: plan.cols }
    }
}

/// What the prompt says about a video.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoLayout {
    /// Seconds from the start, for each sampled frame.
    pub times: Vec<f64>,
    /// Length of the video, in seconds.
    pub duration: f64,
    /// The number of frames the intro states. The reference states the frame count after padding: the largest among the
    /// videos of one call, also for the shorter ones.
    pub stated_frames: usize,
}

/// Which medium a stretch of image tokens belongs to: the index into the images or the videos given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaSlot {
    /// The i-th picture.
    Image(usize),
    /// The i-th video.
    Video(usize),
}

/// A prompt ready to be tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The text; it holds [`IMAGE`] once per image token.
    pub text: String,
    /// The media in prompt order.
    pub media: Vec<MediaSlot>,
    /// Image tokens of all media together. The tokenised prompt must hold as many.
    pub image_tokens: usize,
    /// Where each placeholder ended, in order.
    ends: Vec<Replaced>,
}

/// A placeholder that was replaced: where it ended in the rendered prompt, where its tokens end in the expanded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Replaced {
    rendered: usize,
    expanded: usize,
}

impl Expanded {
    /// Where the byte that stands at `offset` of the rendered prompt stands in [`text`](Self::text). `offset` is inside no
    /// placeholder.
    pub fn at(&self, offset: usize) -> usize {
        let before = self.ends.partition_point(|replaced| replaced.rendered <= offset);
        let last = before.checked_sub(1).map_or(Replaced { rendered: 0, expanded: 0 }, |last| self.ends[last]);
        last.expanded + (offset - last.rendered)
    }
}

/// Expands the placeholders of `rendered` from left to right: the i-th `<image>` is the i-th of `images`, the i-th
/// `<video>` the i-th of `videos`, in any mixture. `image_seq_len` is the number of image tokens per tile.
///
/// `get_text_with_replacements`, `replace_image_token` and `replace_video_token` of the reference, which cannot mix
/// pictures and videos.
///
/// # Errors
/// An input error when the placeholders are not as many as the media, or a video has no frames; a budget error for
/// millions of image tokens.
pub fn expand(rendered: &str, images: &[ImageGrid], videos: &[VideoLayout], image_seq_len: usize) -> Result<Expanded> {
    check_count(rendered, IMAGE, images.len())?;
    check_count(rendered, VIDEO, videos.len())?;
    let image_tokens = count_tokens(images, videos, image_seq_len)?;
    let tile = IMAGE.repeat(image_seq_len);
    let mut expanded = Expanded { text: String::new(), media: Vec::new(), image_tokens, ends: Vec::new() };
    let (mut images, mut videos) = (images.iter().enumerate(), videos.iter().enumerate());
    let mut rest = rendered;
    while let Some((before, placeholder, after)) = next_placeholder(rest) {
        expanded.text.push_str(before);
        if placeholder == IMAGE {
            let Some((index, grid)) = images.next() else { break };
            expanded.media.push(MediaSlot::Image(index));
            push_image(&mut expanded.text, *grid, &tile);
        } else {
            let Some((index, layout)) = videos.next() else { break };
            expanded.media.push(MediaSlot::Video(index));
            push_video(&mut expanded.text, layout, &tile);
        }
        rest = after;
        expanded.ends.push(Replaced { rendered: rendered.len() - rest.len(), expanded: expanded.text.len() });
    }
    expanded.text.push_str(rest);
    Ok(expanded)
}

fn check_count(rendered: &str, placeholder: &str, media: usize) -> Result<()> {
    let found = rendered.matches(placeholder).count();
    if found == media {
        return Ok(());
    }
    let advice = if found > media {
        "a placeholder stands for a medium: attach one for each, and do not write it in text"
    } else {
        "the chat template must place each of them"
    };
    let medium = placeholder.trim_matches(['<', '>']);
    Err(Error::input(format!("the prompt holds {placeholder} {found} times for {media} {medium}s: {advice}")))
}

fn count_tokens(images: &[ImageGrid], videos: &[VideoLayout], image_seq_len: usize) -> Result<usize> {
    if let Some(index) = videos.iter().position(|video| video.times.is_empty()) {
        return Err(Error::input(format!("video {} of the conversation has no frames", index + 1)));
    }
    let tiles = images.iter().map(|grid| grid.rows.saturating_mul(grid.cols).saturating_add(1));
    let views = tiles.chain(videos.iter().map(|video| video.times.len())).fold(0, usize::saturating_add);
    let tokens = views.saturating_mul(image_seq_len);
    if tokens > MAX_IMAGE_TOKENS {
        return Err(Error::budget(format!(
            "the media need {tokens} image tokens, at most {MAX_IMAGE_TOKENS} are supported: use fewer frames or pictures"
        )));
    }
    Ok(tokens)
}

/// The text before the first placeholder, the placeholder, and the text after it.
fn next_placeholder(text: &str) -> Option<(&str, &'static str, &str)> {
    let image = text.find(IMAGE).map(|at| (at, IMAGE));
    let video = text.find(VIDEO).map(|at| (at, VIDEO));
    let (at, placeholder) = image.into_iter().chain(video).min()?;
    Some((&text[..at], placeholder, &text[at + placeholder.len()..]))
}

/// `get_image_prompt_string`: each row of tiles ends in a newline, and one more precedes the global view.
fn push_image(text: &mut String, grid: ImageGrid, tile: &str) {
    for row in 1..=grid.rows {
        for col in 1..=grid.cols {
            let _ = write!(text, "{FAKE}<row_{row}_col_{col}>{tile}");
        }
        text.push('\n');
    }
    if grid.rows > 0 {
        text.push('\n');
    }
    push_view(text, tile);
}

/// `replace_video_token`: the intro, each frame under its time, and two newlines.
fn push_video(text: &mut String, video: &VideoLayout, tile: &str) {
    let (frames, duration) = (number_words(video.stated_frames as u64), clock::duration(video.duration));
    let _ =
        writeln!(text, "You are provided the following series of {frames} frames from a {duration} [H:MM:SS] video.");
    for &time in &video.times {
        let _ = write!(text, "\nFrame from {}:", clock::frame_time(time));
        push_view(text, tile);
    }
    text.push_str("\n\n");
}

fn push_view(text: &mut String, tile: &str) {
    text.extend([FAKE, GLOBAL, tile, FAKE]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: ImageGrid = ImageGrid { rows: 0, cols: 0 };

    fn short(text: &str) -> String {
        text.replace(FAKE, "F").replace(GLOBAL, "G").replace(IMAGE, "I")
    }

    #[test]
    fn an_unsplit_image_is_one_global_view() {
        let expanded = expand("a<image>b", &[WHOLE], &[], 3).unwrap();
        assert_eq!((short(&expanded.text).as_str(), expanded.image_tokens), ("aFGIIIFb", 3));
    }

    #[test]
    fn a_split_image_has_two_newlines_before_its_global_view_and_none_before_its_first_tile() {
        let grid = ImageGrid { rows: 2, cols: 1 };
        let expanded = expand("a<image>b", &[grid], &[], 1).unwrap();
        assert_eq!(short(&expanded.text), "aF<row_1_col_1>I\nF<row_2_col_1>I\n\nFGIFb");
    }

    #[test]
    fn a_video_states_its_frames_and_times() {
        let video = VideoLayout { times: vec![0.0, 65.5], duration: 66.9, stated_frames: 2 };
        let expanded = expand("<video>Go.", &[], &[video], 1).unwrap();
        let expected = "You are provided the following series of two frames from a 0:01:06 [H:MM:SS] video.\n\
                        \nFrame from 00:00:FGIF\nFrame from 01:05:FGIF\n\nGo.";
        assert_eq!(short(&expanded.text), expected);
    }

    #[test]
    fn the_shorter_of_two_videos_states_the_padded_count_and_lists_its_own_times() {
        let video = |frames: usize| VideoLayout {
            times: (0..frames).map(|second| second as f64).collect(),
            duration: frames as f64,
            stated_frames: 8,
        };
        let text = expand("<video><video>", &[], &[video(5), video(8)], 1).unwrap().text;
        assert_eq!((text.matches("series of eight frames").count(), text.matches("Frame from").count()), (2, 13));
    }

    #[test]
    fn pictures_and_videos_expand_in_order_of_appearance() {
        let video = VideoLayout { times: vec![0.0], duration: 1.0, stated_frames: 1 };
        let expanded = expand("<image>1<video>2<image>", &[WHOLE, WHOLE], &[video], 1).unwrap();
        assert_eq!(expanded.media, [MediaSlot::Image(0), MediaSlot::Video(0), MediaSlot::Image(1)]);
        assert_eq!((expanded.image_tokens, expanded.text.matches(IMAGE).count()), (3, 3));
    }

    #[test]
    fn places_in_the_rendered_prompt_are_found_in_the_expanded_one() {
        // No token has capital letters.
        let rendered = "A<image>B<image><image>CD";
        let expanded = expand(rendered, &[WHOLE, ImageGrid { rows: 1, cols: 2 }, WHOLE], &[], 2).unwrap();
        for letter in ['A', 'B', 'C', 'D'] {
            let from = rendered.find(letter).unwrap();
            assert_eq!(Some(expanded.at(from)), expanded.text.find(letter), "{letter}");
        }
        assert_eq!(expanded.at(rendered.len()), expanded.text.len());
    }

    #[test]
    fn a_count_that_does_not_match_is_refused() {
        for (text, images) in [("<image>", 0), ("", 1), ("<image><image>", 1)] {
            assert!(expand(text, &vec![WHOLE; images], &[], 1).is_err(), "{text:?} with {images}");
        }
        assert!(expand("<video>", &[], &[], 1).is_err());
    }

    #[test]
    fn absurd_sizes_are_refused_before_any_text_is_made() {
        let grid = ImageGrid { rows: usize::MAX, cols: 2 };
        assert_eq!(expand("<image>", &[grid], &[], 64).unwrap_err().kind(), crate::ErrorKind::Budget);
        let empty = VideoLayout { times: vec![], duration: 0.0, stated_frames: 0 };
        assert_eq!(expand("<video>", &[], &[empty], 64).unwrap_err().kind(), crate::ErrorKind::Input);
    }
}
