//! From coefficients to RGB, one row of MCUs after another, so that what lies between stays in the cache.

use smolvlm_kernels::jpeg::inverse_dct;

use super::block::Block;
use super::color::{self, ColorSpace};
use super::frame::{BLOCK, Frame};
use super::upsample::{Plane, Upsampler};
use crate::media::Image;

/// The blocks of a row of MCUs, for each component: whole lines of blocks, one after another.
pub(super) type McuRow = Vec<Vec<Block>>;

/// A row of MCUs whose coefficients are all zero.
pub(super) fn empty_row(frame: &Frame) -> McuRow {
    frame.components.iter().map(|component| vec![[0; 64]; component.padded.0 * component.v]).collect()
}

/// A picture in the making.
pub(super) struct Painter<'f> {
    frame: &'f Frame,
    space: ColorSpace,
    /// The quantisation table of each component. One without any scan has none, and stays grey.
    tables: Vec<Option<[u16; 64]>>,
    planes: Vec<Plane>,
    upsamplers: Vec<Upsampler>,
    rgb: Vec<u8>,
    /// Rows of MCUs, and lines of RGB, that are done.
    done: (usize, usize),
}

impl<'f> Painter<'f> {
    pub(super) fn new(frame: &'f Frame, space: ColorSpace, tables: Vec<Option<[u16; 64]>>) -> Self {
        Self {
            frame,
            space,
            tables,
            planes: frame.components.iter().map(Plane::new).collect(),
            upsamplers: frame.components.iter().map(|component| Upsampler::new(frame, component)).collect(),
            rgb: vec![0; frame.width * frame.height * 3],
            done: (0, 0),
        }
    }

    /// Paints the next row of MCUs; `blocks[i]` holds those of component `i`.
    pub(super) fn row<'b>(&mut self, blocks: impl Iterator<Item = &'b [Block]>) {
        for (index, blocks) in blocks.enumerate() {
            let component = &self.frame.components[index];
            let plane = &mut self.planes[index];
            let height = component.v * BLOCK;
            let samples = &mut plane.samples[self.done.0 * height * plane.stride..][..height * plane.stride];
            let Some(table) = &self.tables[index] else {
                samples.fill(128);
                continue;
            };
            let lines = samples.chunks_exact_mut(BLOCK * plane.stride);
            for (blocks, samples) in blocks.chunks_exact(component.padded.0).zip(lines) {
                inverse_dct(blocks, table, samples, plane.stride);
            }
        }
        self.done.0 += 1;
        // The filters down read one line of chroma ahead.
        let ready = self.done.0 * self.frame.max.1 * BLOCK - self.frame.max.1;
        self.lines(if self.done.0 == self.frame.mcus.1 { self.frame.height } else { ready.min(self.frame.height) });
    }

    /// Converts lines up to `end`.
    fn lines(&mut self, end: usize) {
        let line = self.frame.width * 3;
        let output = self.rgb[self.done.1 * line..end * line].chunks_exact_mut(line);
        for (y, output) in (self.done.1..).zip(output) {
            let planes = self.upsamplers.iter_mut().zip(&self.planes);
            let rows: Vec<&[u8]> = planes.map(|(upsampler, plane)| upsampler.row(plane, y)).collect();
            color::to_rgb(self.space, &rows, output);
        }
        self.done.1 = end;
    }

    /// The picture, once every row is painted.
    pub(super) fn finish(self) -> Image {
        Image { width: self.frame.width, height: self.frame.height, rgb: self.rgb }
    }
}
