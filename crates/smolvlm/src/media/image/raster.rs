//! PNG, WebP, BMP and TIFF through the `image` crate.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::format::Format;
use super::orientation::Orientation;
use super::tiff::Meaning;
use super::{Rules, bmp, convert, tiff};
use crate::media::Image;
use crate::{Error, Result};

/// Bytes of the widest pixel a decoder can hold (RGBA of 16 bits), and as much again for its working memory.
const BYTES_PER_PIXEL: u64 = 16;
/// Working memory that does not depend on the size of the picture.
const FIXED_BYTES: u64 = 16 << 20;
/// The most that deflate expands a byte to: a match of 258 in two bits.
const DEFLATE_RATIO: u64 = 1032;
/// Where a PNG file says which channels it has: 0 for grey, which a transparent grey makes two of.
const PNG_COLOUR_TYPE: usize = 25;

/// What the header of a file says.
pub(super) struct Info {
    /// Pixels across and down, as stored.
    pub(super) size: (usize, usize),
    /// Which way up it is.
    pub(super) orientation: Orientation,
}

/// Reads the header.
pub(super) fn info(format: Format, data: &[u8], pixels: u64) -> Result<Info> {
    let seen = if format == Format::Tiff { tiff::reinterpret(data).0 } else { Cow::Borrowed(data) };
    let mut decoder = open(format, &seen, pixels)?;
    let (width, height) = decoder.dimensions();
    let orientation = match format {
        Format::Tiff => Orientation::from_value(decoder.orientation().map(|value| value.to_exif().into()).unwrap_or(1)),
        // The reference reads no more of broken metadata either.
        _ => match decoder.exif_metadata() {
            Ok(Some(exif)) => Orientation::from_exif(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif)),
            _ => Orientation::default(),
        },
    };
    Ok(Info { size: (width as usize, height as usize), orientation })
}

/// Decodes to RGB as stored. The caller has checked the size that [`info`] gives.
pub(super) fn decode(format: Format, data: &[u8], pixels: u64, rules: Rules) -> Result<Image> {
    let (seen, meaning) =
        if format == Format::Tiff { tiff::reinterpret(data) } else { (Cow::Borrowed(data), Meaning::Plain) };
    let decoder = open(format, &seen, pixels)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|_| Error::input("it is too large"))?;
    check_backed(format, data, (width, height), bytes)?;
    let mut samples = vec![0; bytes];
    decoder.read_image(&mut samples).map_err(|error| broken(format, error))?;
    // The reference reads no BMP and TIFF; what its Pillow-based releases make of them holds for all.
    let rules = if matches!(format, Format::Bmp | Format::Tiff) { Rules::Pillow } else { rules };
    let grey = color == ColorType::L16 || (format == Format::Png && data.get(PNG_COLOUR_TYPE) == Some(&0));
    let samples = narrowed(color, samples, convert::narrow(rules, grey))?;
    let channels = usize::from(color.channel_count());
    let mut rgb = match meaning.to_rgb(&samples, channels) {
        Some(rgb) => rgb,
        None if channels == 3 => samples,
        None => convert::drop_alpha(&samples, channels),
    };
    if format == Format::Bmp {
        bmp::cut_short_colours(data, &mut rgb);
    }
    Ok(Image { width, height, rgb })
}

/// Refuses a file that is too short for the pixels it promises before they are given memory. WebP and TIFF can code a
/// plain picture of any size in a few bytes.
fn check_backed(format: Format, data: &[u8], (width, height): (usize, usize), bytes: usize) -> Result<()> {
    let backed = match format {
        // A row of the narrowest samples takes an eighth, or a sixteenth of what transparent ones become.
        Format::Png => (bytes / 32) as u64 <= (data.len() as u64).saturating_mul(DEFLATE_RATIO),
        Format::Bmp => bmp::holds(data, width, height),
        _ => true,
    };
    if backed {
        return Ok(());
    }
    let (name, found) = (format.name(), data.len());
    Err(Error::input(format!("broken {name} file: {found} bytes cannot hold a picture of {width}x{height}")))
}

fn open<'a>(format: Format, data: &'a [u8], pixels: u64) -> Result<Box<dyn ImageDecoder + 'a>> {
    if format == Format::WebP {
        check_riff_size(data)?;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(FIXED_BYTES));
    let input = Cursor::new(data);
    let decoder: Result<Box<dyn ImageDecoder + 'a>, ImageError> = match format {
        Format::Png => PngDecoder::with_limits(input, limits.clone()).map(|decoder| Box::new(decoder) as _),
        Format::WebP => WebPDecoder::new(input).map(|decoder| Box::new(decoder) as _),
        Format::Bmp => BmpDecoder::new(input).map(|decoder| Box::new(decoder) as _),
        Format::Tiff => TiffDecoder::new(input).map(|decoder| Box::new(decoder) as _),
        Format::Jpeg | Format::Gif => return Err(Error::internal("JPEG and GIF have their own decoders")),
    };
    let mut decoder = decoder.map_err(|error| broken(format, error))?;
    decoder.set_limits(limits).map_err(|error| broken(format, error))?;
    Ok(decoder)
}

/// libwebp refuses a file that is shorter than it says; the decoder here would make up what is missing.
fn check_riff_size(data: &[u8]) -> Result<()> {
    match data.get(4..).and_then(<[u8]>::first_chunk) {
        Some(&size) if data.len() as u64 >= u64::from(u32::from_le_bytes(size)) + 8 => Ok(()),
        _ => Err(Error::input("broken WebP file: it is truncated")),
    }
}

fn broken(format: Format, error: ImageError) -> Error {
    let what = match &error {
        ImageError::Limits(_) => "exceeds the limit of pixels",
        ImageError::Unsupported(_) => "is of a kind that is not read; convert it to PNG",
        _ => "is broken",
    };
    Error::input(format!("the {} file {what}: {error}", format.name())).caused_by(error)
}

/// Samples of 8 bits.
fn narrowed(color: ColorType, samples: Vec<u8>, narrow: fn(u16) -> u8) -> Result<Vec<u8>> {
    match color {
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => Ok(samples),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            Ok(samples.as_chunks::<2>().0.iter().map(|&sample| narrow(u16::from_ne_bytes(sample))).collect())
        }
        other => Err(Error::input(format!("pixels of type {other:?} are not supported; convert to 8 bits a sample"))),
    }
}
