//! Which frames of a video the model sees.

/// How many frames to take, and how densely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingRule {
    /// Most frames taken from one video.
    pub max_frames: usize,
    /// Frames wanted per second of video.
    pub fps: f64,
    /// Seconds left out at both ends of a long video.
    pub skip_seconds: f64,
}

impl SamplingRule {
    /// Indices of the frames to take, ascending and distinct; the first and the last of the span are always among them
    /// (unless one frame is all that is wanted).
    ///
    /// `SmolVLMVideoProcessor.sample_frames`. `total` frames at `fps` per second last `duration` seconds. The end skip
    /// compares seconds with `max_frames · fps`, as the reference does. No frames give no indices.
    pub fn indices(&self, total: usize, fps: f64, duration: f64) -> Vec<usize> {
        let Some(last_frame) = total.checked_sub(1) else { return Vec::new() };
        let (first, last) = self.span(total, last_frame, fps, duration);
        // Python's `round` is half to even: 2.5 s at one frame per second are two frames.
        let estimated = (self.fps * duration).round_ties_even() as usize;
        evenly_spaced(first, last, estimated.min(self.max_frames).max(1))
    }

    /// Indices of all frames, or of `max_frames` evenly spaced ones: for frames that somebody picked already, which the
    /// reference does not sample.
    pub fn all(&self, total: usize) -> Vec<usize> {
        let Some(last) = total.checked_sub(1) else { return Vec::new() };
        evenly_spaced(0, last, total.min(self.max_frames).max(1))
    }

    fn span(&self, total: usize, last_frame: usize, fps: f64, duration: f64) -> (usize, usize) {
        let is_long = duration - 2.0 * self.skip_seconds > self.max_frames as f64 * self.fps;
        if self.skip_seconds <= 0.0 || !is_long {
            return (0, last_frame);
        }
        let skipped = self.skip_seconds * fps;
        let (first, last) = (skipped as usize, ((total as f64 - skipped) as usize).min(last_frame));
        if first < last { (first, last) } else { (0, last_frame) }
    }
}

/// `numpy.unique(numpy.linspace(first, last, count, dtype=int))`: floors every step and ends exactly at `last`.
fn evenly_spaced(first: usize, last: usize, count: usize) -> Vec<usize> {
    if count == 1 {
        return vec![first];
    }
    let step = (last - first) as f64 / (count - 1) as f64;
    let mut indices: Vec<usize> = (0..count - 1).map(|i| (i as f64 * step + first as f64).floor() as usize).collect();
    indices.push(last);
    indices.dedup();
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: SamplingRule = SamplingRule { max_frames: 64, fps: 1.0, skip_seconds: 1.0 };

    #[test]
    fn picked_frames_are_all_taken_up_to_the_limit() {
        assert_eq!(PUBLISHED.all(3), [0, 1, 2]);
        assert_eq!(SamplingRule { max_frames: 3, ..PUBLISHED }.all(9), [0, 4, 8]);
        assert!(PUBLISHED.all(0).is_empty());
    }

    #[test]
    fn one_frame_per_second_from_first_to_last() {
        assert_eq!(PUBLISHED.indices(50, 10.0, 5.0), [0, 12, 24, 36, 49]);
    }

    #[test]
    fn half_a_second_rounds_to_the_even_count() {
        assert_eq!(PUBLISHED.indices(75, 30.0, 2.5).len(), 2);
        assert_eq!(PUBLISHED.indices(105, 30.0, 3.5).len(), 4);
    }

    #[test]
    fn a_long_video_loses_a_second_at_both_ends() {
        let rule = SamplingRule { max_frames: 8, ..PUBLISHED };
        let indices = rule.indices(96, 8.0, 12.0);
        assert_eq!((indices.first(), indices.last()), (Some(&8), Some(&88)));
        assert_eq!(rule.indices(80, 8.0, 10.0)[0], 0, "10 s − 2 s is not more than 8 frames at 1 per second");
    }

    #[test]
    fn a_short_clip_at_a_high_rate_gives_each_frame_once() {
        let rule = SamplingRule { fps: 60.0, ..PUBLISHED };
        assert_eq!(rule.indices(3, 1.0, 3.0), [0, 1, 2]);
        assert_eq!(PUBLISHED.indices(1, 25.0, 0.04), [0]);
    }

    #[test]
    fn nonsense_metadata_still_gives_valid_indices() {
        assert!(PUBLISHED.indices(0, 30.0, 1.0).is_empty());
        for duration in [f64::NAN, f64::INFINITY, -1.0] {
            for fps in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
                assert!(PUBLISHED.indices(10, fps, duration).iter().all(|&index| index < 10), "{fps} {duration}");
            }
        }
    }
}
