//! What a checkpoint says about pixels: sizes, filter, normalisation, frame sampling.

use serde_json::Value;

use super::fields::Fields;
use super::normalise::Normalisation;
use super::resample::Filter;
use crate::{Error, Result};

/// Largest side of a tile, in pixels.
pub const MAX_TILE: usize = 4096;
/// Largest longest edge that a checkpoint or caller may ask for; pictures end at 4096 pixels whatever it says.
pub const MAX_EDGE: usize = 65_536;
/// Most frames that a checkpoint or caller may ask for.
pub const MAX_FRAMES: usize = 65_536;
/// Most image tokens that a checkpoint may claim for one tile.
pub const MAX_IMAGE_SEQ_LEN: usize = 4096;
/// Highest sampling rate that a checkpoint or caller may ask for, in frames per second.
pub const MAX_FPS: f64 = 1000.0;

/// Preprocessing settings of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Image tokens per tile.
    pub image_seq_len: usize,
    /// How still pictures become tiles.
    pub image: PixelSettings,
    /// Whether still pictures are split into tiles.
    pub split_images: bool,
    /// How video frames become tiles.
    pub video: PixelSettings,
    /// Most frames taken from one video.
    pub max_frames: usize,
    /// Frames taken per second of video.
    pub fps: f64,
}

/// How pictures of one kind are resized and normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelSettings {
    /// Longer side after the first resize, in pixels.
    pub longest_edge: usize,
    /// Side of a tile, in pixels.
    pub tile_size: usize,
    /// Kernel of every resize.
    pub filter: Filter,
    /// From 8-bit values to the tower's input.
    pub normalisation: Normalisation,
}

/// What matters of the published `preprocessor_config.json` of SmolVLM2-256M and 500M.
const PUBLISHED: &str = r#"{"do_image_splitting": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "max_image_size": {"longest_edge": 512}, "resample": 1, "size": {"longest_edge": 2048},
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}}}"#;

