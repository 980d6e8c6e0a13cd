//! Pictures into files.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::media::Image;
use crate::{Error, Result};

/// Writes a picture as PNG. The file is written beside and renamed: it is there as a whole or not at all.
///
/// # Errors
/// `Input` if the file cannot be written.
pub fn write_png(image: &Image, path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::input(format!("{}: cannot be written: {error}", path.display())).caused_by(error)
    };
    let mut data = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut data, CompressionType::Default, FilterType::Adaptive);
    encoder
        .write_image(&image.rgb, image.width as u32, image.height as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Error::internal(format!("{}: cannot be encoded", path.display())).caused_by(error))?;
    let name = path.file_name().ok_or_else(|| Error::usage(format!("{}: names no file", path.display())))?;
    let beside = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let written = std::fs::write(&beside, data).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What could not be renamed is of no use; nothing can be done if it cannot be removed either.
        let _ = std::fs::remove_file(&beside);
        failed(error)
    })
}
