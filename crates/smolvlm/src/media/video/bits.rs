//! The bits of a coded header, and the NAL units of a sample.

/// Bits from the highest of each byte on.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    /// Begins at bit `position`.
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.position = self.position.saturating_add(count);
    }

    /// A number of at most 32 bits.
    pub(super) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value: u32, _| Some(value << 1 | self.bit()?))
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        self.bit().map(|bit| bit == 1)
    }

    pub(super) fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit.into())
    }

    /// An unsigned Exp-Golomb number of at most 32 bits.
    pub(super) fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        (0..zeros).try_fold(1, |value: u32, _| Some(value << 1 | self.bit()?)).map(|value| value - 1)
    }
}

/// The NAL units of a sample; a cut-off one ends it.
pub(super) struct Units<'a> {
    rest: &'a [u8],
    length_size: usize,
}

impl<'a> Units<'a> {
    pub(super) fn new(sample: &'a [u8], length_size: usize) -> Self {
        Self { rest: sample, length_size }
    }
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_at_checked(self.length_size)?;
        let length = length.iter().fold(0, |value, &byte| value << 8 | usize::from(byte));
        let (unit, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(unit)
    }
}

/// A NAL unit's payload without emulation prevention: the 3 of every 0 0 3 is dropped.
pub(super) fn unescape(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len());
    let mut zeros = 0;
    for &byte in payload {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        bytes.push(byte);
    }
    bytes
}
