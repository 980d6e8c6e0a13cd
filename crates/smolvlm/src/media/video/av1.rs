//! AV1, decoded by the crate `re_rav1d`.
//!
//! Its functions have the calling convention of C, which no panic crosses: one ends the process. It happened to one of
//! 20,000 damaged files, so it runs in processes that may end only.

use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::{
    Decoder as Inner, Error as DecodeError, Picture as Decoded, PixelLayout, PlanarImageComponent, Settings,
};

use super::bits::Bits;
use super::embedded::{Access, Decoder, guarded};
use super::picture::{Chroma, Colour, Picture, Planes};
use super::stream::StreamHeader;
use crate::media::source::MediaLimits;
use crate::{Error, Result};

const SEQUENCE_HEADER: u32 = 1;
const FRAME_HEADER: u32 = 3;
const FRAME: u32 = 6;

/// A decoder that takes one temporal unit and gives its picture.
pub(super) struct Av1 {
    inner: Inner,
    size: (usize, usize),
    container_colour: Option<Colour>,
}

impl Av1 {
    pub(super) fn open(stream: &StreamHeader, limits: &MediaLimits) -> Result<Self> {
        let mut settings = Settings::new();
        // One thread, and no frame held back: a unit in, its picture out.
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false);
        settings.set_frame_size_limit(u32::try_from(limits.pixels).unwrap_or(u32::MAX));
        let inner = guarded(|| Inner::with_settings(&settings))?
            .map_err(|error| Error::internal(format!("no AV1 decoder can be made: {error}")))?;
        Ok(Self { inner, size: (0, 0), container_colour: stream.colour })
    }

    /// Every picture of a unit that is shown; the last is what a player shows.
    fn decode_unit(&mut self, unit: &[u8]) -> std::result::Result<Option<Decoded>, DecodeError> {
        let mut shown = None;
        let mut sent = self.inner.send_data(unit.to_vec(), None, None, None);
        loop {
            match self.inner.get_picture() {
                Ok(picture) => shown = Some(picture),
                Err(error) if !error.is_again() => return Err(error),
                Err(_) => match sent {
                    Ok(()) => return Ok(shown),
                    Err(error) if !error.is_again() => return Err(error),
                    Err(_) => sent = self.inner.send_pending_data(),
                },
            }
        }
    }
}

impl Decoder for Av1 {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Which frames are disposable stands deep in their headers, and is not looked for.
    fn access(&self, unit: &[u8]) -> Access {
        key_frame(unit).unwrap_or(Access::Dependent)
    }

    fn restart(&mut self) -> Result<()> {
        guarded(|| self.inner.flush())
    }

    fn decode(&mut self, unit: &[u8]) -> Result<Option<Picture>> {
        if unit.is_empty() {
            return Err(Error::input("a unit of AV1 data is empty"));
        }
        let decoded = guarded(|| self.decode_unit(unit));
        if !matches!(decoded, Ok(Ok(_))) {
            self.restart()?;
        }
        let broken = |error: DecodeError| {
            Error::input(format!("the AV1 data is broken, too large, or of a kind not decoded here: {error}"))
        };
        let Some(decoded) = decoded?.map_err(broken)? else { return Ok(None) };
        let picture = guarded(|| picture(&decoded, self.container_colour))??;
        self.size = (picture.width, picture.height);
        Ok(Some(picture))
    }
}

/// What a unit with a sequence header and a key frame allows: the first frame that is shown after a shown key frame needs
/// nothing before it; a key frame that is shown later may be preceded by frames that do.
fn key_frame(unit: &[u8]) -> Option<Access> {
    let mut has_sequence = false;
    let mut rest = unit;
    while let Some((kind, payload, after)) = next_obu(rest) {
        match kind {
            SEQUENCE_HEADER => has_sequence = true,
            FRAME_HEADER | FRAME if !has_sequence => return None,
            FRAME_HEADER | FRAME => {
                let mut bits = Bits::at(payload, 0);
                let (is_repeated, frame_type, is_shown) = (bits.flag()?, bits.number(2)?, bits.flag()?);
                return match (is_repeated, frame_type) {
                    (false, 0) if is_shown => Some(Access::Independent),
                    (false, 0) => Some(Access::Recovery),
                    _ => None,
                };
            }
            _ => {}
        }
        rest = after;
    }
    None
}

/// The kind and payload of the first unit of a stream of OBUs, and what follows (5.3).
fn next_obu(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let header = *bytes.first()?;
    let start = if header & 4 != 0 { 2 } else { 1 };
    let mut rest = bytes.get(start..)?;
    let mut size = rest.len();
    if header & 2 != 0 {
        let length = rest.iter().take(8).position(|byte| byte & 0x80 == 0)? + 1;
        size = rest[..length].iter().rev().fold(0, |size, &byte| size << 7 | usize::from(byte & 0x7F));
        rest = &rest[length..];
    }
    let (payload, after) = rest.split_at_checked(size)?;
    Some((u32::from(header >> 3 & 15), payload, after))
}

fn picture(decoded: &Decoded, container: Option<Colour>) -> Result<Picture> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let chroma = match decoded.pixel_layout() {
        PixelLayout::I400 => Chroma::Grey,
        PixelLayout::I420 => Chroma::Yuv420,
        PixelLayout::I422 => Chroma::Yuv422,
        PixelLayout::I444 => Chroma::Yuv444,
    };
    let (across, _) = chroma.shifts();
    let chroma_width = if chroma == Chroma::Grey { 0 } else { width.div_ceil(1 << across) };
    let depth = decoded.bit_depth() as u32;
    let bytes = if depth > 8 { 2 } else { 1 };
    let plane = |component, width: usize| -> Vec<u8> {
        if width == 0 {
            return Vec::new();
        }
        let (stride, rows) = decoded.plane_data_geometry(component);
        let lines = decoded.plane(component);
        let lines = lines.chunks(stride.max(1) as usize).take(rows as usize);
        lines.flat_map(|line| line.iter().take(width * bytes)).copied().collect()
    };
    let planes = [
        plane(PlanarImageComponent::Y, width),
        plane(PlanarImageComponent::U, chroma_width),
        plane(PlanarImageComponent::V, chroma_width),
    ];
    let planes = if bytes == 2 { Planes::from_pairs(&planes) } else { Planes::Byte(planes) };
    let matrix = decoded.matrix_coefficients() as u8;
    let colour = Colour { matrix, full_range: decoded.color_range() == YUVRange::Full }.or(container);
    Picture { width, height, depth, chroma, planes, colour }.checked()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_are_found_behind_a_sequence_header() {
        // A temporal delimiter, a sequence header of one byte, a frame; each with its size.
        let unit = |frame: u8| [0x12, 0, 0x0A, 1, 0, 0x32, 1, frame];
        assert_eq!(key_frame(&unit(0b0001_0000)), Some(Access::Independent));
        assert_eq!(key_frame(&unit(0b0000_0000)), Some(Access::Recovery));
        assert_eq!(key_frame(&unit(0b0011_0000)), None);
        assert_eq!(key_frame(&[0x12, 0, 0x32, 1, 0b0001_0000]), None);
        assert_eq!(key_frame(&[0x32, 200, 0]), None);
    }
}
