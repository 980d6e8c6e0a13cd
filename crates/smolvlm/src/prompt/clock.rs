//! Times as the video wording prints them.

const DAY: u64 = 24 * 60 * 60;

/// A duration as Python's `str(timedelta(seconds=int(seconds)))`: `0:00:05`, `1:02:05`, `1 day, 1:01:01`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds as u64; // truncated; below zero and not-a-number become zero
    let clock = format!("{}:{:02}:{:02}", seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    match seconds / DAY {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// The time of a frame as minutes and seconds, truncated; minutes do not wrap at 60: `62:05`.
///
/// `replace_video_token` of `processing_smolvlm.py`.
pub fn frame_time(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_truncated_to_whole_seconds() {
        assert_eq!(duration(5.99), "0:00:05");
        assert_eq!(duration(3725.0), "1:02:05");
    }

    #[test]
    fn a_day_and_more_is_counted_in_words() {
        assert_eq!(duration(90_061.0), "1 day, 1:01:01");
        assert_eq!(duration(10.0 * 86_400.0 + 59.0), "10 days, 0:00:59");
    }

    #[test]
    fn minutes_of_a_frame_grow_past_an_hour() {
        assert_eq!(frame_time(0.0), "00:00");
        assert_eq!(frame_time(119.999), "01:59");
        assert_eq!(frame_time(3725.0), "62:05");
        assert_eq!(frame_time(100.0 * 3600.0), "6000:00");
    }

    #[test]
    fn nonsense_times_print_as_zero() {
        assert_eq!((duration(-3.0), frame_time(f64::NAN)), ("0:00:00".to_owned(), "00:00".to_owned()));
    }
}
