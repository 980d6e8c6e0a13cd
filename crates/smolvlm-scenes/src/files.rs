//! Files that are there as a whole or not at all.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::{Error, Picture, Result};

/// Writes `bytes` beside `path` and renames.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::new(format!("{}: names no file", path.display())))?;
    let beside = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What could not be renamed is of no use; nothing can be done if it cannot be removed either.
        let _ = std::fs::remove_file(&beside);
        Error::file(path, "written", error)
    })
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| Error::file(path, "made", error))
}

/// A picture as a PNG file.
///
/// # Errors
/// When the picture's size is not that of its pixels.
pub fn encode_png(picture: &Picture) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut data, CompressionType::Fast, FilterType::Adaptive);
    let expected = 3 * picture.width * picture.height;
    if picture.rgb.len() != expected {
        return Err(Error::new(format!("a picture has {} bytes where its size needs {expected}", picture.rgb.len())));
    }
    encoder
        .write_image(&picture.rgb, picture.width as u32, picture.height as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Error::new(format!("a picture cannot be encoded: {error}")))?;
    Ok(data)
}

/// Writes a picture as PNG. The file is written beside and renamed.
///
/// # Errors
/// When the file cannot be written.
pub fn write_png(picture: &Picture, path: &Path) -> Result<()> {
    write(path, &encode_png(picture)?)
}
