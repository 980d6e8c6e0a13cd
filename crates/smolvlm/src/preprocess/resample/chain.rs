//! Several resizes in a row, a band of result lines at a time: what lies between the passes stays in the cache, and
//! bands are made on several threads.

use std::ops::Range;

use smolvlm_kernels::resample::{Across, Down};

use super::Resampler;
use crate::media::Image;
use crate::preprocess::geometry::Size;
use crate::preprocess::tiles::Tile;

/// Lines of a band. The lines between the passes of a 2048-pixel picture then take half a MiB.
pub(in crate::preprocess) const BAND: usize = 32;

/// One pass, in the arithmetic of its release.
#[derive(Debug)]
pub(super) enum Pass {
    NarrowAcross(Across<i16>),
    WideAcross(Across<i32>),
    NarrowDown(Down<i16>),
    WideDown(Down<i32>),
}

impl Pass {
    /// The lines that must be there to make these.
    fn reads(&self, lines: Range<usize>) -> Range<usize> {
        match self {
            Self::NarrowAcross(_) | Self::WideAcross(_) => lines,
            Self::NarrowDown(pass) => pass.reads(lines),
            Self::WideDown(pass) => pass.reads(lines),
        }
    }

    /// Makes `lines` from what they read, lines of `line` bytes.
    fn apply(&self, read: &[u8], line: usize, lines: Range<usize>, out: &mut [u8]) {
        let first = self.reads(lines.clone()).start;
        match self {
            Self::NarrowAcross(pass) => pass.apply(read, out),
            Self::WideAcross(pass) => pass.apply(read, out),
            Self::NarrowDown(pass) => pass.apply(read, first, line, lines, out),
            Self::WideDown(pass) => pass.apply(read, first, line, lines, out),
        }
    }
}

/// Where the lines of the picture to be resized come from.
#[derive(Clone, Copy)]
pub(in crate::preprocess) enum Source<'a> {
    Picture(&'a Image),
    /// A picture that was cut into so many columns of tiles.
    Tiles(&'a [Tile], usize),
}

impl Source<'_> {
    fn lines<'a>(&'a self, lines: Range<usize>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        match *self {
            Self::Picture(image) => &image.rgb[lines.start * image.width * 3..lines.end * image.width * 3],
            Self::Tiles(tiles, columns) => {
                buffer.clear();
                for line in lines {
                    for tile in &tiles[line / tiles[0].size * columns..][..columns] {
                        buffer.extend_from_slice(&tile.rgb[line % tile.size * tile.size * 3..][..tile.size * 3]);
                    }
                }
                buffer
            }
        }
    }
}

/// Lines of the result, and where they go.
pub(in crate::preprocess) struct Band<'o> {
    pub(in crate::preprocess) lines: Range<usize>,
    /// The band's columns from left to right, `[lines, width of the column, 3]` each.
    pub(in crate::preprocess) columns: Vec<&'o mut [u8]>,
}

/// Lines that a pass made and the next one still reads.
#[derive(Default)]
struct Window {
    first: usize,
    rgb: Vec<u8>,
}

impl Window {
    /// Forgets the lines before `start`; the first one that is not there then.
    fn keep_from(&mut self, start: usize, line: usize) -> usize {
        let end = self.first + self.rgb.len() / line;
        if (self.first..=end).contains(&start) {
            self.rgb.drain(..(start - self.first) * line);
        } else {
            self.rgb.clear();
        }
        self.first = start;
        start + self.rgb.len() / line
    }
}

/// A pass and the bytes of a line before and after it.
#[derive(Debug)]
struct Stage {
    pass: Pass,
    line: usize,
    out_line: usize,
}

/// Passes that turn one size into another.
#[derive(Debug)]
pub(in crate::preprocess) struct Chain {
    stages: Vec<Stage>,
    to: Size,
}

impl Chain {
    /// The passes of resizing `from` to each of `sizes` in turn.
    pub(in crate::preprocess) fn new(resampler: Resampler, from: Size, sizes: &[Size]) -> Self {
        let mut stages = Vec::new();
        let mut size = from;
        for &to in sizes {
            for (pass, after) in resampler.passes(size, to) {
                stages.push(Stage { pass, line: size.width * 3, out_line: after.width * 3 });
                size = after;
            }
        }
        Self { stages, to: size }
    }

    /// The whole result on this thread.
    pub(in crate::preprocess) fn picture(&self, source: Source<'_>) -> Image {
        let mut image =
            Image { width: self.to.width, height: self.to.height, rgb: vec![0; self.to.width * self.to.height * 3] };
        self.run(source, bands(&mut image.rgb, self.to.width * 3), 1);
        image
    }

