//! Matroska and WebM (RFC 9559): where each frame of the video track lies and when it is shown.
//!
//! Written for untrusted and damaged files, as the mp4 reader: what is cut off is read as far as it goes, headers of
//! blocks are read and their payloads passed over, and no number is believed beyond the bytes that back it. Segments and
//! clusters may have no size, as live recordings do.

mod block;
mod ebml;
mod track;

use super::bytes::ByteSource;
use super::stream::{EncodedStream, StreamHeader};
use super::timeline::{Packet, TimeBase};
use crate::{Error, Result};
use block::Cluster;
use ebml::{Children, Element, Scanner};
use track::Track;

/// The largest description of tracks that is read: parameter sets and attached names are small.
const MAX_TRACKS_BYTES: u64 = 16 << 20;
/// The most frames of a track: 38 hours at 30 frames per second.
const MAX_FRAMES: usize = 1 << 22;
/// Nanoseconds of a tick unless the file says otherwise.
const DEFAULT_TICK: u64 = 1_000_000;

const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const TRACKS: u32 = 0x1654_AE6B;
const CLUSTER: u32 = 0x1F43_B675;

/// Finds the frames of a file's video track.
pub(super) fn open(bytes: ByteSource) -> Result<EncodedStream> {
    let mut scanner = Scanner::new(&bytes);
    let segment = find_segment(&mut scanner, bytes.len())?;
    let mut tick = DEFAULT_TICK;
    let mut track: Option<Track> = None;
    let mut packets = Vec::new();
    let mut at = segment.payload;
    while let Some(element) = scanner.element(at, segment.end)? {
        at = element.end;
        match element.id {
            INFO => tick = Children(&scanner.payload(&element, MAX_TRACKS_BYTES)?).unsigned(0x2A_D7B1).unwrap_or(tick),
            TRACKS if track.is_none() => {
                track = choose(track::video_tracks(&scanner.payload(&element, MAX_TRACKS_BYTES)?)?);
            }
            CLUSTER => {
                let track =
                    track.as_ref().ok_or_else(|| Error::input("holds no video track before its first frame"))?;
                at = Cluster::new(track, tick).read(&mut scanner, &element, &mut packets)?;
            }
            _ if !element.has_size => break,
            _ => {}
        }
        if packets.len() > MAX_FRAMES {
            return Err(Error::input(format!("holds more than {MAX_FRAMES} frames")));
        }
    }
    let track = track.ok_or_else(|| Error::input("holds no video track"))?;
    let tick = u32::try_from(tick).ok().filter(|&tick| tick > 0);
    let tick = tick.ok_or_else(|| Error::input("its clock has ticks of 0 or of more than four seconds"))?;
    complete_durations(&mut packets);
    let header = StreamHeader {
        codec: track.codec,
        config: track.config,
        container: "matroska",
        base: reduced(tick),
        rotation: 0,
        colour: track.colour,
    };
    Ok(EncodedStream { header, packets: packets.into(), prefix: track.prefix.into(), bytes })
}

fn find_segment(scanner: &mut Scanner<'_>, len: u64) -> Result<Element> {
    let mut at = 0;
    while let Some(element) = scanner.element(at, len)? {
        if element.id == SEGMENT {
            return Ok(element);
        }
        at = element.end;
    }
    Err(Error::input("has no segment: the file was cut off at its start"))
}

/// As ffmpeg's `av_find_best_stream` comes out: a default track before others, then the first.
fn choose(tracks: Vec<Track>) -> Option<Track> {
    let at = tracks.iter().position(|track| track.is_default).unwrap_or(0);
    tracks.into_iter().nth(at)
}

/// Seconds of a tick as a fraction with small terms: ffmpeg's clock for 1 ms is 1/1000.
fn reduced(nanoseconds: u32) -> TimeBase {
    let (mut a, mut b) = (nanoseconds, 1_000_000_000);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    TimeBase { numerator: nanoseconds / a, denominator: 1_000_000_000 / a }
}

/// Gives frames of unknown duration the time until the next one, and the last the time since the one before.
fn complete_durations(packets: &mut [Packet]) {
    if packets.iter().all(|packet| packet.duration > 0) {
        return;
    }
    let mut order: Vec<usize> = (0..packets.len()).collect();
    order.sort_by_key(|&at| packets[at].pts);
    let mut before = 0;
    for place in 0..order.len() {
        let own = packets[order[place]];
        let next = order.get(place + 1).map(|&at| packets[at].pts.saturating_sub(own.pts));
        let duration = next.unwrap_or(before);
        before = duration;
        if own.duration <= 0 {
            packets[order[place]].duration = duration;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_durations_last_until_the_next_frame() {
        let packet = |pts, duration| Packet { offset: 0, size: 0, pts, duration, sync: true, shown: true };
        let mut packets = [packet(0, 0), packet(100, 0), packet(40, 7)];
        complete_durations(&mut packets);
        assert_eq!(packets.map(|packet| packet.duration), [40, 60, 7]);
    }

    #[test]
    fn a_millisecond_is_a_thousandth() {
        assert_eq!(reduced(1_000_000), TimeBase { numerator: 1, denominator: 1000 });
        assert_eq!(reduced(41_667), TimeBase { numerator: 41_667, denominator: 1_000_000_000 });
    }
}
