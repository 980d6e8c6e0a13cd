//! Any bytes as the packets of each codec, inside a Matroska file that is whole: the decoders themselves, and what is read
//! of their headers. AV1's is reached here too, since `cfg(fuzzing)` lets it run in this process.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use smolvlm::media::source::{MediaLimits, MediaSource};
use smolvlm::media::video::{VideoOptions, VideoReader, open_video};

const CODECS: [&[u8]; 5] = [b"V_MPEG4/ISO/AVC", b"V_MPEGH/ISO/HEVC", b"V_VP8", b"V_VP9", b"V_AV1"];

/// An element: its id, a length of eight bytes, its content.
fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64) | 1 << 56;
    [id, &length.to_be_bytes(), content].concat()
}

/// The packets a hundredth of a second apart, each of them a place to start.
fn file(codec: &[u8], private: &[u8], packets: &[&[u8]]) -> Vec<u8> {
    let size = [element(&[0xB0], &[0, 64]), element(&[0xBA], &[0, 48])].concat();
    let entry = [
        element(&[0xD7], &[1]),
        element(&[0x83], &[1]),
        element(&[0x86], codec),
        element(&[0x63, 0xA2], private),
        element(&[0xE0], &size),
    ];
    let mut cluster = element(&[0xE7], &[0]);
    for (number, packet) in packets.iter().enumerate() {
        let time = (number as u16 * 10).to_be_bytes();
        cluster.extend(element(&[0xA3], &[&[0x81, time[0], time[1], 0x80], *packet].concat()));
    }
    let tracks = element(&[0x16, 0x54, 0xAE, 0x6B], &element(&[0xAE], &entry.concat()));
    let segment = [tracks, element(&[0x1F, 0x43, 0xB6, 0x75], &cluster)].concat();
    let head = element(&[0x1A, 0x45, 0xDF, 0xA3], &element(&[0x42, 0x82], b"matroska"));
    [head, element(&[0x18, 0x53, 0x80, 0x67], &segment)].concat()
}

fuzz_target!(|input: (u8, &[u8], Vec<&[u8]>)| {
    let (codec, private, packets) = input;
    let data = file(CODECS[usize::from(codec) % CODECS.len()], private, &packets[..packets.len().min(100)]);
    let limits = MediaLimits { pixels: 1 << 18, ..MediaLimits::default() };
    let source = MediaSource::Bytes { name: "input".to_owned(), data: Arc::from(data) };
    let options = VideoOptions { reader: VideoReader::Embedded, ..VideoOptions::default() };
    if let Ok(mut video) = open_video(&source, &limits, &options) {
        let all: Vec<usize> = (0..video.facts().frame_count).collect();
        let _ = video.read(&all, &mut |_| Ok(()));
    }
});
