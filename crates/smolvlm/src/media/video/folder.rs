//! Pictures one after another as a video: folders of numbered frames, and frames in memory.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::{Frame, StreamFacts, VideoSource, check_indices};
use crate::media::Image;
use crate::media::image::ImageFile;
use crate::media::source::{DecodedVideo, MediaLimits, MediaSource};
use crate::{Compat, Error, Result};

/// Frames per second of a folder that nobody gave a rate for; the reference assumes as much for frames without
/// metadata (`processing_smolvlm.py: replace_video_token`).
pub(super) const DEFAULT_RATE: f64 = 24.0;

/// Endings of the pictures that count as frames.
const ENDINGS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "jfif"];

/// Opens a folder of pictures as a video of `rate` frames per second, ordered by the numbers in their names.
///
/// # Errors
/// `Usage` for a rate that is not above 0, `Input` for a folder that cannot be read or holds no pictures. A frame of
/// another size than the first is refused when it is read.
pub fn open_frames(folder: &Path, rate: f64, limits: &MediaLimits) -> Result<Box<dyn VideoSource>> {
    let name = folder.display().to_string();
    let paths = numbered_pictures(folder).map_err(|error| error.at(&name))?;
    let ending = paths.first().and_then(|path| path.extension());
    let codec = ending.map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let frames = paths.into_iter().map(MediaSource::Path).collect();
    Ok(Box::new(Pictures::open(name, codec, "folder", frames, rate, limits)?))
}

/// Opens frames in memory as a folder of them would be.
pub(super) fn open_decoded(video: &DecodedVideo, name: String, limits: &MediaLimits) -> Result<Box<dyn VideoSource>> {
    let frames = video.frames.iter().cloned().map(MediaSource::Decoded).collect();
    Ok(Box::new(Pictures::open(name, "rawvideo".to_owned(), "memory", frames, video.rate, limits)?))
}

struct Pictures {
    facts: StreamFacts,
    times: Vec<f64>,
    frames: Vec<MediaSource>,
    limits: MediaLimits,
}

impl Pictures {
    fn open(
        name: String,
        codec: String,
        container: &str,
        frames: Vec<MediaSource>,
        rate: f64,
        limits: &MediaLimits,
    ) -> Result<Self> {
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(Error::usage(format!("{name}: a rate of {rate} frames per second is not above 0")));
        }
        let Some(first) = frames.first() else { return Err(Error::input(format!("{name}: it has no frames"))) };
        let first = decode(first, limits)?;
        let count = frames.len();
        let facts = StreamFacts {
            name,
            codec,
            container: container.to_owned(),
            width: first.width,
            height: first.height,
            frame_count: count,
            average_rate: rate,
            // As the reference has it for frames without metadata: the last frame's time.
            duration: (count - 1) as f64 / rate,
            rotation: 0,
            constant_rate: true,
            picked: true,
        };
        let times = (0..count).map(|index| index as f64 / rate).collect();
        Ok(Self { facts, times, frames, limits: limits.clone() })
    }
}

impl VideoSource for Pictures {
    fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.frames.len())?;
        for &index in indices {
            let frame = &self.frames[index];
            let image = decode(frame, &self.limits)?;
            let (width, height) = (self.facts.width, self.facts.height);
            if (image.width, image.height) != (width, height) {
                return Err(Error::input(format!(
                    "{}: its size is {}×{} where the first frame's is {width}×{height}; all frames must be of one size",
                    frame.name(),
                    image.width,
                    image.height
                )));
            }
            sink(Frame { index, time: self.times[index], image })?;
        }
        Ok(())
    }
}

