//! Any text as a `data:` URL. Nothing else is fetched: no network, no file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smolvlm::media::source::{MediaLimits, MediaSource};

fuzz_target!(|text: &str| {
    let limits = MediaLimits { file_bytes: 1 << 16, ..MediaLimits::default() };
    let source = MediaSource::parse(&format!("data:{text}"), None);
    let _ = source.name();
    if let Ok(data) = source.read(&limits) {
        assert!(!data.is_empty() && data.len() <= 1 << 16);
    }
});
