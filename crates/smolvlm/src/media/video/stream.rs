//! What a demuxer hands to a decoder: a stream's header, where its packets lie, and the bytes they lie in.

use std::sync::Arc;

use super::bytes::ByteSource;
use super::picture::Colour;
use super::timeline::{Packet, TimeBase};
use crate::{Error, Result};

/// The largest packet that is read: a raw 4:2:2 picture at H.264's highest level takes 68 MiB.
const MAX_PACKET_BYTES: u32 = 128 << 20;

/// What a container says of its video stream.
#[derive(Debug, Clone)]
pub(super) struct StreamHeader {
    /// As ffmpeg names it: `h264`, `hevc`, …
    pub(super) codec: String,
    /// The codec's own parameters (`avcC`'s payload for H.264).
    pub(super) config: Vec<u8>,
    /// As ffmpeg names it.
    pub(super) container: &'static str,
    pub(super) base: TimeBase,
    /// Clockwise degrees to the upright picture.
    pub(super) rotation: u16,
    /// What the container says of the colours; the codec's own word goes first.
    pub(super) colour: Option<Colour>,
}

/// A video stream in its container. Packets are read later, one at a time, by any thread.
#[derive(Debug, Clone)]
pub(super) struct EncodedStream {
    pub(super) header: StreamHeader,
    /// In decode order.
    pub(super) packets: Arc<[Packet]>,
    /// Bytes that the container leaves out at the start of every packet.
    pub(super) prefix: Arc<[u8]>,
    pub(super) bytes: ByteSource,
}

impl EncodedStream {
    /// Replaces the content of `buffer` with packet `at`.
    pub(super) fn read_packet(&self, at: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let packet = self.packets[at];
        if packet.size > MAX_PACKET_BYTES {
            let size = packet.size;
            return Err(Error::input(format!("a packet of {size} bytes is above the limit of {MAX_PACKET_BYTES}")));
        }
        self.bytes.read_at(packet.offset, packet.size as usize, buffer)?;
        buffer.splice(..0, self.prefix.iter().copied());
        Ok(())
    }
}
