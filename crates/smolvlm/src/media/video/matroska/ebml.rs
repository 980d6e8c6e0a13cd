//! EBML elements (RFC 8794): in a file, where only their headers are read, and in memory.

use super::super::bytes::ByteSource;
use crate::{Error, Result};

/// The most elements that are looked at; an hour of video at 60 frames per second has a quarter of a million.
const MAX_ELEMENTS: usize = 1 << 24;
/// Bytes read at once for headers; a block's own header fits behind its element's.
const WINDOW: usize = 64;

/// An element's place in a file. The end of one of unknown size is the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) id: u32,
    pub(super) payload: u64,
    pub(super) end: u64,
    pub(super) has_size: bool,
    /// Whether it says that it goes on behind `end`.
    pub(super) is_cut: bool,
}

/// Goes through the elements of a file from one place on.
pub(super) struct Scanner<'a> {
    bytes: &'a ByteSource,
    window: Vec<u8>,
    seen: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a ByteSource) -> Self {
        Self { bytes, window: Vec::new(), seen: 0 }
    }

    /// The element at `at`, none at `end` or where the file is cut off. Its end is at most `end`.
    pub(super) fn element(&mut self, at: u64, end: u64) -> Result<Option<Element>> {
        self.seen += 1;
        if self.seen > MAX_ELEMENTS {
            return Err(Error::input(format!("holds more than {MAX_ELEMENTS} elements")));
        }
        if at >= end {
            return Ok(None);
        }
        let head = self.peek(at)?;
        let Some((id, id_len)) = id(head) else { return Ok(None) };
        let Some((size, size_len)) = head.get(id_len..).and_then(number) else { return Ok(None) };
        let payload = at + (id_len + size_len) as u64;
        let ends = size.and_then(|size| payload.checked_add(size)).unwrap_or(end);
        Ok(Some(Element {
            id,
            payload: payload.min(end),
            end: ends.min(end),
            has_size: size.is_some(),
            is_cut: ends > end,
        }))
    }

    /// The first bytes at a place, fewer at the end of the file.
    pub(super) fn peek(&mut self, at: u64) -> Result<&[u8]> {
        self.bytes.read_up_to(at, WINDOW, &mut self.window)?;
        Ok(&self.window)
    }

    /// The payload of an element of at most `limit` bytes.
    pub(super) fn payload(&self, element: &Element, limit: u64) -> Result<Vec<u8>> {
        let size = element.end - element.payload;
        if size > limit {
            return Err(Error::input(format!("has an element of {size} bytes, at most {limit} are read")));
        }
        let mut payload = Vec::new();
        self.bytes.read_up_to(element.payload, size as usize, &mut payload)?;
        Ok(payload)
    }
}

/// The elements of a payload in memory, in order; one that is cut off ends them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Children<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Children<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, id_len) = id(self.0)?;
        let (size, size_len) = number(&self.0[id_len..])?;
        let rest = &self.0[id_len + size_len..];
        let (payload, after) = rest.split_at_checked(usize::try_from(size?).ok()?)?;
        self.0 = after;
        Some((id, payload))
    }
}

impl<'a> Children<'a> {
    /// The first child of a kind.
    pub(super) fn find_id(mut self, id: u32) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == id).map(|(_, payload)| payload)
    }

    /// The number in the first child of a kind.
    pub(super) fn unsigned(self, id: u32) -> Option<u64> {
        unsigned(self.find_id(id)?)
    }
}

/// An unsigned integer of at most eight bytes.
pub(super) fn unsigned(payload: &[u8]) -> Option<u64> {
    (payload.len() <= 8).then(|| payload.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// An element's id with its marker, of one to four bytes, and its length.
fn id(bytes: &[u8]) -> Option<(u32, usize)> {
    let length = bytes.first()?.leading_zeros() as usize + 1;
    let id = bytes.get(..length.min(5)).filter(|id| id.len() <= 4)?;
    Some((id.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)), length))
}

/// A number of variable length, and that length. `None` inside for the reserved value that means unknown.
pub(super) fn number(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    let digits = bytes.get(..length).filter(|_| length <= 8)?;
    let value = digits.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)) & ((1 << (7 * length)) - 1);
    let unknown = (1 << (7 * length)) - 1;
    Some(((value != unknown).then_some(value), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_length_that_their_first_byte_says() {
        assert_eq!(number(&[0x81]), Some((Some(1), 1)));
        assert_eq!(number(&[0x40, 0x02]), Some((Some(2), 2)));
        assert_eq!(number(&[0xFF]), Some((None, 1)));
        assert_eq!(number(&[0x01, 255, 255, 255, 255, 255, 255, 255]), Some((None, 8)));
        assert_eq!(number(&[0x40]), None);
        assert_eq!(number(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), None);
    }

    #[test]
    fn children_end_where_one_is_cut_off() {
        let all: Vec<_> = Children(&[0xE7, 0x81, 5, 0x42, 0x86, 0x82, 1, 2, 0xA3, 0x85, 1]).collect();
        assert_eq!(all, [(0xE7, &[5][..]), (0x4286, &[1, 2])]);
        assert_eq!(Children(&[0x00, 0x81, 1]).next(), None);
    }
}
