//! The first frame of a GIF file, drawn on its background.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};

use super::Rules;
use crate::media::Image;
use crate::{Error, Result};

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

fn broken(error: gif::DecodingError) -> Error {
    Error::input(format!("broken GIF file: {error}")).caused_by(error)
}

fn no_frame() -> Error {
    Error::input("broken GIF file: it has no frame")
}

fn open(data: &[u8], pixels: u64) -> Result<Reader<'_>> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // An indexed pixel takes one byte.
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::new(pixels).unwrap_or(NonZeroU64::MIN)));
    options.read_info(Cursor::new(data)).map_err(broken)
}

/// Pixels across and down: the larger of the canvas and the first frame, as in torchcodec's `DecodeGif.cpp`.
pub(super) fn size(data: &[u8], pixels: u64) -> Result<(usize, usize)> {
    let mut reader = open(data, pixels)?;
    let canvas = (reader.width(), reader.height());
    let frame = reader.next_frame_info().map_err(broken)?.ok_or_else(no_frame)?;
    Ok((canvas.0.max(frame.width).into(), canvas.1.max(frame.height).into()))
}

/// Decodes the first frame. Pixels it leaves transparent or does not cover have the background colour; Pillow's
/// conversion shows a transparent pixel's own colour instead.
pub(super) fn decode(data: &[u8], pixels: u64, rules: Rules) -> Result<Image> {
    let (width, height) = size(data, pixels)?;
    let mut reader = open(data, pixels)?;
    let background = background(&reader);
    let global = reader.global_palette().map(<[u8]>::to_vec);
    let frame = reader.read_next_frame().map_err(broken)?.ok_or_else(no_frame)?;
    let palette = frame.palette.as_ref().or(global.as_ref());
    let palette = palette.ok_or_else(|| Error::input("broken GIF file: no colour table"))?.as_chunks::<3>().0;
    let transparent = frame.transparent.filter(|_| rules == Rules::Torch);

    let mut rgb = background.repeat(width * height);
    let rows = rgb.chunks_exact_mut(width * 3).skip(frame.top.into());
    for (row, indices) in rows.zip(frame.buffer.chunks_exact(frame.width.max(1).into())) {
        let output = row.as_chunks_mut::<3>().0.iter_mut().skip(frame.left.into());
        for (pixel, &index) in output.zip(indices).filter(|&(_, &index)| Some(index) != transparent) {
            *pixel = palette.get(usize::from(index)).copied().unwrap_or_default();
        }
    }
    Ok(Image { width, height, rgb })
}

fn background(reader: &Reader<'_>) -> [u8; 3] {
    let palette = reader.global_palette().unwrap_or_default().as_chunks::<3>().0;
    reader.bg_color().and_then(|index| palette.get(index)).copied().unwrap_or_default()
}
