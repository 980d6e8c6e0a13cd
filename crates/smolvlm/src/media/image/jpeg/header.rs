//! Marker segments: everything in the file but the entropy-coded data.

use super::broken;
use super::color::ColorSpace;
use super::frame::Frame;
use super::huffman::{Class, HuffmanSpec, HuffmanTable, standard};
use super::stream::{EOI, RST0, RST7, SOI, SOS, Stream};
use crate::Result;

/// What the markers have said up to here.
#[derive(Default)]
pub(super) struct Header<'a> {
    frame: Option<Frame>,
    /// Quantisation tables in natural order.
    pub(super) quantisation: [Option<[u16; 64]>; 4],
    dc: [Option<HuffmanSpec>; 4],
    ac: [Option<HuffmanSpec>; 4],
    /// MCUs between restart markers; 0 for none.
    pub(super) restart_interval: usize,
    jfif: bool,
    adobe: Option<u8>,
    app1: Option<&'a [u8]>,
}

/// The header of one scan.
pub(super) struct ScanHeader {
    /// For each component of the scan: its index in the frame, its DC and its AC table.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// First and last zigzag index.
    pub(super) band: (usize, usize),
    /// Bit position of the previous scan of the band (0: none).
    pub(super) high: u32,
    /// Bit position of this scan.
    pub(super) low: u32,
}

impl<'a> Header<'a> {
    /// Reads the start-of-image marker and then up to the first scan.
    pub(super) fn first_scan(&mut self, stream: &mut Stream<'a>) -> Result<ScanHeader> {
        if (stream.byte()?, stream.byte()?) != (0xFF, SOI) {
            return Err(broken("it does not begin with a start-of-image marker"));
        }
        self.next_scan(stream)?.ok_or_else(|| broken("it ends before any picture data"))
    }

    /// Reads marker segments up to the next scan's header, or `None` at the end of the image.
    pub(super) fn next_scan(&mut self, stream: &mut Stream<'a>) -> Result<Option<ScanHeader>> {
        loop {
            match stream.next_marker()? {
                EOI => return Ok(None),
                SOS => return self.scan(stream.segment()?).map(Some),
                0xC4 => self.huffman_tables(stream.segment()?)?,
                marker @ 0xC0..=0xCF if marker != 0xCC => self.frame_header(marker, stream.segment()?)?,
                0xDB => self.quantisation_tables(stream.segment()?)?,
                0xDD => self.restarts(stream.segment()?)?,
                0xE0 => self.jfif |= stream.segment().map(|data| data.len() >= 14 && data.starts_with(b"JFIF\0"))?,
                0xE1 => {
                    let data = stream.segment()?;
                    self.app1.get_or_insert(data);
                }
                0xEE => self.adobe_header(stream.segment()?),
                // Arithmetic conditioning, DNL, application data, comments: nothing in them is needed.
                0xCC | 0xDC | 0xE2..=0xEF | 0xFE => drop(stream.segment()?),
                RST0..=RST7 | 0x01 => {}
                marker => return Err(broken(format!("it has an unexpected marker 0x{marker:02X}"))),
            }
        }
    }

    /// The frame header, which a scan's header is always preceded by.
    pub(super) fn frame(&self) -> Result<&Frame> {
        self.frame.as_ref().ok_or_else(|| broken("a scan comes before the frame header"))
    }

    pub(super) fn color_space(&self) -> Result<ColorSpace> {
        Ok(self.frame()?.color_space(self.jfif, self.adobe))
    }

