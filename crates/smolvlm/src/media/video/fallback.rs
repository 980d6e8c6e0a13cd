//! The embedded reader, with the `ffmpeg` tool behind it for files that it opens but does not come through.

use super::{Frame, StreamFacts, VideoSource, ffmpeg};
use crate::{Error, ErrorKind, Result};

/// Opens the same file with the other reader.
type Opener = Box<dyn Fn() -> Result<Box<dyn VideoSource>> + Send>;

/// A video whose reader may be replaced once, before it has handed over anything of a request.
pub(super) struct FallbackVideo {
    reader: Box<dyn VideoSource>,
    other: Option<Opener>,
}

impl FallbackVideo {
    pub(super) fn new(reader: Box<dyn VideoSource>, other: Opener) -> Self {
        Self { reader, other: Some(other) }
    }

    /// Reads with the other reader, if it sees the same frames.
    fn replace(
        &mut self,
        why: &Error,
        other: &Opener,
        indices: &[usize],
        sink: &mut dyn FnMut(Frame) -> Result<()>,
    ) -> Result<()> {
        let explain = |error| ffmpeg::explain_fallback(error, why);
        let reader = other().map_err(explain)?;
        let (frames, expected) = (reader.facts().frame_count, self.reader.facts().frame_count);
        if frames != expected {
            return Err(explain(Error::input(format!("ffmpeg finds {frames} frames where the index has {expected}"))));
        }
        self.reader = reader;
        self.reader.read(indices, sink)
    }
}

impl VideoSource for FallbackVideo {
    fn facts(&self) -> &StreamFacts {
        self.reader.facts()
    }

    fn timestamps(&self) -> &[f64] {
        self.reader.timestamps()
    }

    fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        let mut delivered = false;
        let result = self.reader.read(indices, &mut |frame| {
            delivered = true;
            sink(frame)
        });
        match (result, self.other.take()) {
            (Err(why), Some(other)) if !delivered && why.kind() == ErrorKind::Input => {
                self.replace(&why, &other, indices, sink)
            }
            (result, other) => {
                self.other = other;
                result
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Image;

    struct Source {
        facts: StreamFacts,
        works: bool,
    }

    impl VideoSource for Source {
        fn facts(&self) -> &StreamFacts {
            &self.facts
        }

        fn timestamps(&self) -> &[f64] {
            &[0.0, 1.0]
        }

        fn read(&mut self, indices: &[usize], sink: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
            if !self.works {
                return Err(Error::input("broken here"));
            }
            let frame = |&index| Frame { index, time: 0.0, image: Image { width: 1, height: 1, rgb: vec![0; 3] } };
            indices.iter().map(frame).try_for_each(sink)
        }
    }

    fn source(works: bool, frame_count: usize) -> Box<dyn VideoSource> {
        let facts = StreamFacts {
            name: String::new(),
            codec: String::new(),
            container: String::new(),
            width: 1,
            height: 1,
            frame_count,
            average_rate: 1.0,
            duration: 2.0,
            rotation: 0,
            constant_rate: true,
            picked: false,
        };
        Box::new(Source { facts, works })
    }

    #[test]
    fn a_reader_that_fails_at_once_is_replaced() {
        let mut video = FallbackVideo::new(source(false, 2), Box::new(|| Ok(source(true, 2))));
        for _ in 0..2 {
            let mut seen = Vec::new();
            let mut sink = |frame: Frame| {
                seen.push(frame.index);
                Ok(())
            };
            video.read(&[0, 1], &mut sink).unwrap();
            assert_eq!(seen, [0, 1]);
        }
    }

    #[test]
    fn a_reader_that_sees_other_frames_does_not_replace() {
        let mut video = FallbackVideo::new(source(false, 2), Box::new(|| Ok(source(true, 3))));
        let error = video.read(&[0], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("broken here") && error.contains("3 frames"), "{error}");
    }

    #[test]
    fn an_error_of_the_sink_replaces_nothing() {
        let mut video = FallbackVideo::new(source(true, 2), Box::new(|| panic!("not asked for")));
        assert!(video.read(&[0], &mut |_| Err(Error::input("enough"))).is_err());
    }
}
