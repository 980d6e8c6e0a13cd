//! Boxes: a length, a kind of four letters, a payload.

use super::super::bytes::{ByteSource, Fields};
use crate::Result;

/// The most boxes that are looked at on the top level of a file: ten hours in fragments of one frame at 30 per second.
const MAX_FILE_BOXES: usize = 1 << 21;

/// A box on the top level of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileBox {
    pub(super) kind: [u8; 4],
    /// Where the box begins.
    pub(super) start: u64,
    /// Where its payload begins.
    pub(super) payload: u64,
    /// Where it ends; the end of the file when it is cut off.
    pub(super) end: u64,
}

/// The top level of a file.
pub(super) struct FileBoxes;

impl FileBoxes {
    /// All boxes up to the end of the file or the first header that makes no sense. Only headers are read.
    pub(super) fn scan(bytes: &ByteSource) -> Result<Vec<FileBox>> {
        let (mut found, mut header, mut start) = (Vec::new(), Vec::new(), 0);
        while found.len() < MAX_FILE_BOXES {
            bytes.read_up_to(start, 16, &mut header)?;
            let Some((kind, header_size, size)) = read_header(&header) else { break };
            let end = match size {
                0 => bytes.len(),
                size => start.saturating_add(size).min(bytes.len()),
            };
            found.push(FileBox { kind, start, payload: (start + header_size).min(end), end });
            start = end;
        }
        Ok(found)
    }
}

/// Kind, size of the header, size of the whole box (0: to the end). `None` for the end or a size that cannot be.
fn read_header(bytes: &[u8]) -> Option<([u8; 4], u64, u64)> {
    let mut fields = Fields(bytes);
    let size = u64::from(fields.u32()?);
    let kind: [u8; 4] = fields.take(4)?.try_into().ok()?;
    match size {
        0 => Some((kind, 8, 0)),
        1 => fields.u64().filter(|&size| size >= 16).map(|size| (kind, 16, size)),
        2..8 => None,
        size => Some((kind, 8, size)),
    }
}

/// The boxes inside a payload; the last may be cut off.
pub(super) struct Boxes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, header_size, size) = read_header(self.0)?;
        let size = if size == 0 { self.0.len() } else { usize::try_from(size).unwrap_or(usize::MAX).min(self.0.len()) };
        let (whole, rest) = self.0.split_at(size);
        self.0 = rest;
        Some((kind, whole.get(header_size as usize..).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_is_cut_off_is_read_as_far_as_it_goes() {
        let found: Vec<_> = Boxes(b"\0\0\0\x0Aaaaa12\0\0\0\xFFbbbb345").collect();
        assert_eq!(found, [(*b"aaaa", &b"12"[..]), (*b"bbbb", &b"345"[..])]);
    }

    #[test]
    fn a_box_smaller_than_its_header_ends_the_walk() {
        assert_eq!(Boxes(b"\0\0\0\x03aaaa12345678").count(), 0);
        assert_eq!(Boxes(b"\0\0\0\x01aaaa\0\0\0\0\0\0\0\x02").count(), 0);
    }

    #[test]
    fn a_long_box_has_its_size_in_64_bits() {
        let found: Vec<_> = Boxes(b"\0\0\0\x01aaaa\0\0\0\0\0\0\0\x12xy\0\0\0\x08bbbb").collect();
        assert_eq!(found, [(*b"aaaa", &b"xy"[..]), (*b"bbbb", &b""[..])]);
    }
}
