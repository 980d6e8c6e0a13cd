//! The bits of an entropy-coded segment.

use super::block::{Block, natural};
use super::huffman::{CombinedTable, HuffmanTable};
use super::stream::{self, Stream};
use crate::Result;

/// Reads bits, most significant first, up to the next marker; beyond it all bits are zero, as in libjpeg.
pub(super) struct Bits<'s, 'a> {
    stream: &'s mut Stream<'a>,
    /// The next bits, left-aligned. May hold more than `count` right ones, never wrong ones.
    window: u64,
    /// How many bits of the window are counted as read from the stream.
    count: u32,
    /// More bits were asked for than stand before the marker.
    exhausted: bool,
}

impl<'s, 'a> Bits<'s, 'a> {
    pub(super) fn new(stream: &'s mut Stream<'a>) -> Self {
        Self { stream, window: 0, count: 0, exhausted: false }
    }

    /// Whether the data of this segment ended early. What follows it in the scan stays as it was.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the segment ended at a marker that no restart gets past: the rest of the scan is empty.
    pub(super) fn at_end_of_scan(&self) -> bool {
        self.exhausted && self.stream.pending.is_some_and(stream::ends_scan)
    }

    /// Drops what is left of the segment and moves past restart marker `expected` (0 to 7).
    pub(super) fn restart(&mut self, expected: u8) -> Result<()> {
        (self.window, self.count) = (0, 0);
        self.stream.restart(expected)?;
        if self.stream.pending.is_none() {
            self.exhausted = false;
        }
        Ok(())
    }

    /// Makes at least 48 bits available unless a marker is nearer.
    #[inline]
    pub(super) fn refill(&mut self) -> Result<()> {
        if self.count >= 48 {
            return Ok(());
        }
        match self.stream.rest().first_chunk::<8>() {
            Some(&chunk) if self.stream.pending.is_none() && !has_ff(u64::from_be_bytes(chunk)) => {
                self.window |= u64::from_be_bytes(chunk) >> self.count;
                self.stream.advance(((63 - self.count) >> 3) as usize);
                self.count |= 56;
                Ok(())
            }
            _ => self.refill_bytewise(),
        }
    }

    fn refill_bytewise(&mut self) -> Result<()> {
        // Bits beyond `count` that the fast path left are about to be read again.
        self.window &= !(u64::MAX >> self.count);
        while self.count <= 56 && self.stream.pending.is_none() {
            let byte = self.stream.byte()?;
            if byte == 0xFF {
                let code = self.stream.after_ff()?;
                if code != 0 {
                    self.stream.pending = Some(code);
                    break;
                }
            }
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        Ok(())
    }

    /// Drops `bits` bits, at most 17 and fewer than the last refill made available.
    #[inline]
    fn consume(&mut self, bits: u32) {
        if bits > self.count {
            (self.window, self.count, self.exhausted) = (0, 0, true);
        } else {
            self.window <<= bits;
            self.count -= bits;
        }
    }

    /// Decodes coefficients from zigzag index `k` on while each is found by one look-up, and returns the index after
    /// them: 64 at the end of the block. Never reads past the bits that are there.
    #[inline]
    pub(super) fn coefficients(&mut self, table: &CombinedTable, mut k: usize, block: &mut Block) -> usize {
        let (mut window, mut count) = (self.window, self.count);
        while k < 64 {
            if count < CombinedTable::BITS {
                match self.stream.rest().first_chunk::<8>().map(|chunk| u64::from_be_bytes(*chunk)) {
                    Some(word) if self.stream.pending.is_none() && !has_ff(word) => {
                        window |= word >> count;
                        self.stream.advance(((63 - count) >> 3) as usize);
                        count |= 56;
                    }
                    _ => break,
                }
            }
            let Some(found) = table.find(window) else { break };
            window <<= found.bits;
            count -= found.bits;
            if found.value == 0 {
                k = 64;
                break;
            }
            k += found.run;
            block[natural(k)] = found.value;
            k += 1;
        }
        (self.window, self.count) = (window, count);
        k
    }

    /// The next Huffman symbol, or 0 for bits that are no code. A refill serves one symbol and one value.
    #[inline]
    pub(super) fn symbol(&mut self, table: &HuffmanTable) -> u8 {
        let (symbol, length) = table.find(self.window);
        self.consume(length);
        symbol
    }

    /// The next `bits` bits (0 to 16) as a number.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> i32 {
        let value = (self.window >> 32 >> (32 - bits)) as i32;
        self.consume(bits);
        value
    }

    /// One bit, refilling as needed.
    #[inline]
    pub(super) fn bit(&mut self) -> Result<bool> {
        if self.count == 0 {
            self.refill()?;
        }
        Ok(self.take(1) == 1)
    }

    /// A signed value of `size` bits (0 to 15): T.81's RECEIVE and EXTEND.
    #[inline]
    pub(super) fn signed(&mut self, size: u32) -> i32 {
        extend(self.take(size), size)
    }
}

/// T.81's EXTEND: the upper half of the numbers of `size` bits are positive, the lower half negative.
#[inline]
pub(super) fn extend(value: i32, size: u32) -> i32 {
    let negative = i32::from(value < 1 << size >> 1);
    value - negative * ((1 << size) - 1)
}

/// Whether one of the eight bytes is 0xFF.
#[inline]
fn has_ff(word: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    ((!word).wrapping_sub(LOW) & word & HIGH) != 0
}
