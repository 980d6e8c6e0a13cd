//! H.264 in length-prefixed samples (ISO/IEC 14496-15).
//!
//! Two crates decode it: `rusty_h264-decoder` is twice as fast and takes most files (progressive 8-bit 4:2:0),
//! `rust_h264` takes the rest, and whatever the first refuses on the way.

mod nal;
mod progressive;

use rust_h264::decoder::{ChromaFormat, Decoder as Complete, Frame as Decoded};
use rust_h264::nal::{SpsInfo, parse_avcc, parse_sps_info};

use super::bits::Units;
use super::bytes::Fields;
use super::embedded::{Access, Decoder, guarded};
use super::picture::{Chroma, Colour, Picture, Planes};
use super::stream::StreamHeader;
use crate::media::source::MediaLimits;
use crate::{Error, Result};
use progressive::Progressive;

/// Macroblocks of one picture, and of all reference pictures together, at level 6.2, the highest (table A-1).
const MAX_PICTURE_MACROBLOCKS: u64 = 139_264;
const MAX_REFERENCE_MACROBLOCKS: u64 = 696_320;

/// A decoder that takes one sample and gives its picture at once, in decode order.
pub(super) struct H264 {
    /// The parameter sets of `avcC`, length-prefixed as in a sample.
    parameter_sets: Vec<u8>,
    length_size: usize,
    inner: Inner,
    /// Whether the faster decoder has failed on this stream.
    is_difficult: bool,
    /// The latest parameter set's.
    colour: Colour,
    container_colour: Option<Colour>,
    size: (usize, usize),
    max_pixels: u64,
}

enum Inner {
    Progressive(Box<Progressive>),
    Complete(Box<Complete>),
}

impl H264 {
    /// A decoder for a stream, its parameter sets read and checked. Without out-of-band sets, the first sample's count.
    pub(super) fn open(stream: &StreamHeader, limits: &MediaLimits) -> Result<Self> {
        let (length_size, parameter_sets) =
            read_config(&stream.config).ok_or_else(|| Error::input("its H.264 configuration (`avcC`) is broken"))?;
        let mut this = Self {
            parameter_sets,
            length_size,
            inner: Inner::Progressive(Box::new(Progressive::new())),
            is_difficult: false,
            colour: Colour::UNKNOWN,
            container_colour: stream.colour,
            size: (0, 0),
            max_pixels: limits.pixels,
        };
        this.restart()?;
        Ok(this)
    }

    /// Refuses what the decoder cannot decode or what no level allows, and notes size and colour.
    fn check_parameters(&mut self, info: &SpsInfo) -> Result<()> {
        let unsupported = |what: String| Err(Error::input(format!("H.264 with {what} is not decoded here")));
        if info.chroma_format > 2 {
            return unsupported("4:4:4 chroma".to_owned());
        }
        let (luma, chroma) = (info.bit_depth_luma, info.bit_depth_chroma);
        if !matches!(luma, 8 | 10) || (chroma != luma && info.chroma_format != 0) {
            return unsupported(format!("{luma} bits of luma and {chroma} of chroma"));
        }
        let pixels = u64::from(info.coded_width) * u64::from(info.coded_height);
        let macroblocks = pixels / 256;
        let references = macroblocks * u64::from(info.reference_frames);
        if macroblocks > MAX_PICTURE_MACROBLOCKS || references > MAX_REFERENCE_MACROBLOCKS || info.reference_frames > 16
        {
            let (width, height, frames) = (info.coded_width, info.coded_height, info.reference_frames);
            return unsupported(format!("{width}×{height} pixels and {frames} reference frames, above every level,"));
        }
        if pixels > self.max_pixels || info.width == 0 || info.height == 0 {
            let (width, height, limit) = (info.width, info.height, self.max_pixels);
            return Err(Error::input(format!("frames of {width}×{height} pixels are outside 1 to {limit} pixels")));
        }
        self.size = (info.width as usize, info.height as usize);
        // The stream's own word goes first (libavcodec/h264_slice.c: get_pixel_format, init_dimensions).
        self.colour = Colour { matrix: info.matrix, full_range: info.full_range }.or(self.container_colour);
        Ok(())
    }

