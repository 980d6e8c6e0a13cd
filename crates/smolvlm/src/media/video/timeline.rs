//! From a container's packets to the frames that are shown: their order, times, rate and duration.

use super::StreamFacts;
use crate::{Error, Result};

/// One access unit of the stream, in decode order, with its times in ticks of the stream's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// Where it lies in the file.
    pub(super) offset: u64,
    pub(super) size: u32,
    /// When it is shown, after edit lists.
    pub(super) pts: i64,
    pub(super) duration: i64,
    /// Whether the container says that decoding can start here.
    pub(super) sync: bool,
    /// False for what is decoded only because others refer to it.
    pub(super) shown: bool,
}

/// Seconds per tick, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeBase {
    pub(super) numerator: u32,
    pub(super) denominator: u32,
}

impl TimeBase {
    /// As torchcodec computes it: multiplied before divided, in doubles.
    fn seconds(self, ticks: i64) -> f64 {
        ticks as f64 * f64::from(self.numerator) / f64::from(self.denominator)
    }
}

/// The shown frames of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    /// The packet of each frame, in presentation order.
    pub(super) packets: Vec<u32>,
    /// When each frame is shown, in seconds.
    pub(super) times: Vec<f64>,
    /// Seconds from the first frame to the end of the last.
    pub(super) duration: f64,
    /// Frames per second.
    pub(super) rate: f64,
    /// Whether each frame stands within half a frame of `index ÷ rate`.
    pub(super) constant: bool,
}

impl Timeline {
    /// torchcodec's `SingleStreamDecoder` scan: shown packets sorted by time; the duration is the latest end less the
    /// earliest start, the rate is the count over the duration.
    pub(super) fn new(packets: &[Packet], base: TimeBase) -> Result<Self> {
        let mut order: Vec<u32> = (0..packets.len() as u32).filter(|&at| packets[at as usize].shown).collect();
        order.sort_by_key(|&at| packets[at as usize].pts);
        let shown = || order.iter().map(|&at| &packets[at as usize]);
        let Some(first) = shown().next() else {
            return Err(Error::input("the video stream holds no frames"));
        };
        let end = shown().map(|packet| packet.pts.saturating_add(packet.duration)).max().unwrap_or(first.pts);
        let duration = base.seconds(end) - base.seconds(first.pts);
        let times: Vec<f64> = shown().map(|packet| base.seconds(packet.pts)).collect();
        // A single frame without a duration has no rate of its own; one frame per second keeps every quotient finite.
        let rate = if duration > 0.0 { times.len() as f64 / duration } else { 1.0 };
        let constant = is_constant(&times, rate);
        Ok(Self { packets: order, times, duration, rate, constant })
    }

    /// The facts that the timeline settles; the rest is given.
    pub(super) fn facts(
        &self,
        name: &str,
        codec: &str,
        container: &str,
        shown_size: (usize, usize),
        rotation: u16,
    ) -> StreamFacts {
        StreamFacts {
            name: name.to_owned(),
            codec: codec.to_owned(),
            container: container.to_owned(),
            width: shown_size.0,
            height: shown_size.1,
            frame_count: self.times.len(),
            average_rate: self.rate,
            duration: self.duration,
            rotation,
            constant_rate: self.constant,
            picked: false,
        }
    }
}

/// Times are compared relative to the first: a stream that starts late is no less regular.
fn is_constant(times: &[f64], rate: f64) -> bool {
    let first = times.first().copied().unwrap_or(0.0);
    times.iter().enumerate().all(|(index, time)| (time - first - index as f64 / rate).abs() <= 0.5 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: TimeBase = TimeBase { numerator: 1, denominator: 1000 };

    fn packet(pts: i64, duration: i64, shown: bool) -> Packet {
        Packet { offset: 0, size: 1, pts, duration, sync: true, shown }
    }

    #[test]
    fn frames_come_in_presentation_order_without_the_hidden_ones() {
        let packets = [packet(80, 40, true), packet(-40, 40, false), packet(40, 40, true), packet(0, 40, true)];
        let line = Timeline::new(&packets, MILLIS).unwrap();
        assert_eq!(line.packets, [3, 2, 0]);
        assert_eq!(line.times, [0.0, 0.04, 0.08]);
        assert_eq!((line.duration, line.rate, line.constant), (0.12, 3.0 / 0.12, true));
    }

    #[test]
    fn a_long_pause_makes_the_rate_variable() {
        let packets = [packet(0, 40, true), packet(40, 40, true), packet(1000, 40, true)];
        assert!(!Timeline::new(&packets, MILLIS).unwrap().constant);
    }

    #[test]
    fn a_late_start_does_not_make_the_rate_variable() {
        let packets = [packet(500, 40, true), packet(540, 40, true)];
        let line = Timeline::new(&packets, MILLIS).unwrap();
        assert!(line.constant);
        assert_eq!(line.times[0], 0.5);
    }

    #[test]
    fn one_frame_without_duration_has_finite_facts() {
        let line = Timeline::new(&[packet(0, 0, true)], MILLIS).unwrap();
        assert!(line.rate.is_finite() && line.duration == 0.0);
    }
}
