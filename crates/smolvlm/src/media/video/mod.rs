//! Videos: stream facts, then timestamps, then frames by index.
//!
//! Three readers stand behind one seam, [`VideoSource`]: the embedded one (a container's packets → a codec's pictures →
//! RGB), pictures one after another (a folder, or frames in memory), and the `ffmpeg` tool for what the first cannot read.
//! What they report agrees with torchcodec's `VideoDecoder(seek_mode="exact")`, which the reference reads videos with
//! (`video_utils.py: read_video_torchcodec`): frames are those shown after edit lists, in presentation order, upright.

mod animation;
mod av1;
mod bits;
mod bytes;
mod embedded;
mod fallback;
mod ffmpeg;
mod folder;
mod h264;
mod hevc;
#[cfg(test)]
mod matrix;
mod matroska;
mod mp4;
mod parallel;
mod picture;
mod segment;
mod sniff;
mod stream;
mod timeline;
mod vp8;
mod vp9;
mod worker;
mod yuv;

use super::Frame;
use super::source::{MediaLimits, MediaSource, Opened};
use crate::{Error, Result};
use animation::Animation;
use bytes::ByteSource;
use embedded::Decoder;
use fallback::FallbackVideo;
use sniff::Container;
use stream::{EncodedStream, StreamHeader};
use worker::ApartVideo;

pub use ffmpeg::guard_tool;
pub use folder::open_frames;
pub use worker::{WorkerCommand, serve_standard_streams};

/// What the container and stream say of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamFacts {
    /// What to call it in messages.
    pub name: String,
    /// The codec, as ffmpeg names it (`h264`), or the kind of picture in a folder (`png`).
    pub codec: String,
    /// The container (`mp4`, `matroska`, `folder`, …).
    pub container: String,
    /// Pixels across as shown: cropped and upright.
    pub width: usize,
    /// Pixels down as shown: cropped and upright.
    pub height: usize,
    /// Frames that are shown.
    pub frame_count: usize,
    /// Frames per second: `frame_count ÷ duration`.
    pub average_rate: f64,
    /// Seconds from the first frame's time to the end of the last (torchcodec's `duration_seconds`).
    pub duration: f64,
    /// Clockwise degrees by which the coded pictures are turned to be shown: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Whether every frame stands within half a frame of `index ÷ average_rate` after the first.
    pub constant_rate: bool,
    /// Whether the frames were picked by whoever made them (a folder of pictures): all of them are meant to be seen.
    pub picked: bool,
}

/// An open video.
pub trait VideoSource: Send {
    /// What is known without decoding.
    fn facts(&self) -> &StreamFacts;

    /// Presentation time in seconds of each shown frame, in presentation order.
    fn timestamps(&self) -> &[f64];

    /// Decodes the frames with these indices (ascending, unique) and hands each to `sink` in order, one at a time.
    ///
    /// # Errors
    /// `Usage` for indices out of order or range, `Input` for what cannot be decoded, and whatever `sink` returns.
    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()>;
}

/// Which reader opens a video file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VideoReader {
    /// The embedded reader where it can, else the `ffmpeg` tool.
    #[default]
    Auto,
    /// The embedded reader or nothing.
    Embedded,
    /// The `ffmpeg` tool or nothing.
    Ffmpeg,
}

/// How videos are read.
#[derive(Debug, Clone, Default)]
pub struct VideoOptions {
    /// Which reader opens files.
    pub reader: VideoReader,
    /// Whether frames are shown as they are coded, rather than turned as their file asks.
    pub as_coded: bool,
    /// The program that decodes in a process of its own, and watches over the `ffmpeg` tool. Without one, a thread of
    /// this process decodes, which can be given up but not ended, and the tool has no limit of memory.
    pub worker: Option<WorkerCommand>,
}

/// Opens a video file, a folder of numbered frames at 24 frames per second, or frames in memory. Content decides, never the
/// name.
///
/// # Errors
/// `Input`: missing, empty, not a video, broken, larger than `limits`, or readable only by a tool that is not installed.
pub fn open_video(source: &MediaSource, limits: &MediaLimits, options: &VideoOptions) -> Result<Box<dyn VideoSource>> {
    let name = source.name();
    if let MediaSource::DecodedVideo(video) = source {
        return folder::open_decoded(video, name, limits);
    }
    let opened = source.open(limits)?;
    if let Opened::File(path) = &opened
        && path.is_dir()
    {
        return open_frames(path, folder::DEFAULT_RATE, limits);
    }
    open_file(&name, &opened, limits, options).map_err(|error| error.at(&name))
}

