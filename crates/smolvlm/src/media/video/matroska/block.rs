//! Clusters: their blocks, and the frames in those.

use super::super::timeline::Packet;
use super::ebml::{self, Element, Scanner};
use super::track::Track;
use super::{CLUSTER, MAX_FRAMES};
use crate::{Error, Result};

const TIMESTAMP: u32 = 0xE7;
const SIMPLE_BLOCK: u32 = 0xA3;
const GROUP: u32 = 0xA0;
const BLOCK: u32 = 0xA1;
const DURATION: u32 = 0x9B;
const REFERENCE: u32 = 0xFB;

/// Elements that stand beside clusters: they end one of unknown size.
const BESIDE: [u32; 7] = [CLUSTER, 0x1C53_BB6B, 0x1254_C367, 0x114D_9B74, 0x1043_A770, 0x1941_A469, 0x1654_AE6B];

/// One cluster of a track.
pub(super) struct Cluster<'a> {
    track: &'a Track,
    /// Ticks of a frame whose block does not say.
    frame_ticks: i64,
    time: i64,
}

/// What stands in front of a block's frames.
struct BlockHeader {
    track: u64,
    time: i16,
    flags: u8,
    /// Bytes of the header.
    len: u64,
}

impl<'a> Cluster<'a> {
    /// `tick` is in nanoseconds.
    pub(super) fn new(track: &'a Track, tick: u64) -> Self {
        let ticks = track.frame_time.unwrap_or(0) / tick.max(1);
        Self { track, frame_ticks: i64::try_from(ticks).unwrap_or(0), time: 0 }
    }

    /// Adds the cluster's frames; gives where what follows begins.
    pub(super) fn read(
        mut self,
        scanner: &mut Scanner<'_>,
        cluster: &Element,
        packets: &mut Vec<Packet>,
    ) -> Result<u64> {
        let mut at = cluster.payload;
        while let Some(element) = scanner.element(at, cluster.end)? {
            if !cluster.has_size && BESIDE.contains(&element.id) {
                return Ok(at);
            }
            match element.id {
                TIMESTAMP => {
                    let time = ebml::unsigned(&scanner.payload(&element, 8)?);
                    self.time = time.and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
                }
                SIMPLE_BLOCK => {
                    let is_key = |flags: u8| flags & 0x80 != 0;
                    self.block(scanner, &element, None, is_key, packets)?;
                }
                GROUP => self.group(scanner, &element, packets)?,
                _ => {}
            }
            if packets.len() > MAX_FRAMES {
                return Err(Error::input(format!("holds more than {MAX_FRAMES} frames")));
            }
            at = element.end;
        }
        Ok(at)
    }

    /// A block with what is said beside it.
    fn group(&self, scanner: &mut Scanner<'_>, group: &Element, packets: &mut Vec<Packet>) -> Result<()> {
        let (mut block, mut duration, mut refers) = (None, None, false);
        let mut at = group.payload;
        while let Some(element) = scanner.element(at, group.end)? {
            match element.id {
                BLOCK => block = Some(element),
                DURATION => duration = ebml::unsigned(&scanner.payload(&element, 8)?),
                REFERENCE => refers = true,
                _ => {}
            }
            at = element.end;
        }
        let duration = duration.and_then(|ticks| i64::try_from(ticks).ok());
        block.map_or(Ok(()), |block| self.block(scanner, &block, duration, |_| !refers, packets))
    }

    /// The frames of a block, if it is one of the track's and is there as a whole.
    fn block(
        &self,
        scanner: &mut Scanner<'_>,
        block: &Element,
        duration: Option<i64>,
        is_key: impl Fn(u8) -> bool,
        packets: &mut Vec<Packet>,
    ) -> Result<()> {
        let Some(header) = block_header(scanner.peek(block.payload)?) else { return Ok(()) };
        if header.track != self.track.number || !block.has_size || block.is_cut {
            return Ok(());
        }
        let start = block.payload + header.len;
        let sizes = match header.flags & 6 {
            0 => Some(vec![block.end.saturating_sub(start)]),
            lacing => laced(&scanner.payload(&Element { payload: start.min(block.end), ..*block }, 1 << 27)?, lacing),
        };
        let Some(sizes) = sizes else { return Ok(()) };
        let total: u64 = sizes.iter().sum();
        let mut offset = block.end.saturating_sub(total);
        let frames = sizes.len() as i64;
        let ticks = duration.map_or(self.frame_ticks, |duration| duration / frames);
        let first = self.time.saturating_add(header.time.into());
        for (place, size) in sizes.into_iter().enumerate() {
            packets.push(Packet {
                offset,
                size: u32::try_from(size).map_err(|_| Error::input("a frame has more than 4 GiB"))?,
                pts: first.saturating_add(ticks.saturating_mul(place as i64)),
                duration: ticks,
                sync: is_key(header.flags),
                shown: true,
            });
            offset += size;
        }
        Ok(())
    }
}

fn block_header(bytes: &[u8]) -> Option<BlockHeader> {
    let (track, len) = ebml::number(bytes)?;
    let rest = bytes.get(len..len + 3)?;
    Some(BlockHeader {
        track: track?,
        time: i16::from_be_bytes([rest[0], rest[1]]),
        flags: rest[2],
        len: len as u64 + 3,
    })
}

/// Sizes of the frames in a laced block (RFC 9559, 10.3), which stand before the frames. They fill the block's end.
fn laced(payload: &[u8], lacing: u8) -> Option<Vec<u64>> {
    const XIPH: u8 = 2;
    const EBML: u8 = 6;
    let (&count, mut rest) = payload.split_first()?;
    let count = usize::from(count) + 1;
    let mut sizes: Vec<u64> = Vec::with_capacity(count);
    match lacing {
        XIPH => {
            for _ in 1..count {
                let full = rest.iter().take_while(|&&byte| byte == 255).count();
                sizes.push(full as u64 * 255 + u64::from(*rest.get(full)?));
                rest = &rest[full + 1..];
            }
        }
        EBML => {
            for place in 1..count {
                let (value, len) = ebml::number(rest)?;
                let value = value?;
                // Sizes after the first are differences, coded around the middle of their range.
                let size = match sizes.last() {
                    Some(&before) if place > 1 => {
                        let middle = (1i64 << (7 * len - 1)) - 1;
                        before.checked_add_signed(i64::try_from(value).ok()? - middle)?
                    }
                    _ => value,
                };
                sizes.push(size);
                rest = &rest[len..];
            }
        }
        _ => {
            let size = rest.len() as u64 / count as u64;
            return Some(vec![size; count]);
        }
    }
    let used = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size))?;
    sizes.push((rest.len() as u64).checked_sub(used)?);
    Some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laces_of_every_kind_are_split() {
        assert_eq!(laced(&[1, 2, 9, 9, 9], 2), Some(vec![2, 1]));
        assert_eq!(laced(&[1, 255, 1], 2), None);
        assert_eq!(laced(&[2, 1, 2, 3, 4, 5, 6], 4), Some(vec![2, 2, 2]));
        // Sizes 2 and 2 + (0xC0 − 0x80 − 63 = 1), then what is left.
        assert_eq!(laced(&[2, 0x82, 0xC0, 1, 1, 2, 2, 2, 3], 6), Some(vec![2, 3, 1]));
    }

    #[test]
    fn a_block_says_track_time_and_flags() {
        let header = block_header(&[0x82, 0xFF, 0xFE, 0x80, 7]).unwrap();
        assert_eq!((header.track, header.time, header.flags, header.len), (2, -2, 0x80, 4));
        assert!(block_header(&[0x82, 0xFF]).is_none());
    }
}