/// The pictures of a folder in natural order. At least one.
fn numbered_pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| Error::input(format!("the folder cannot be read: {error}")).caused_by(error);
    let mut frames = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if is_picture(&path) && path.is_file() {
            frames.push(path);
        }
    }
    if frames.is_empty() {
        return Err(Error::input(format!("the folder holds no frames (files ending in {})", ENDINGS.join(", "))));
    }
    frames.sort_by(|a, b| natural(&file_name(a), &file_name(b)));
    Ok(frames)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    !file_name(path).starts_with('.') && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Compares names with runs of digits taken as numbers, so that `f2` comes before `f10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    while !a_rest.is_empty() && !b_rest.is_empty() {
        let ((a_run, a_next), (b_run, b_next)) = (split_run(a_rest), split_run(b_rest));
        let is_number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(a_run) && is_number(b_run) {
            let (x, y) = (a_run.trim_start_matches('0'), b_run.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            a_run.cmp(b_run)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a_rest, b_rest) = (a_next, b_next);
    }
    a_rest.len().cmp(&b_rest.len()).then_with(|| a.cmp(b))
}

/// The leading digits, or what comes before the first digit, and the rest.
fn split_run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

/// One frame in RGB.
fn decode(frame: &MediaSource, limits: &MediaLimits) -> Result<Image> {
    ImageFile::open(frame, limits, Compat::default())?.decode()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::media::source::DecodedImage;

    #[test]
    fn names_are_ordered_by_their_numbers() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f002.png", "g0.png", "f1b2.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["f1.png", "f1b2.png", "f002.png", "f2.png", "f10.png", "g0.png"]);
    }

    fn write_frame(folder: &Path, name: &str, width: u32, grey: u8) {
        image::RgbImage::from_pixel(width, 2, image::Rgb([grey; 3])).save(folder.join(name)).unwrap();
    }

    #[test]
    fn a_folder_is_a_video_at_the_rate_given() {
        let folder = tempfile::tempdir().unwrap();
        for (name, grey) in [("10.png", 3), ("9.png", 2), ("1.png", 1)] {
            write_frame(folder.path(), name, 4, grey);
        }
        std::fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
        let mut video = open_frames(folder.path(), 2.0, &MediaLimits::default()).unwrap();
        assert_eq!(video.timestamps(), [0.0, 0.5, 1.0]);
        assert_eq!((video.facts().frame_count, video.facts().duration), (3, 1.0));
        let mut seen = Vec::new();
        let mut sink = |frame: Frame| {
            seen.push((frame.index, frame.image.rgb[0]));
            Ok(())
        };
        video.read(&[0, 2], &mut sink).unwrap();
        assert_eq!(seen, [(0, 1), (2, 3)]);
    }

    fn grey(width: usize, level: u8) -> Arc<DecodedImage> {
        Arc::new(DecodedImage { width, height: 2, channels: 3, data: vec![level; 6 * width] })
    }

    #[test]
    fn frames_in_memory_are_a_video_at_the_rate_given() {
        let open = |frames, rate| open_decoded(&DecodedVideo { frames, rate }, "clip".into(), &MediaLimits::default());
        let mut video = open(vec![grey(4, 1), grey(4, 2), grey(4, 3)], 0.5).unwrap();
        assert_eq!(video.timestamps(), [0.0, 2.0, 4.0]);
        assert!(video.facts().picked && video.facts().duration == 4.0);
        let mut seen = Vec::new();
        let mut sink = |frame: Frame| {
            seen.push(frame.image.rgb[0]);
            Ok(())
        };
        video.read(&[1, 2], &mut sink).unwrap();
        assert_eq!(seen, [2, 3]);
        for (frames, rate, expected) in
            [(vec![], 1.0, "no frames"), (vec![grey(4, 1)], 0.0, "rate"), (vec![grey(0, 1)], 1.0, "no pixels")]
        {
            let error = open(frames, rate).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = open(vec![grey(4, 1), grey(6, 2)], 1.0).unwrap().read(&[0, 1], &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("6×2"), "{error}");
    }

    #[test]
    fn frames_of_different_sizes_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        write_frame(folder.path(), "1.png", 4, 0);
        write_frame(folder.path(), "2.png", 6, 0);
        let mut video = open_frames(folder.path(), DEFAULT_RATE, &MediaLimits::default()).unwrap();
        let error = video.read(&[0, 1], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("2.png") && error.contains("6×2") && error.contains("4×2"), "{error}");
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open_frames(folder.path(), DEFAULT_RATE, &MediaLimits::default()).is_err());
        assert!(open_frames(folder.path(), 0.0, &MediaLimits::default()).is_err());
    }
}