    /// Makes these bands, in ascending order, on at most so many threads.
    pub(in crate::preprocess) fn run(&self, source: Source<'_>, mut bands: Vec<Band<'_>>, threads: usize) {
        let share = bands.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            while bands.len() > share {
                let part = bands.split_off(bands.len() - share);
                scope.spawn(move || self.make(source, part));
            }
            self.make(source, bands);
        });
    }

    fn make(&self, source: Source<'_>, bands: Vec<Band<'_>>) {
        let mut windows: Vec<Window> = self.stages.iter().map(|_| Window::default()).collect();
        let mut buffer = Vec::new();
        for mut band in bands {
            if let ([column], Some((last, before))) = (band.columns.as_mut_slice(), self.stages.split_last()) {
                let read = pull(before, &mut windows, &source, &mut buffer, last.pass.reads(band.lines.clone()));
                last.pass.apply(read, last.line, band.lines, column);
                continue;
            }
            let made = pull(&self.stages, &mut windows, &source, &mut buffer, band.lines.clone());
            let count = band.lines.len();
            for (number, mut rest) in made.chunks_exact(self.to.width * 3).enumerate() {
                for column in &mut band.columns {
                    let width = column.len() / count;
                    let (part, right) = rest.split_at(width);
                    column[number * width..][..width].copy_from_slice(part);
                    rest = right;
                }
            }
        }
    }
}

/// The whole of a picture in bands of one column.
pub(in crate::preprocess) fn bands(rgb: &mut [u8], line: usize) -> Vec<Band<'_>> {
    let chunks = rgb.chunks_mut(line * BAND).enumerate();
    let band = |(number, chunk): (usize, _)| -> Band<'_> {
        let chunk: &mut [u8] = chunk;
        let first = number * BAND;
        Band { lines: first..first + chunk.len() / line, columns: vec![chunk] }
    };
    chunks.map(band).collect()
}

/// The lines that the last of `stages` makes; those that its window has already are not made again.
fn pull<'w>(
    stages: &[Stage],
    windows: &'w mut [Window],
    source: &'w Source<'_>,
    buffer: &'w mut Vec<u8>,
    lines: Range<usize>,
) -> &'w [u8] {
    let Some((stage, before)) = stages.split_last() else { return source.lines(lines, buffer) };
    let (earlier, own) = windows.split_at_mut(before.len());
    let window = &mut own[0];
    let end = window.keep_from(lines.start, stage.out_line);
    if end < lines.end {
        let missing = end..lines.end;
        let read = pull(before, earlier, source, buffer, stage.pass.reads(missing.clone()));
        let made = window.rgb.len();
        window.rgb.resize(made + missing.len() * stage.out_line, 0);
        stage.pass.apply(read, stage.line, missing, &mut window.rgb[made..]);
    }
    &window.rgb[..lines.len() * stage.out_line]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::resample::{Arithmetic, Filter};
    use crate::preprocess::tiles;

    fn picture(size: Size) -> Image {
        let bytes = 0..(size.width * size.height * 3) as u32;
        let rgb = bytes.map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8).collect();
        Image { width: size.width, height: size.height, rgb }
    }

    /// The result as one band.
    fn at_once(chain: &Chain, source: Source<'_>) -> Vec<u8> {
        let mut rgb = vec![0; chain.to.width * chain.to.height * 3];
        let band = Band { lines: 0..chain.to.height, columns: vec![&mut rgb] };
        chain.run(source, vec![band], 1);
        rgb
    }

    #[test]
    fn bands_on_several_threads_make_the_picture_that_is_made_at_once() {
        let (from, sizes) = (Size::new(150, 210), [Size::new(130, 170), Size::new(180, 240)]);
        let image = picture(from);
        for arithmetic in [Arithmetic::Pillow, Arithmetic::Torch] {
            let resampler = Resampler { filter: Filter::Lanczos, arithmetic };
            let chain = Chain::new(resampler, from, &sizes);
            let first = resampler.resize(&image, sizes[0]).into_owned();
            let expected = at_once(&Chain::new(resampler, sizes[0], &sizes[1..]), Source::Picture(&first));
            assert!(at_once(&chain, Source::Picture(&image)) == expected, "{arithmetic:?}");
            for threads in [1, 2, 3, 50] {
                let mut rgb = vec![0; expected.len()];
                chain.run(Source::Picture(&image), bands(&mut rgb, sizes[1].width * 3), threads);
                assert!(rgb == expected, "{arithmetic:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn tiles_are_cut_from_the_picture_and_put_together_again() {
        let (size, tile) = (Size::new(180, 120), 60);
        let image = picture(size);
        let resampler = Resampler { filter: Filter::Bicubic, arithmetic: Arithmetic::Torch };
        let mut cut = tiles::blank(6, tile);
        Chain::new(resampler, size, &[]).run(Source::Picture(&image), tiles::bands(&mut cut, 3), 2);
        // Line 7 of the tile in the second row and third column.
        assert_eq!(cut[5].rgb[7 * tile * 3..8 * tile * 3], image.rgb[(67 * 180 + 120) * 3..(67 * 180 + 180) * 3]);
        let again = at_once(&Chain::new(resampler, size, &[]), Source::Tiles(&cut, 3));
        assert!(again == image.rgb);
    }
}
