//! Edit lists (`elst`): which stretch of the track is shown, and when.

use super::super::bytes::Fields;
use super::super::timeline::Packet;
use super::track::Track;
use super::{Sample, descend};

/// The most packets that edits may make of a file's samples, relative to them: edits can repeat a stretch.
const MAX_REPEATS: usize = 16;

/// The most entries of an edit list that are followed.
const MAX_EDITS: u32 = 256;

/// One entry, in ticks of the track's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) duration: i64,
    /// Composition time at which the stretch begins; `None` shows nothing for the duration.
    pub(super) start: Option<i64>,
}

/// The edit list of a `trak` box; durations are stored in the movie's clock, starts in the track's.
pub(super) fn read_edits(trak: &[u8], timescale: u32, movie_timescale: u32) -> Vec<Edit> {
    let mut edits = Vec::new();
    let Some(elst) = descend(trak, &[b"edts", b"elst"]) else { return edits };
    let mut fields = Fields(elst);
    let version = fields.u8().unwrap_or(0);
    let count = fields.skip(3).and_then(|()| fields.u32()).unwrap_or(0);
    for _ in 0..count.min(MAX_EDITS) {
        let entry = fields.u32_or_u64(version).zip(fields.u32_or_u64(version)).zip(fields.skip(4));
        let Some(((duration, start), ())) = entry else { break };
        let start = if version == 0 { i64::from(start as u32 as i32) } else { start as i64 };
        edits.push(Edit {
            duration: rescale(duration, timescale, movie_timescale),
            start: (start >= 0).then_some(start),
        });
    }
    edits
}

/// `ticks · to ÷ from`, rounded to the nearest.
fn rescale(ticks: u64, to: u32, from: u32) -> i64 {
    let from = u128::from(from.max(1));
    i64::try_from((u128::from(ticks) * u128::from(to) + from / 2) / from).unwrap_or(i64::MAX)
}

/// The packets of a track, after its edit list, in decode order.
pub(super) fn present(track: &Track, file_len: u64) -> Vec<Packet> {
    let reaches = |sample: &&Sample| sample.offset.saturating_add(u64::from(sample.size)) <= file_len;
    // Later samples may refer to a missing one, so the stream ends there.
    let samples: Vec<Sample> = track.samples.iter().take_while(reaches).copied().collect();
    if track.fragmented || track.edits.iter().all(|edit| edit.start.is_none()) || samples.is_empty() {
        return shifted(&samples, &track.edits, track.fragmented);
    }
    edited(&samples, &track.edits)
}

/// ffmpeg's rule for fragments (`mov_build_index`, `mov_read_trun`): a leading empty edit delays, the first stretch's
/// start is taken off, nothing is hidden, and negative composition offsets move everything later.
fn shifted(samples: &[Sample], edits: &[Edit], fragmented: bool) -> Vec<Packet> {
    let delay: i64 = match edits.first() {
        Some(Edit { duration, start: None }) => *duration,
        _ => 0,
    };
    let start = edits.iter().take(2).find_map(|edit| edit.start).unwrap_or(0);
    let negative =
        if fragmented { samples.iter().map(|sample| -i64::from(sample.cts)).max().unwrap_or(0).max(0) } else { 0 };
    let shift = delay.saturating_sub(start).saturating_add(negative);
    samples.iter().map(|sample| packet(sample, sample.composed().saturating_add(shift), true)).collect()
}

