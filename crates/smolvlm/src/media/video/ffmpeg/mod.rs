//! The `ffmpeg` and `ffprobe` tools, for what the embedded reader does not read.
//!
//! The tools see a file by its path, only through demuxers of self-contained media, and no network; they are stopped when
//! the video is dropped or when they make no progress.

mod probe;
mod process;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::picture::rotate;
use super::timeline::Timeline;
use super::{Frame, StreamFacts, VideoSource, check_indices};
use crate::media::Image;
use crate::media::source::{MediaLimits, Opened};
use crate::{Error, Result};
use process::Tool;

/// Demuxers of single self-contained files: none that follows references to others, as playlists do.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,\
                       yuv4mpegpipe,ivf,obu,m4v,mjpeg,apng,webp_pipe";

/// The most frames that the tool picks by number (its expressions nest 100 deep at most); beyond, it hands over all and
/// they are picked here.
const MAX_SELECTED: usize = 64;

/// Opens a video through the tools.
pub(super) fn open(name: &str, opened: &Opened, limits: &MediaLimits, as_coded: bool) -> Result<Box<dyn VideoSource>> {
    let file = InputFile::of(opened)?;
    let mut probed = probe::probe(&file, limits)?;
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
    Ok(Box::new(FfmpegVideo { facts, timeline, coded, file, limits: limits.clone() }))
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
    limits: MediaLimits,
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
        let mut tool = Tool::start("ffmpeg", &self.arguments(selected.then_some(indices), coming.len()), &self.limits)?;
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
        arguments.insert(0, "-nostdin".to_owned());
        let count = count.to_string();
        arguments.splice(1..1, ["-noautorotate".to_owned()]);
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

/// A file the tools can open by path. One made for bytes at hand is removed when dropped.
struct InputFile {
    path: PathBuf,
    temporary: bool,
}

impl InputFile {
    fn of(opened: &Opened) -> Result<Self> {
        match opened {
            Opened::File(path) if path.to_str().is_none() => Err(Error::input("its name is not UTF-8; rename it")),
            Opened::File(path) => Ok(Self { path: path.clone(), temporary: false }),
            Opened::Bytes(bytes) => Self::temporary(bytes),
        }
    }

    fn temporary(bytes: &[u8]) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("smolvlm-{}-{number}.video", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let cannot = |error: std::io::Error| {
            Error::input(format!("cannot be copied to {} for ffmpeg: {error}", path.display())).caused_by(error)
        };
        let mut file = options.open(&path).map_err(cannot)?;
        let this = Self { path: path.clone(), temporary: true };
        std::io::Write::write_all(&mut file, bytes).map_err(cannot)?;
        Ok(this)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InputFile {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing can be done about a temporary file that refuses to go.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