impl Settings {
    /// The settings of the published 256M and 500M models, whose tiles have 512 pixels a side.
    ///
    /// # Errors
    /// Never; the text of these settings is part of this program.
    pub fn published() -> Result<Self> {
        let parse = |text: &str| serde_json::from_str(text).map_err(|error| Error::internal(error.to_string()));
        let processor: Value = parse(r#"{"image_seq_len": 64}"#)?;
        let preprocessor: Value = parse(PUBLISHED)?;
        Self::from_files(Some(&processor), Some(&preprocessor), None)
    }

    /// Settings from the parsed files of a checkpoint, each where present, looked up as the reference does.
    ///
    /// Image settings: `processor_config.json["image_processor"]`, else `preprocessor_config.json`. Video settings:
    /// `processor_config.json["video_processor"]`, else `video_preprocessor_config.json`, else
    /// `preprocessor_config.json`, else the image settings. Absent fields have the library's defaults
    /// (`SmolVLMImageProcessor`, `SmolVLMVideoProcessor`); without any sampling rule it is the published one, 64 frames
    /// at 1 per second. Unknown fields are ignored.
    ///
    /// # Errors
    /// A checkpoint error that names file, field, expected and found.
    pub fn from_files(
        processor_config: Option<&Value>,
        preprocessor_config: Option<&Value>,
        video_preprocessor_config: Option<&Value>,
    ) -> Result<Self> {
        let processor = processor_config.map(|value| Fields::of(value, "processor_config.json")).transpose()?;
        let nested = |name: &str| processor_config.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        let image_file = first([
            (nested("image_processor"), "processor_config.json, `image_processor`"),
            (preprocessor_config, "preprocessor_config.json"),
        ])?;
        let video_file = first([
            (nested("video_processor"), "processor_config.json, `video_processor`"),
            (video_preprocessor_config, "video_preprocessor_config.json"),
            (preprocessor_config, "preprocessor_config.json"),
            (nested("image_processor"), "processor_config.json, `image_processor`"),
        ])?;
        let (Some(image), Some(video)) = (image_file, video_file) else {
            return Err(Error::checkpoint(
                "the checkpoint has neither preprocessor_config.json nor `image_processor` in processor_config.json: \
                 add the one it was published with",
            ));
        };
        let (max_frames, fps) = sampling(video)?;
        let settings = Self {
            image_seq_len: processor.map_or(Ok(169), |file| file.count("image_seq_len", 169, MAX_IMAGE_SEQ_LEN))?,
            image: PixelSettings::from_fields(image, image.longest_edge("size", 4 * 364, MAX_EDGE)?)?,
            split_images: image.flag("do_image_splitting", true)?,
            video: PixelSettings::from_fields(video, video_edge(video)?)?,
            max_frames,
            fps,
        };
        settings.check_tile_sizes()?;
        Ok(settings)
    }

    fn check_tile_sizes(&self) -> Result<()> {
        let (image, video) = (self.image.tile_size, self.video.tile_size);
        if image == video {
            return Ok(());
        }
        Err(Error::checkpoint(format!(
            "`max_image_size` is {image} for images and {video} for videos: the vision tower takes one size, make them equal"
        )))
    }
}

impl PixelSettings {
    fn from_fields(file: Fields<'_>, longest_edge: usize) -> Result<Self> {
        if !file.flag("do_resize", true)? {
            return Err(file.wrong("do_resize", "true (pictures must fit the vision tower)", &Value::Bool(false)));
        }
        Ok(Self {
            longest_edge,
            tile_size: file.longest_edge("max_image_size", 364, MAX_TILE)?,
            filter: filter(file)?,
            normalisation: normalisation(file)?,
        })
    }
}

/// The first of `files` that the checkpoint has.
fn first<'a, const N: usize>(files: [(Option<&'a Value>, &'a str); N]) -> Result<Option<Fields<'a>>> {
    let present = files.into_iter().find_map(|(value, place)| Some((value?, place)));
    present.map(|(value, place)| Fields::of(value, place)).transpose()
}

fn filter(file: Fields<'_>) -> Result<Filter> {
    match file.get("resample") {
        None => Ok(Filter::Lanczos),
        Some(value) => match value.as_u64() {
            Some(1) => Ok(Filter::Lanczos),
            Some(3) => Ok(Filter::Bicubic),
            _ => Err(file.wrong("resample", "1 (Lanczos) or 3 (bicubic)", value)),
        },
    }
}

fn normalisation(file: Fields<'_>) -> Result<Normalisation> {
    let factor = file.number("rescale_factor", 1.0 / 255.0)?;
    let (mean, std) = (file.per_channel("image_mean", 0.5)?, file.per_channel("image_std", 0.5)?);
    let bad = |name: &str, expected: &str| match file.get(name) {
        Some(found) => Err(file.wrong(name, expected, found)),
        None => Err(Error::internal(format!("the default of `{name}` is out of range"))),
    };
    if !(factor.is_finite() && factor > 0.0) {
        return bad("rescale_factor", "a positive number");
    }
    if !mean.iter().all(|value| value.is_finite()) {
        return bad("image_mean", "finite numbers");
    }
    if !std.iter().all(|value| value.is_finite() && (*value as f32).is_normal()) {
        return bad("image_std", "finite numbers other than zero");
    }
    Ok(Normalisation {
        rescale: file.flag("do_rescale", true)?.then_some(factor),
        mean_std: file.flag("do_normalize", true)?.then_some((mean, std)),
    })
}

/// `video_sampling.video_size` counts only without a `size` beside it: `SmolVLMVideoProcessor.__init__` overwrites it.
/// With the published files frames are therefore first enlarged to the images' longest edge.
fn video_edge(file: Fields<'_>) -> Result<usize> {
    match file.section("video_sampling")? {
        Some(sampling) if file.get("size").is_none() => sampling.longest_edge("video_size", 4 * 364, MAX_EDGE),
        _ => file.longest_edge("size", 4 * 364, MAX_EDGE),
    }
}

fn sampling(file: Fields<'_>) -> Result<(usize, f64)> {
    let (max_frames, fps, place) = match file.section("video_sampling")? {
        Some(sampling) => (sampling.count("max_frames", 64, MAX_FRAMES)?, sampling.number("fps", 1.0)?, sampling),
        None => (file.count("num_frames", 64, MAX_FRAMES)?, file.number("fps", 1.0)?, file),
    };
    match place.get("fps") {
        Some(found) if !(fps > 0.0 && fps <= MAX_FPS) => {
            Err(place.wrong("fps", &format!("frames per second above 0, at most {MAX_FPS}"), found))
        }
        _ => Ok((max_frames, fps)),
    }
}
