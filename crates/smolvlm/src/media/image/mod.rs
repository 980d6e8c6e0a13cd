//! Still pictures: a file's format, size and pixels, as the reference sees them.
//!
//! What the reference does differs by release and format ([`Compat`]); the rules for each step stand beside it.

mod bmp;
mod convert;
mod format;
mod gif;
mod jpeg;
mod orientation;
mod raster;
mod tiff;
mod write;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use format::Format;
use orientation::Orientation;

use super::Image;
use super::source::{DecodedImage, MediaLimits, MediaSource};
use crate::{Compat, Error, Result};

pub use write::write_png;

/// As much of a JPEG file as nearly always holds its header: EXIF with a thumbnail is below 64 KiB.
const HEADER_BYTES: u64 = 128 << 10;

/// Whose conversions a release of the reference uses for encoded files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// torchcodec's or torchvision's `decode_image`.
    Torch,
    /// Pillow's `convert("RGB")`.
    Pillow,
}

impl Rules {
    fn of(compat: Compat) -> Self {
        match compat {
            Compat::Newest | Compat::Hf523 | Compat::Hf517 => Self::Torch,
            Compat::Hf457 | Compat::Pil => Self::Pillow,
        }
    }
}

/// A picture whose size is known and whose pixels are decoded on demand.
#[derive(Debug, Clone)]
pub struct ImageFile {
    name: String,
    width: usize,
    height: usize,
    pixels: u64,
    compat: Compat,
    content: Content,
}

/// Width and height of a picture as shown, in pixels. Of a JPEG file on disk only the beginning is read, as long as that
/// holds its header; other formats may tell how they are turned at their very end.
///
/// # Errors
/// As [`ImageFile::open`].
pub fn read_size(source: &MediaSource, limits: &MediaLimits, compat: Compat) -> Result<(usize, usize)> {
    if let MediaSource::Path(path) = source
        && let Some(start) = start_of_jpeg(path)
        && let Ok(file) =
            ImageFile::open(&MediaSource::Bytes { name: source.name(), data: start.into() }, limits, compat)
    {
        return Ok((file.width, file.height));
    }
    ImageFile::open(source, limits, compat).map(|file| (file.width, file.height))
}

/// The first bytes of a JPEG file, if the file goes on after them.
fn start_of_jpeg(path: &Path) -> Option<Vec<u8>> {
    let found = std::fs::metadata(path).ok()?;
    if !found.is_file() || found.len() <= HEADER_BYTES {
        return None;
    }
    let mut start = Vec::new();
    File::open(path).ok()?.take(HEADER_BYTES).read_to_end(&mut start).ok()?;
    matches!(Format::sniff(&start), Ok(Format::Jpeg)).then_some(start)
}

#[derive(Debug, Clone)]
enum Content {
    Encoded { data: Arc<[u8]>, format: Format, orientation: Orientation },
    Decoded(Arc<DecodedImage>),
}

impl ImageFile {
    /// Reads (or downloads) the file and its header: JPEG, PNG, WebP, GIF, BMP or TIFF by content, not by name.
    ///
    /// # Errors
    /// [`ErrorKind::Network`](crate::ErrorKind::Network) if a download fails; [`ErrorKind::Input`](crate::ErrorKind)
    /// for a file that is missing, larger than `limits`, of another format, or broken in its header.
    pub fn open(source: &MediaSource, limits: &MediaLimits, compat: Compat) -> Result<Self> {
        let name = source.name();
        let opened = match source {
            MediaSource::Decoded(image) => Self::from_decoded(&name, image, limits, compat),
            _ => Self::from_encoded(&name, source.read(limits)?, limits, compat),
        };
        opened.map_err(|error| error.at(name))
    }

    /// What to call it in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pixels across, upright.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels down, upright.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Decodes the pixels: RGB, upright, of the size that [`width`](Self::width) and [`height`](Self::height) say.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the file is truncated or broken where the reference refuses
    /// it too.
    pub fn decode(&self) -> Result<Image> {
        let image = match &self.content {
            Content::Decoded(image) => {
                Ok(Image { width: self.width, height: self.height, rgb: convert::decoded_to_rgb(image, self.compat) })
            }
            Content::Encoded { data, format, orientation } => self
                .decode_stored(data, *format)
                .map(|image| orientation.apply(image))
                .map_err(|error| error.at(&self.name)),
        }?;
        if (image.width, image.height) != (self.width, self.height) {
            return Err(Error::internal(format!("{}: its size changed while decoding", self.name)));
        }
        Ok(image)
    }

    fn decode_stored(&self, data: &[u8], format: Format) -> Result<Image> {
        let rules = Rules::of(self.compat);
        match format {
            Format::Jpeg => jpeg::decode(data),
            Format::Gif => gif::decode(data, self.pixels, rules),
            _ => raster::decode(format, data, self.pixels, rules),
        }
    }

    fn from_decoded(name: &str, image: &Arc<DecodedImage>, limits: &MediaLimits, compat: Compat) -> Result<Self> {
        convert::check(image)?;
        let size = (image.width, image.height);
        Self::new(name, size, limits, compat, Content::Decoded(image.clone()))
    }

    fn from_encoded(name: &str, data: Arc<[u8]>, limits: &MediaLimits, compat: Compat) -> Result<Self> {
        let format = Format::sniff(&data)?;
        let (size, orientation) = match format {
            Format::Jpeg => {
                let info = jpeg::info(&data)?;
                ((info.width, info.height), info.exif.map_or_else(Orientation::default, Orientation::from_exif))
            }
            Format::Gif => (gif::size(&data, limits.pixels)?, Orientation::default()),
            _ => {
                let info = raster::info(format, &data, limits.pixels)?;
                (info.size, info.orientation)
            }
        };
        let orientation = if compat == Compat::Hf517 { Orientation::default() } else { orientation };
        Self::new(name, orientation.size(size), limits, compat, Content::Encoded { data, format, orientation })
    }

    fn new(
        name: &str,
        (width, height): (usize, usize),
        limits: &MediaLimits,
        compat: Compat,
        content: Content,
    ) -> Result<Self> {
        let pixels = (width as u64).saturating_mul(height as u64);
        if pixels == 0 {
            return Err(Error::input(format!("it has no pixels ({width}x{height})")));
        }
        if pixels > limits.pixels {
            let limit = limits.pixels;
            return Err(Error::input(format!(
                "it has {width}x{height} = {pixels} pixels; at most {limit} are decoded"
            )));
        }
        Ok(Self { name: name.to_owned(), width, height, pixels: limits.pixels, compat, content })
    }
}
