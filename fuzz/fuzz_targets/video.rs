//! Any bytes as a video: mp4 and Matroska with every codec, and animated pictures, by content.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, open_video};

fuzz_target!(|data: &[u8]| {
    let limits = MediaLimits { pixels: 1 << 18, ..MediaLimits::default() };
    let source = MediaSource::Bytes { name: "input".to_owned(), data: Arc::from(data) };
    let options = VideoOptions { reader: VideoReader::Embedded, ..VideoOptions::default() };
    if let Ok(mut video) = open_video(&source, &limits, &options) {
        let last = video.facts().frame_count - 1;
        let mut indices = vec![0, last / 2, last];
        indices.dedup();
        let _ = video.read(&indices, &mut |_| Ok(()));
    }
});
