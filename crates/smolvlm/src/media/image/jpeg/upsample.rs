//! Chroma upsampling as libjpeg does it (`jdsample.c`): a triangle filter where one or both directions are halved,
//! replication elsewhere.

use smolvlm_kernels::jpeg::double;

use super::frame::{BLOCK, Component, Frame};

/// The decoded samples of one component.
pub(super) struct Plane {
    /// `stride` samples a row, padded to whole blocks.
    pub(super) samples: Vec<u8>,
    pub(super) stride: usize,
}

impl Plane {
    pub(super) fn new(component: &Component) -> Self {
        let stride = component.padded.0 * BLOCK;
        Self { samples: vec![0; stride * component.padded.1 * BLOCK], stride }
    }

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
pub(super) struct Upsampler {
    /// Samples across and down that matter.
    size: (usize, usize),
    method: Method,
    /// Vertically weighted samples, between one more at each end.
    sums: Vec<u16>,
    output: Vec<u8>,
}

impl Upsampler {
    pub(super) fn new(frame: &Frame, component: &Component) -> Self {
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
        Self { size, method, sums: vec![0; size.0 + 2], output }
    }

    /// Row `y` of the picture, from the component's samples.
    pub(super) fn row<'p>(&'p mut self, plane: &'p Plane, y: usize) -> &'p [u8] {
        let width = self.size.0;
        match self.method {
            Method::Full => return plane.row(y, width),
            Method::Replicate(h, v) => {
                let input = plane.row(y / v, width);
                for (group, &sample) in self.output.chunks_exact_mut(h).zip(input) {
                    group.fill(sample);
                }
            }
            Method::H1V2 => {
                let (near, far) = self.rows(plane, y);
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((output, &near), &far) in self.output.iter_mut().zip(near).zip(far) {
                    *output = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
                }
            }
            Method::H2V1 => double(plane.row(y, width), None, &mut self.sums, &mut self.output),
            Method::H2V2 => {
                let (near, far) = self.rows(plane, y);
                double(near, Some(far), &mut self.sums, &mut self.output);
            }
        }
        &self.output
    }

    /// The row of samples nearest to picture row `y` of a vertically halved component, and the next nearest one.
    fn rows<'p>(&self, plane: &'p Plane, y: usize) -> (&'p [u8], &'p [u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.size.1 - 1) };
        (plane.row(near, self.size.0), plane.row(far, self.size.0))
    }
}
