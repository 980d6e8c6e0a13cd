//! PNG, WebP, BMP and TIFF through the `image` crate.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::format::Format;
use super::orientation::Orientation;
use super::{Rules, convert};
use crate::media::Image;
use crate::{Error, Result};

/// Bytes of the widest pixel a decoder can hold (RGBA of 16 bits), and as much again for its working memory.
const BYTES_PER_PIXEL: u64 = 16;
/// Working memory that does not depend on the size of the picture.
const FIXED_BYTES: u64 = 16 << 20;

/// What the header of a file says.
pub(super) struct Info {
    /// Pixels across and down, as stored.
    pub(super) size: (usize, usize),
    /// Which way up it is.
    pub(super) orientation: Orientation,
}

/// Reads the header.
pub(super) fn info(format: Format, data: &[u8], pixels: u64) -> Result<Info> {
    let mut decoder = open(format, data, pixels)?;
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
    let decoder = open(format, data, pixels)?;
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|_| Error::input("it is too large"))?;
    let mut samples = vec![0; bytes];
    decoder.read_image(&mut samples).map_err(|error| broken(format, error))?;
    // The reference reads no BMP and TIFF; what its Pillow-based releases make of them holds for all.
    let rules = if matches!(format, Format::Bmp | Format::Tiff) { Rules::Pillow } else { rules };
    Ok(Image { width: width as usize, height: height as usize, rgb: to_rgb(color, samples, rules)? })
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
        ImageError::Unsupported(_) => "is of an unsupported kind",
        _ => "is broken",
    };
    Error::input(format!("the {} file {what}: {error}", format.name())).caused_by(error)
}

fn to_rgb(color: ColorType, samples: Vec<u8>, rules: Rules) -> Result<Vec<u8>> {
    let channels = usize::from(color.channel_count());
    match color {
        ColorType::Rgb8 => Ok(samples),
        ColorType::L8 | ColorType::La8 | ColorType::Rgba8 => Ok(convert::drop_alpha(&samples, channels)),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            let narrow = convert::narrow(rules, color == ColorType::L16);
            let samples: Vec<u8> =
                samples.as_chunks::<2>().0.iter().map(|&sample| narrow(u16::from_ne_bytes(sample))).collect();
            Ok(convert::drop_alpha(&samples, channels))
        }
        other => Err(Error::input(format!("pixels of type {other:?} are not supported; convert to 8 bits a sample"))),
    }
}
