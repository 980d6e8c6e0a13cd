//! Animated GIF, PNG and WebP as videos, through the `image` crate, which composes their frames.
//!
//! Frames are decoded from the first on, since each is drawn over the one before; no more than one is kept. What stays
//! transparent is white.

use std::io::Cursor;
use std::sync::Arc;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frames, ImageDecoder, ImageError, Limits};

use super::bytes::ByteSource;
use super::timeline::{Packet, TimeBase, Timeline};
use super::{Frame, StreamFacts, VideoSource, check_indices};
use crate::media::Image;
use crate::media::source::MediaLimits;
use crate::{Error, Result};

/// The most frames of one file, and the most pixels of all of them together: opening looks at each.
const MAX_FRAMES: usize = 1 << 16;
const MAX_PIXELS: u64 = 1 << 34;
/// RGBA of 16 bits for a few canvases, and working memory.
const BYTES_PER_PIXEL: u64 = 32;
const FIXED_BYTES: u64 = 16 << 20;

/// A kind of animated picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Gif,
    Apng,
    WebP,
}

impl Format {
    /// As ffmpeg names codec and container.
    fn name(self) -> &'static str {
        match self {
            Self::Gif => "gif",
            Self::Apng => "apng",
            Self::WebP => "webp",
        }
    }

    /// Milliseconds that a frame is shown whose file says `stated`. Nobody shows frames as fast as some files ask.
    fn delay(self, stated: i64) -> i64 {
        match self {
            // libavformat/gifdec.c: below 2 hundredths means 10.
            Self::Gif if stated < 20 => 100,
            // libavformat/apngdec.c: 0 means a fifteenth of a second.
            Self::Apng if stated == 0 => 67,
            // As browsers do.
            Self::WebP if stated <= 10 => 100,
            _ => stated,
        }
    }
}

/// An animated picture.
pub(super) struct Animation {
    facts: StreamFacts,
    timeline: Timeline,
    format: Format,
    data: Arc<[u8]>,
    max_pixels: u64,
}

impl Animation {
    pub(super) fn open(name: &str, format: Format, bytes: &ByteSource, limits: &MediaLimits) -> Result<Self> {
        let data = bytes.read_all(limits.file_bytes)?;
        let mut size = (0, 0);
        let mut packets: Vec<Packet> = Vec::new();
        let mut pts = 0;
        let mut frames = frames(format, &data, limits.pixels)?;
        loop {
            let frame = match frames.next() {
                None => break,
                Some(Ok(frame)) => frame,
                // What is cut off is read as far as it goes.
                Some(Err(_)) if !packets.is_empty() => break,
                Some(Err(error)) => return Err(broken(format, error)),
            };
            size = (frame.buffer().width() as usize, frame.buffer().height() as usize);
            let pixels = (packets.len() as u64 + 1) * size.0 as u64 * size.1 as u64;
            if packets.len() == MAX_FRAMES || pixels > MAX_PIXELS {
                return Err(Error::input(format!(
                    "has more than {MAX_FRAMES} frames or {MAX_PIXELS} pixels in all; make a video of it"
                )));
            }
            let (numerator, denominator) = frame.delay().numer_denom_ms();
            let duration = format.delay(i64::from(numerator) / i64::from(denominator.max(1)));
            packets.push(Packet { offset: 0, size: 0, pts, duration, sync: packets.is_empty(), shown: true });
            pts += duration;
        }
        let timeline = Timeline::new(&packets, TimeBase { numerator: 1, denominator: 1000 })?;
        let facts = timeline.facts(name, format.name(), format.name(), size, 0);
        drop(frames);
        Ok(Self { facts, timeline, format, data, max_pixels: limits.pixels })
    }
}

impl VideoSource for Animation {
    fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    fn timestamps(&self) -> &[f64] {
        &self.timeline.times
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        check_indices(indices, self.timeline.times.len())?;
        let mut frames = frames(self.format, &self.data, self.max_pixels)?;
        let mut position = 0;
        for &index in indices {
            let skipped = index - position;
            let place = |error: Error| error.at(format!("{}: frame {index}", self.facts.name));
            let frame = frames.nth(skipped).ok_or_else(|| place(Error::input("it is missing")))?;
            let rgba = frame.map_err(|error| place(broken(self.format, error)))?.into_buffer();
            position = index + 1;
            let (width, height) = (rgba.width() as usize, rgba.height() as usize);
            let image = Image { width, height, rgb: on_white(&rgba) };
            sink(Frame { index, time: self.timeline.times[index], image })?;
        }
        Ok(())
    }
}

/// The frames of a file, composed one after another as they are asked for.
fn frames<'a>(format: Format, data: &'a [u8], pixels: u64) -> Result<Frames<'a>> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(FIXED_BYTES));
    let input = Cursor::new(data);
    let frames = match format {
        Format::Gif => GifDecoder::new(input).and_then(|mut decoder| {
            decoder.set_limits(limits)?;
            Ok((decoder.dimensions(), decoder.into_frames()))
        }),
        Format::Apng => PngDecoder::with_limits(input, limits).and_then(|decoder| {
            let size = decoder.dimensions();
            Ok((size, decoder.apng()?.into_frames()))
        }),
        Format::WebP => WebPDecoder::new(input).and_then(|mut decoder| {
            decoder.set_limits(limits)?;
            Ok((decoder.dimensions(), decoder.into_frames()))
        }),
    };
    let ((width, height), frames) = frames.map_err(|error| broken(format, error))?;
    let found = u64::from(width) * u64::from(height);
    if found == 0 || found > pixels {
        return Err(Error::input(format!("frames of {width}×{height} pixels are outside 1 to {pixels} pixels")));
    }
    Ok(frames)
}

fn on_white(rgba: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
    for &[red, green, blue, alpha] in rgba.as_chunks().0 {
        let over = |colour: u8| {
            let (colour, alpha) = (u32::from(colour), u32::from(alpha));
            ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        rgb.extend_from_slice(&[over(red), over(green), over(blue)]);
    }
    rgb
}

fn broken(format: Format, error: ImageError) -> Error {
    Error::input(format!("the {} file is broken: {error}", format.name())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_pixels_are_white() {
        assert_eq!(
            on_white(&[10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128]),
            [10, 20, 30, 255, 255, 255, 127, 127, 127]
        );
    }

    #[test]
    fn delays_that_nobody_shows_are_replaced() {
        assert_eq!([0, 10, 20, 40].map(|delay| Format::Gif.delay(delay)), [100, 100, 20, 40]);
        assert_eq!([0, 10].map(|delay| Format::Apng.delay(delay)), [67, 10]);
        assert_eq!([0, 10, 20].map(|delay| Format::WebP.delay(delay)), [100, 100, 20]);
    }
}
