//! Chroma upsampling as libjpeg does it (`jdsample.c`): a triangle filter where one or both directions are halved,
//! replication elsewhere.

use super::frame::{Component, Frame};

/// The decoded samples of one component.
pub(super) struct Plane {
    /// `stride` samples a row, padded to whole blocks.
    pub(super) samples: Vec<u8>,
    pub(super) stride: usize,
}

impl Plane {
    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.samples[y * self.stride..][..width]
    }
}

/// How a component is brought to the size of the picture.
#[derive(Clone, Copy)]
enum Method {
    Full,
    /// Triangle filter across.
    H2V1,
    /// Triangle filter down.
    H1V2,
    /// Triangle filter in both directions.
    H2V2,
    /// Each sample so many times across and down.
    Replicate(usize, usize),
}

/// Yields rows of one component at the picture's width.
pub(super) struct Upsampler<'p> {
    plane: &'p Plane,
    /// Samples across and down that matter.
    size: (usize, usize),
    method: Method,
    /// Vertically weighted samples, between one more at each end.
    sums: Vec<u16>,
    output: Vec<u8>,
}

impl<'p> Upsampler<'p> {
    pub(super) fn new(frame: &Frame, component: &Component, plane: &'p Plane) -> Self {
        let ratio = (frame.max.0 / component.h, frame.max.1 / component.v);
        let size = component.size;
        let method = match ratio {
            (1, 1) => Method::Full,
            // libjpeg's filters across need three samples.
            (2, 1) if size.0 > 2 => Method::H2V1,
            (1, 2) => Method::H1V2,
            (2, 2) if size.0 > 2 => Method::H2V2,
            (h, v) => Method::Replicate(h, v),
        };
        let output = vec![0; if matches!(method, Method::Full) { 0 } else { size.0 * ratio.0 }];
        Self { plane, size, method, sums: vec![0; size.0 + 2], output }
    }

    /// Row `y` of the picture.
    pub(super) fn row(&mut self, y: usize) -> &[u8] {
        match self.method {
            Method::Full => return self.plane.row(y, self.size.0),
            Method::Replicate(h, v) => {
                let input = self.plane.row(y / v, self.size.0);
                for (group, &sample) in self.output.chunks_exact_mut(h).zip(input) {
                    group.fill(sample);
                }
            }
            Method::H1V2 => {
                let (near, far) = self.rows(y);
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((output, &near), &far) in self.output.iter_mut().zip(near).zip(far) {
                    *output = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
                }
            }
            Method::H2V1 => {
                let input = self.plane.row(y, self.size.0);
                for (sum, &sample) in self.sums[1..].iter_mut().zip(input) {
                    *sum = u16::from(sample);
                }
                self.across::<2>(1, 2);
            }
            Method::H2V2 => {
                let (near, far) = self.rows(y);
                for ((sum, &near), &far) in self.sums[1..].iter_mut().zip(near).zip(far) {
                    *sum = 3 * u16::from(near) + u16::from(far);
                }
                self.across::<4>(8, 7);
            }
        }
        &self.output
    }

    /// The row of samples nearest to picture row `y` of a vertically halved component, and the next nearest one.
    fn rows(&self, y: usize) -> (&'p [u8], &'p [u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.size.1 - 1) };
        (self.plane.row(near, self.size.0), self.plane.row(far, self.size.0))
    }

    /// Doubles `sums` across with weights ¾ and ¼ and the two biases that libjpeg dithers the rounding with.
    /// Repeating the outermost samples gives what libjpeg's special cases for the first and last column give.
    fn across<const SHIFT: u32>(&mut self, left_bias: u16, right_bias: u16) {
        let width = self.size.0;
        self.sums[0] = self.sums[1];
        self.sums[width + 1] = self.sums[width];
        let pairs = self.output.as_chunks_mut::<2>().0.iter_mut();
        for (((pair, &left), &here), &right) in pairs.zip(&self.sums).zip(&self.sums[1..]).zip(&self.sums[2..]) {
            let here = 3 * here;
            *pair = [((here + left + left_bias) >> SHIFT) as u8, ((here + right + right_bias) >> SHIFT) as u8];
        }
    }
}