    /// The TIFF structure in the first APP1 segment, where the reference looks for the orientation.
    pub(super) fn exif(&self) -> Option<&'a [u8]> {
        self.app1?.get(6..)
    }

    /// Huffman table `slot` of `class`, ready for decoding.
    pub(super) fn huffman(&self, class: Class, slot: usize) -> Result<HuffmanTable> {
        let specs = if class == Class::Dc { &self.dc } else { &self.ac };
        match specs.get(slot).and_then(Option::as_ref) {
            Some(spec) => HuffmanTable::new(spec, class),
            None => Err(broken(format!("Huffman table {slot} is used but not defined"))),
        }
    }

    /// Fills the Huffman tables that are still missing at the first scan with the standard ones
    /// (libjpeg's `std_huff_tables`, for sequential frames of Motion JPEG).
    pub(super) fn assume_standard_tables(&mut self) {
        for slot in 0..2 {
            for (class, specs) in [(Class::Dc, &mut self.dc), (Class::Ac, &mut self.ac)] {
                if specs[slot].is_none() {
                    specs[slot] = standard(class, slot);
                }
            }
        }
    }

    fn frame_header(&mut self, marker: u8, payload: &[u8]) -> Result<()> {
        if self.frame.is_some() {
            return Err(broken("it has two frame headers"));
        }
        self.frame = Some(Frame::parse(marker, payload)?);
        Ok(())
    }

    fn scan(&self, payload: &[u8]) -> Result<ScanHeader> {
        let frame = self.frame()?;
        let bad = || broken("a scan header is malformed");
        let (&count, rest) = payload.split_first().ok_or_else(bad)?;
        let count = usize::from(count);
        if !(1..=4).contains(&count) || rest.len() != 2 * count + 3 {
            return Err(bad());
        }
        let (selectors, parameters) = rest.split_at(2 * count);
        let mut components: Vec<(usize, usize, usize)> = Vec::with_capacity(count);
        for (position, selector) in selectors.chunks_exact(2).enumerate() {
            // As in libjpeg's `get_sos`, components come in the order of the frame.
            let candidates = frame.components.iter().enumerate().skip(position);
            let index = candidates.map(|(i, c)| (i, c.id)).find(|&(_, id)| id == selector[0]).ok_or_else(bad)?.0;
            if components.iter().any(|&(earlier, ..)| earlier == index) {
                return Err(bad());
            }
            components.push((index, usize::from(selector[1] >> 4), usize::from(selector[1] & 15)));
        }
        let band = (usize::from(parameters[0]), usize::from(parameters[1]));
        let (high, low) = (u32::from(parameters[2] >> 4), u32::from(parameters[2] & 15));
        Ok(ScanHeader { components, band, high, low })
    }

    fn huffman_tables(&mut self, mut payload: &[u8]) -> Result<()> {
        let bad = || broken("a Huffman table is malformed");
        while payload.len() > 16 {
            let (head, rest) = payload.split_at(17);
            let counts: [u8; 16] = head[1..].try_into().map_err(|_| bad())?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let mut symbols = [0; 256];
            let used = rest.get(..total).ok_or_else(bad)?;
            symbols.get_mut(..total).ok_or_else(bad)?.copy_from_slice(used);
            let slots = if head[0] & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            let slot = slots.get_mut(usize::from(head[0] & !0x10)).ok_or_else(bad)?;
            *slot = Some(HuffmanSpec { counts, symbols });
            payload = &rest[total..];
        }
        if payload.is_empty() { Ok(()) } else { Err(bad()) }
    }

    fn quantisation_tables(&mut self, mut payload: &[u8]) -> Result<()> {
        let bad = || broken("a quantisation table is malformed");
        while let Some((&head, rest)) = payload.split_first() {
            let slot = self.quantisation.get_mut(usize::from(head & 15)).ok_or_else(bad)?;
            let bytes = if head >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * bytes).ok_or_else(bad)?;
            let mut table = [0; 64];
            for (value, &position) in values.chunks_exact(bytes).zip(&super::block::NATURAL) {
                table[usize::from(position)] = value.iter().fold(0, |sum, &byte| sum << 8 | u16::from(byte));
            }
            *slot = Some(table);
            payload = &rest[64 * bytes..];
        }
        Ok(())
    }

    fn restarts(&mut self, payload: &[u8]) -> Result<()> {
        let interval = payload.try_into().map_err(|_| broken("the restart interval is malformed"))?;
        self.restart_interval = usize::from(u16::from_be_bytes(interval));
        Ok(())
    }

    fn adobe_header(&mut self, payload: &[u8]) {
        if payload.len() >= 12 && payload.starts_with(b"Adobe") {
            self.adobe = Some(payload[11]);
        }
    }
}
