//! The byte stream of a JPEG file: bytes, two-byte lengths and markers.

use super::broken;
use crate::Result;

/// Start of image.
pub(super) const SOI: u8 = 0xD8;
/// End of image.
pub(super) const EOI: u8 = 0xD9;
/// Start of scan.
pub(super) const SOS: u8 = 0xDA;
/// The first of eight restart markers.
pub(super) const RST0: u8 = 0xD0;
/// The last of eight restart markers.
pub(super) const RST7: u8 = 0xD7;
const SOF0: u8 = 0xC0;

/// Whether entropy-coded data never goes on behind this marker.
pub(super) fn ends_scan(marker: u8) -> bool {
    marker >= SOF0 && !(RST0..=RST7).contains(&marker)
}

/// A reading position, and the marker that was met but not acted on yet.
///
/// Running out of bytes is an error everywhere, as in the reference (`fill_input_buffer_cb` of torchcodec's
/// `DecodeJpeg.cpp`): a complete file has its end marker ahead of every byte that is read.
pub(super) struct Stream<'a> {
    data: &'a [u8],
    position: usize,
    /// A marker that stopped the entropy decoder; nothing is read past it until it is taken.
    pub(super) pending: Option<u8>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, pending: None }
    }

    /// Bytes not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.data.get(self.position..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes).min(self.data.len());
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        let byte = *self.data.get(self.position).ok_or_else(|| broken("the file is truncated"))?;
        self.position += 1;
        Ok(byte)
    }

    /// The payload of the marker segment that starts here with its two-byte length.
    pub(super) fn segment(&mut self) -> Result<&'a [u8]> {
        let length = usize::from(self.byte()?) << 8 | usize::from(self.byte()?);
        // A length below two is nonsense that libjpeg (`skip_variable`) reads as an empty segment.
        let length = length.saturating_sub(2);
        let payload = self.rest().get(..length).ok_or_else(|| broken("the file is truncated"))?;
        self.advance(length);
        Ok(payload)
    }

    /// Skips to the next marker and returns its code, which is neither 0 nor 0xFF.
    pub(super) fn next_marker(&mut self) -> Result<u8> {
        if let Some(marker) = self.pending.take() {
            return Ok(marker);
        }
        loop {
            while self.byte()? != 0xFF {}
            let code = self.after_ff()?;
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// The first byte after an 0xFF that is not 0xFF itself: 0 for a stuffed data byte, else a marker's code.
    pub(super) fn after_ff(&mut self) -> Result<u8> {
        loop {
            let byte = self.byte()?;
            if byte != 0xFF {
                return Ok(byte);
            }
        }
    }

    /// Moves past restart marker `expected` (0 to 7), or resynchronises as libjpeg's `jpeg_resync_to_restart` does
    /// when another marker is found: a marker that lies ahead stays pending and the interval is left empty.
    pub(super) fn restart(&mut self, expected: u8) -> Result<()> {
        let mut marker = self.next_marker()?;
        loop {
            let ahead = marker.wrapping_sub(RST0).wrapping_sub(expected) & 7;
            match marker {
                _ if ends_scan(marker) => break,
                RST0..=RST7 if matches!(ahead, 1 | 2) => break,
                RST0..=RST7 if matches!(ahead, 0 | 3 | 4 | 5) => return Ok(()),
                // A marker of the past, or none that exists.
                _ => {}
            }
            marker = self.next_marker()?;
        }
        self.pending = Some(marker);
        Ok(())
    }
}
