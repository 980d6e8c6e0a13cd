//! The `ffmpeg` and `ffprobe` tools, for what the embedded reader does not read.
//!
//! The tools see a file by its path, only through demuxers of self-contained media, and no network; they are stopped when
//! the video is dropped, when they make no progress, or when this process is gone.

mod guard;
mod input;
mod probe;
mod process;

use super::picture::rotate;
use super::timeline::Timeline;
use super::{Frame, StreamFacts, VideoSource, WorkerCommand, check_indices};
use crate::media::Image;
use crate::media::source::{MediaLimits, Opened};
use crate::{Error, Result};
use input::InputFile;
use process::{Tool, Tools};

pub use guard::guard_tool;

/// Demuxers of single self-contained files: none that follows references to others, as playlists do.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,\
                       yuv4mpegpipe,ivf,obu,m4v,mjpeg,apng,webp_pipe";

/// The most frames that the tool picks by number (its expressions nest 100 deep at most); beyond, it hands over all and
/// they are picked here.
const MAX_SELECTED: usize = 64;

/// Opens a video through the tools, which `guard` watches over.
pub(super) fn open(
    name: &str,
    opened: &Opened,
    limits: &MediaLimits,
    as_coded: bool,
    guard: Option<&WorkerCommand>,
) -> Result<Box<dyn VideoSource>> {
    let (file, tools) = (InputFile::of(opened)?, Tools::new(limits, guard));
    let mut probed = probe::probe(&file, &tools)?;
    if as_coded {
        probed.rotation = 0;
    }
    let pixels = probed.width as u64 * probed.height as u64;
    if pixels == 0 || pixels > limits.pixels {
        let (width, height, limit) = (probed.width, probed.height, limits.pixels);
        return Err(Error::input(format!("frames of {width}×{height} pixels are outside 1 to {limit} pixels")));
    }
    let timeline = Timeline::new(&probed.packets, probed.base)?;
    let shown = super::picture::rotated_size(probed.width, probed.height, probed.rotation);
    let facts = timeline.facts(name, &probed.codec, &probed.container, shown, probed.rotation);
    let coded = (probed.width, probed.height);
    Ok(Box::new(FfmpegVideo { facts, timeline, coded, file, tools }))
}

/// The fallback's error, preceded by why there was a fallback.
pub(super) fn explain_fallback(fallback: Error, why: &Error) -> Error {
    Error::new(fallback.kind(), format!("{why}; {fallback}")).caused_by(fallback)
}

struct FfmpegVideo {
    facts: StreamFacts,
    timeline: Timeline,
    /// Width and height before rotation.
    coded: (usize, usize),
    file: InputFile,
    tools: Tools,
}

impl VideoSource for FfmpegVideo {
    fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.timeline.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.timeline.times.len())?;
        let Some(&last) = indices.last() else { return Ok(()) };
        let selected = indices.len() <= MAX_SELECTED;
        let coming = if selected { indices.to_vec() } else { (0..=last).collect() };
        let mut tool = Tool::start("ffmpeg", &self.arguments(selected.then_some(indices), coming.len()), &self.tools)?;
        let (width, height) = self.coded;
        for index in coming {
            let rgb = tool.read_exactly(width * height * 3).map_err(|error| {
                error.at(format!("{}: frame {index} at {:.3} s", self.facts.name, self.timeline.times[index]))
            })?;
            if indices.binary_search(&index).is_ok() {
                let image = rotate(Image { width, height, rgb }, self.facts.rotation);
                sink(Frame { index, time: self.timeline.times[index], image })?;
            }
        }
        Ok(())
    }
}

impl FfmpegVideo {
    /// Raw RGB of the frames with these numbers, or of the first `count`, on standard output.
    fn arguments(&self, selected: Option<&[usize]>, count: usize) -> Vec<String> {
        let (width, height) = self.coded;
        // The flags of torchcodec's converter, without the ones that choose slower and different arithmetic.
        let scale = format!("scale={width}:{height}:flags=bilinear,format=rgb24");
        let filter = match selected {
            None => scale,
            Some(indices) => {
                let terms: Vec<String> = indices.iter().map(|index| format!("eq(n,{index})")).collect();
                format!("select='{}',{scale}", terms.join("+"))
            }
        };
        let mut arguments = input_arguments(&self.file);
        // Behind the level of messages, which ffmpeg 5.1 overlooks after `-noautorotate`.
        arguments.splice(2..2, ["-nostdin", "-noautorotate"].map(str::to_owned));
        let count = count.to_string();
        let output = ["-map", "0:v:0", "-vf", &filter, "-fps_mode", "passthrough", "-frames:v", &count];
        arguments.extend(output.map(str::to_owned));
        arguments.extend(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"].map(str::to_owned));
        arguments
    }
}

/// What both tools are told of the input: quiet, only files, only self-contained formats.
fn input_arguments(file: &InputFile) -> Vec<String> {
    let path = format!("file:{}", file.path().display());
    let fixed = ["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-i", &path];
    fixed.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Packet, TimeBase};
    use super::*;

    #[test]
    fn the_level_of_messages_comes_before_what_hides_it() {
        let packet = Packet { offset: 0, size: 1, pts: 0, duration: 1, sync: true, shown: true };
        let timeline = Timeline::new(&[packet], TimeBase { numerator: 1, denominator: 25 }).unwrap();
        let facts = timeline.facts("clip", "mpeg4", "avi", (4, 2), 0);
        let file = InputFile::of(&Opened::File("clip.avi".into())).unwrap();
        let tools = Tools::new(&MediaLimits::default(), None);
        let arguments = FfmpegVideo { facts, timeline, coded: (4, 2), file, tools }.arguments(Some(&[0]), 1);
        assert_eq!(arguments[..4], ["-v", "error", "-nostdin", "-noautorotate"]);
        assert!(arguments.contains(&"file:clip.avi".to_owned()), "{arguments:?}");
    }
}