/// ffmpeg's rule for whole files (`mov_fix_index`): each stretch is decoded from the sync sample before it, hides what
/// lies outside, and the first frame shown stands at 0 (or after the leading empty edits).
fn edited(samples: &[Sample], edits: &[Edit]) -> Vec<Packet> {
    let mut packets: Vec<Packet> = Vec::new();
    let reorders = samples.iter().any(|sample| sample.cts != 0);
    let (mut clock, mut leading, mut earliest) = (0_i64, 0_i64, i64::MAX);
    for edit in edits {
        let begins = clock;
        clock = clock.saturating_add(edit.duration);
        if edit.start.is_none() && packets.is_empty() {
            leading = leading.saturating_add(edit.duration);
            continue;
        }
        // An empty edit further on counts there as a stretch from just before the beginning, and so it does here.
        let start = edit.start.unwrap_or(-1);
        let before = packets.len();
        append_stretch(samples, reorders, start, edit.duration, begins, &mut packets);
        let shown = packets[before..].iter().filter(|packet| packet.shown);
        earliest = shown.map(|packet| packet.pts).fold(earliest, i64::min);
        if packets.len() > samples.len().saturating_mul(MAX_REPEATS) {
            break;
        }
    }
    let shift = if earliest == i64::MAX { 0 } else { leading.saturating_sub(earliest) };
    packets.iter_mut().for_each(|packet| packet.pts = packet.pts.saturating_add(shift));
    packets
}

/// Appends the samples for `[start, start + duration)`, the first shown one's decode time standing at `begins`.
fn append_stretch(
    samples: &[Sample],
    reorders: bool,
    start: i64,
    duration: i64,
    begins: i64,
    packets: &mut Vec<Packet>,
) {
    // A duration of 0 means all that follows (8.6.6.1, for files written before their length was known).
    let end = if duration == 0 { i64::MAX } else { start.saturating_add(duration) };
    let from = first_needed(samples, start);
    let is_shown = |sample: &Sample| (start..end).contains(&sample.composed());
    let anchor = samples[from..].iter().find(|sample| is_shown(sample)).map_or(0, |sample| sample.dts);
    let mut syncs_after = 0;
    for sample in &samples[from..] {
        let pts = begins.saturating_add(sample.composed().saturating_sub(anchor));
        packets.push(packet(sample, pts, is_shown(sample)));
        if sample.sync && sample.composed().saturating_add(i64::from(sample.duration)) >= end {
            syncs_after += 1;
            // With reordering, frames decoded after the first sync sample may still be shown before it.
            if syncs_after > usize::from(reorders) {
                break;
            }
        }
    }
}

/// The last sync sample composed at or before `start`; else the last sample decoded by then; else the first.
fn first_needed(samples: &[Sample], start: i64) -> usize {
    let by_then = samples.partition_point(|sample| sample.dts <= start).max(1);
    let sync = samples[..by_then].iter().rposition(|sample| sample.sync && sample.composed() <= start);
    sync.unwrap_or(if samples[0].dts <= start { by_then - 1 } else { 0 })
}

fn packet(sample: &Sample, pts: i64, shown: bool) -> Packet {
    let (offset, size, duration) = (sample.offset, sample.size, i64::from(sample.duration));
    Packet { offset, size, pts, duration, sync: sample.sync, shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IDR, a P shown third, a B shown second; then the same again. Ten ticks each, composed two frames late.
    fn samples() -> Vec<Sample> {
        let cts = [20, 30, 10, 20, 30, 10];
        let sample =
            |(at, cts)| Sample { offset: 0, size: 1, dts: at as i64 * 10, cts, duration: 10, sync: at % 3 == 0 };
        cts.into_iter().enumerate().map(sample).collect()
    }

    fn shown(edits: &[Edit]) -> Vec<i64> {
        edited(&samples(), edits).iter().filter(|packet| packet.shown).map(|packet| packet.pts).collect()
    }

    #[test]
    fn the_first_frame_shown_stands_at_zero() {
        assert_eq!(shown(&[Edit { duration: 60, start: Some(20) }]), [0, 20, 10, 30, 50, 40]);
    }

    #[test]
    fn frames_before_and_after_the_stretch_are_hidden() {
        assert_eq!(shown(&[Edit { duration: 20, start: Some(30) }]), [10, 0]);
    }

    #[test]
    fn a_leading_empty_edit_delays() {
        let edits = [Edit { duration: 700, start: None }, Edit { duration: 60, start: Some(20) }];
        assert_eq!(shown(&edits), [700, 720, 710, 730, 750, 740]);
    }

    #[test]
    fn a_repeated_stretch_is_shown_twice() {
        let edit = Edit { duration: 30, start: Some(20) };
        assert_eq!(shown(&[edit, edit]), [0, 20, 10, 30, 50, 40]);
    }
}
