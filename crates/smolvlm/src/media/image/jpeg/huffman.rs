//! Huffman tables.

use super::bits::extend;
use super::broken;
use crate::Result;

/// Codes up to this length are found by one table look-up.
const LOOKUP_BITS: u32 = 9;

/// A table as the file defines it: how many codes of each length, and their symbols.
#[derive(Clone)]
pub(super) struct HuffmanSpec {
    /// `counts[i]` codes of `i + 1` bits.
    pub(super) counts: [u8; 16],
    /// Symbols in code order; 0 beyond the last.
    pub(super) symbols: [u8; 256],
}

/// What the codes of a table stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Sizes of DC differences.
    Dc,
    /// Runs and sizes of AC coefficients.
    Ac,
}

/// A table made ready for decoding (`jpeg_make_d_derived_tbl`).
pub(super) struct HuffmanTable {
    /// `length << 8 | symbol` by the next [`LOOKUP_BITS`] bits; 0 where the code is longer.
    lookup: [u16; 1 << LOOKUP_BITS],
    /// The largest code of each length, -1 where there is none.
    max_code: [i32; 17],
    /// Index of a code's symbol less the code, by length.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl HuffmanTable {
    pub(super) fn new(spec: &HuffmanSpec, class: Class) -> Result<Self> {
        let total: usize = spec.counts.iter().map(|&count| usize::from(count)).sum();
        let used = spec.symbols.get(..total).ok_or_else(|| broken("a Huffman table has more than 256 codes"))?;
        if class == Class::Dc && used.iter().any(|&symbol| symbol > 15) {
            return Err(broken("a DC Huffman table has a symbol above 15"));
        }
        let mut table =
            Self { lookup: [0; 1 << LOOKUP_BITS], max_code: [-1; 17], offset: [0; 17], symbols: spec.symbols };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(&spec.counts) {
            let count = usize::from(count);
            if count > 0 {
                table.offset[length as usize] = index as i32 - code as i32;
                table.max_code[length as usize] = code as i32 + count as i32 - 1;
            }
            // No code may consist of ones only, so the next free code must still fit its length.
            if count > 0 && code as usize + count >= 1 << length {
                return Err(broken("a Huffman table has more codes of one length than fit"));
            }
            for symbol in &used[index..index + count] {
                table.fill_lookup(code, length, *symbol);
                code += 1;
            }
            index += count;
            code <<= 1;
        }
        Ok(table)
    }

    fn fill_lookup(&mut self, code: u32, length: u32, symbol: u8) {
        if length <= LOOKUP_BITS {
            let first = (code << (LOOKUP_BITS - length)) as usize;
            let entry = (length as u16) << 8 | u16::from(symbol);
            self.lookup[first..first + (1 << (LOOKUP_BITS - length))].fill(entry);
        }
    }

    /// The code at the top of `window` (the next bits, left-aligned): its symbol and its length.
    ///
    /// Bits that are no code give symbol 0 and length 17, as in libjpeg's `jpeg_huff_decode`.
    #[inline]
    pub(super) fn find(&self, window: u64) -> (u8, u32) {
        let entry = self.lookup[(window >> (64 - LOOKUP_BITS)) as usize];
        if entry != 0 { (entry as u8, u32::from(entry >> 8)) } else { self.find_long(window) }
    }

    #[cold]
    fn find_long(&self, window: u64) -> (u8, u32) {
        for length in LOOKUP_BITS + 1..=16 {
            let code = (window >> (64 - length)) as i32;
            if code <= self.max_code[length as usize] {
                let index = (code + self.offset[length as usize]) as usize & 255;
                return (self.symbols[index], length);
            }
        }
        (0, 17)
    }
}

/// Codes of AC coefficients together with the bits of the value behind them, where both are short.
pub(super) struct CombinedTable {
    /// By the next bits: `value << 16 | run << 8 | bits`. A value of 0 ends the block; 0 is no entry.
    lookup: Box<[u32; 1 << Self::BITS]>,
}

/// What one look-up finds.
pub(super) struct Coefficient {
    /// 0 for the end of the block.
    pub(super) value: i16,
    /// Zeros before it.
    pub(super) run: usize,
    /// Bits that it takes.
    pub(super) bits: u32,
}

impl CombinedTable {
    /// Bits of a look-up. At quality 90 it finds 98 of 100 symbols, as many as 12 bits find in twice the memory.
    pub(super) const BITS: u32 = 11;

    pub(super) fn new(table: &HuffmanTable) -> Self {
        let mut lookup = Box::new([0; 1 << Self::BITS]);
        for (index, entry) in (0u64..).zip(lookup.iter_mut()) {
            let window = index << (64 - Self::BITS);
            let (symbol, length) = table.find(window);
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            let bits = length + size;
            if bits > Self::BITS || size == 0 && symbol == 0xF0 {
                continue;
            }
            let value = extend((window << length >> 32 >> (32 - size)) as i32, size);
            *entry = (value as u32) << 16 | run << 8 | bits;
        }
        Self { lookup }
    }

    /// The coefficient whose bits are at the top of `window`, unless it takes more than [`Self::BITS`].
    #[inline]
    pub(super) fn find(&self, window: u64) -> Option<Coefficient> {
        let entry = self.lookup[(window >> (64 - Self::BITS)) as usize];
        (entry != 0).then_some(Coefficient {
            value: (entry >> 16) as i16,
            run: (entry >> 8 & 15) as usize,
            bits: entry & 15,
        })
    }
}

/// The tables of ITU-T T.81 annex K.3, which libjpeg assumes where a file (Motion JPEG) defines none.
pub(super) fn standard(class: Class, slot: usize) -> Option<HuffmanSpec> {
    let (counts, used): ([u8; 16], &[u8]) = match (class, slot) {
        (Class::Dc, 0) => ([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &DC_SYMBOLS),
        (Class::Dc, 1) => ([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &DC_SYMBOLS),
        (Class::Ac, 0) => ([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D], &AC_LUMINANCE),
        (Class::Ac, 1) => ([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &AC_CHROMINANCE),
        _ => return None,
    };
    let mut symbols = [0; 256];
    symbols[..used.len()].copy_from_slice(used);
    Some(HuffmanSpec { counts, symbols })
}

const DC_SYMBOLS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

#[rustfmt::skip]
const AC_LUMINANCE: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
    0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
    0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
    0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];

#[rustfmt::skip]
const AC_CHROMINANCE: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
    0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
    0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
    0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
    0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];