    /// Checks the sample's parameter sets, before any decoder sees them.
    fn check_sample(&mut self, sample: &[u8]) -> Result<()> {
        for unit in Units::new(sample, self.length_size).filter(|unit| nal::is_sps(unit)) {
            let prefixed = [&(unit.len() as u32).to_be_bytes()[..], unit].concat();
            for parsed in &parse_avcc(&prefixed, 4) {
                let info = guarded(|| parse_sps_info(parsed))?.map_err(broken)?;
                self.check_parameters(&info)?;
                let is_plain = info.progressive && info.chroma_format == 1 && info.bit_depth_luma == 8;
                self.is_difficult |= !is_plain || nal::has_unusual_order(&parsed.rbsp);
            }
        }
        Ok(())
    }

    fn feed(&mut self, sample: &[u8]) -> Result<Option<Picture>> {
        self.check_sample(sample)?;
        match &mut self.inner {
            Inner::Progressive(_) if self.is_difficult => {
                Err(Error::input("H.264 that is interlaced or not of 8 bits and 4:2:0 needs the other decoder"))
            }
            Inner::Progressive(decoder) => decoder.decode(Units::new(sample, self.length_size), self.colour),
            Inner::Complete(decoder) => {
                let units = guarded(|| parse_avcc(sample, self.length_size))?;
                for unit in &units {
                    guarded(|| decoder.decode_nal(unit))?.map_err(broken)?;
                }
                // Samples are whole access units, so nothing can still be missing from the picture.
                let frame = guarded(|| decoder.flush())?;
                frame.map(|frame| picture(frame, self.colour)).transpose()
            }
        }
    }
}

/// The length of length fields, and the parameter sets behind 4-byte lengths, from `avcC` (ISO/IEC 14496-15, 5.3.3.1).
fn read_config(config: &[u8]) -> Option<(usize, Vec<u8>)> {
    let mut fields = Fields(config);
    fields.skip(4)?;
    let length_size = usize::from(fields.u8()? & 3) + 1;
    let mut sets = Vec::new();
    for mask in [0x1F, 0xFF] {
        for _ in 0..fields.u8()? & mask {
            let length = usize::from(fields.u16()?);
            let unit = fields.take(length)?;
            sets.extend_from_slice(&(length as u32).to_be_bytes()[4 - length_size..]);
            sets.extend_from_slice(unit);
        }
    }
    Some((length_size, sets))
}

impl Decoder for H264 {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn access(&self, sample: &[u8]) -> Access {
        nal::access(sample, self.length_size)
    }

    fn restart(&mut self) -> Result<()> {
        let sets = std::mem::take(&mut self.parameter_sets);
        let mut fed = self.check_sample(&sets);
        if fed.is_ok() {
            self.inner = if self.is_difficult {
                Inner::Complete(Box::new(Complete::new()))
            } else {
                Inner::Progressive(Box::new(Progressive::new()))
            };
            fed = self.feed(&sets).map(|_| ());
        }
        self.parameter_sets = sets;
        fed
    }

    fn fall_back(&mut self) -> bool {
        self.is_difficult = true;
        matches!(self.inner, Inner::Progressive(_))
    }

    fn decode(&mut self, sample: &[u8]) -> Result<Option<Picture>> {
        self.feed(sample)
    }
}

fn broken(error: rust_h264::error::DecodeError) -> Error {
    Error::input(format!("the H.264 data is broken or of a kind not decoded here: {error}")).caused_by(error)
}

/// The complete decoder's frame.
fn picture(frame: Decoded, colour: Colour) -> Result<Picture> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let chroma = match frame.chroma_format {
        ChromaFormat::Yuv420 => Chroma::Yuv420,
        ChromaFormat::Yuv422 => Chroma::Yuv422,
    };
    let planes = if frame.bit_depth > 8 {
        Planes::from_pairs(&[frame.y, frame.u, frame.v])
    } else {
        Planes::Byte([frame.y, frame.u, frame.v])
    };
    // Chroma is missing only from monochrome pictures, which ffmpeg hands on with grey chroma.
    let planes = planes.with_grey_chroma(chroma.plane_len(width, height), frame.bit_depth.into());
    Picture { width, height, depth: frame.bit_depth.into(), chroma, planes, colour }.checked()
}
