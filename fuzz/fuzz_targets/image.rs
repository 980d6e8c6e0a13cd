//! Any bytes as a picture: JPEG, PNG, WebP, GIF, BMP and TIFF by content, EXIF included.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use smolvlm::Compat;
use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{MediaLimits, MediaSource};

fuzz_target!(|data: &[u8]| {
    let limits = MediaLimits { pixels: 1 << 20, ..MediaLimits::default() };
    let source = MediaSource::Bytes { name: "input".to_owned(), data: Arc::from(data) };
    if let Ok(file) = ImageFile::open(&source, &limits, Compat::default()) {
        let _ = file.decode();
    }
});