fn open_file(
    name: &str,
    opened: &Opened,
    limits: &MediaLimits,
    options: &VideoOptions,
) -> Result<Box<dyn VideoSource>> {
    // What is no video at all is refused before any reader sees it.
    sniff::container(&ByteSource::open(opened)?)?;
    let as_coded = options.as_coded;
    if options.reader == VideoReader::Ffmpeg {
        return ffmpeg::open(name, opened, limits, as_coded, options.worker.as_ref());
    }
    let embedded = ApartVideo::open(name, opened, limits, as_coded, options.worker.clone());
    let tool = || ffmpeg::open(name, opened, limits, as_coded, options.worker.as_ref());
    match (embedded, options.reader) {
        (Ok(video), VideoReader::Auto) => {
            let (name, opened, limits, worker) =
                (name.to_owned(), opened.clone(), limits.clone(), options.worker.clone());
            let tool = move || ffmpeg::open(&name, &opened, &limits, as_coded, worker.as_ref());
            Ok(Box::new(FallbackVideo::new(Box::new(video), Box::new(tool))))
        }
        (Ok(video), _) => Ok(Box::new(video)),
        (Err(why), VideoReader::Auto) => tool().map_err(|error| ffmpeg::explain_fallback(error, &why)),
        (Err(why), _) => Err(why),
    }
}

/// The seam where a container's demuxer and a codec's decoder meet. A process that is `expendable` may be ended by a
/// decoder.
fn open_embedded(
    name: &str,
    container: Container,
    bytes: ByteSource,
    limits: &MediaLimits,
    as_coded: bool,
    expendable: bool,
) -> Result<Box<dyn VideoSource>> {
    let animation = match container {
        Container::Gif => Some(animation::Format::Gif),
        Container::Apng => Some(animation::Format::Apng),
        Container::WebP => Some(animation::Format::WebP),
        _ => None,
    };
    if let Some(format) = animation {
        return Ok(Box::new(Animation::open(name, format, &bytes, limits)?));
    }
    let mut stream = open_stream(container, bytes)?;
    if as_coded {
        stream.header.rotation = 0;
    }
    if stream.header.codec == "av1" && !expendable && !cfg!(fuzzing) {
        // Its panics cross functions that end the process instead of unwinding.
        return Err(Error::input(
            "its codec is AV1, whose decoder may end the process on damaged data: name a program in \
             VideoOptions::worker that decodes it apart",
        ));
    }
    Ok(Box::new(embedded::EmbeddedVideo::open(name, stream, limits)?))
}

/// The video stream of a container.
fn open_stream(container: Container, bytes: ByteSource) -> Result<EncodedStream> {
    match container {
        Container::Mp4 => mp4::open(bytes),
        Container::Matroska => matroska::open(bytes),
        other => Err(Error::input(format!("{} is a container the embedded reader does not read", other.name()))),
    }
}

/// A decoder of the stream's codec.
fn open_decoder(stream: &StreamHeader, limits: &MediaLimits) -> Result<Box<dyn Decoder>> {
    Ok(match stream.codec.as_str() {
        "h264" => Box::new(h264::H264::open(stream, limits)?),
        "hevc" => Box::new(hevc::Hevc::open(stream, limits)?),
        "vp8" => Box::new(vp8::Vp8::open(limits)),
        "vp9" => Box::new(vp9::Vp9::open(stream, limits)),
        "av1" => Box::new(av1::Av1::open(stream, limits)?),
        other => return Err(Error::input(format!("{other} is a codec the embedded reader does not decode"))),
    })
}

/// Refuses indices that are not ascending, unique and in range.
fn check_indices(indices: &[usize], frame_count: usize) -> Result<()> {
    if let Some(pair) = indices.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::usage(format!("frame indices must ascend: {} then {}", pair[0], pair[1])));
    }
    match indices.last() {
        Some(&last) if last >= frame_count => {
            Err(Error::usage(format!("frame {last} was asked for, of a video with {frame_count} frames")))
        }
        _ => Ok(()),
    }
}
