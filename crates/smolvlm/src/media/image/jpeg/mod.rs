//! A JPEG decoder whose pixels are libjpeg-turbo's, bit for bit: baseline, extended sequential and progressive
//! Huffman coding of 8-bit samples.
//!
//! The reference decodes through libjpeg-turbo with its defaults, so this follows it in everything that shows in
//! the pixels: the integer inverse DCT, the triangle filter for chroma, the fixed-point colour tables, and what is
//! made of broken data. One deviation: incomplete progressive files are not smoothed between blocks.

mod bits;
mod block;
mod color;
mod frame;
mod header;
mod huffman;
mod overlap;
mod paint;
mod scan;
mod stream;
mod upsample;

use block::Block;
use color::ColorSpace;
pub(super) use color::under_black;
use frame::Frame;
use header::{Header, ScanHeader};
use paint::Painter;
use scan::{RowTarget, Target};
use stream::Stream;

use crate::machine::threads_for;
use crate::media::Image;
use crate::{Error, Result};

/// More scans than any encoder writes; each costs a pass over the picture, however small it is in the file.
const MAX_SCANS: usize = 200;

/// What the header of a JPEG file says.
pub(super) struct Info<'a> {
    /// Pixels across, as stored.
    pub(super) width: usize,
    /// Pixels down, as stored.
    pub(super) height: usize,
    /// The TIFF structure with the orientation.
    pub(super) exif: Option<&'a [u8]>,
}

/// Reads the header up to the first scan.
pub(super) fn info(data: &[u8]) -> Result<Info<'_>> {
    let mut header = Header::default();
    header.first_scan(&mut Stream::new(data))?;
    let frame = header.frame()?;
    Ok(Info { width: frame.width, height: frame.height, exif: header.exif() })
}

/// Decodes to RGB as stored, before any rotation. The caller has checked the size that [`info`] gives.
///
/// # Errors
/// Files that are truncated, malformed in their headers, or of a kind that is not supported (arithmetic coding,
/// lossless, 12 bits). Broken entropy-coded data is no error, as in the reference.
pub(super) fn decode(data: &[u8]) -> Result<Image> {
    decode_with(data, threads_for)
}

/// Decodes on as many threads as `threads` says for so many bytes of RGB.
fn decode_with(data: &[u8], threads: fn(usize) -> usize) -> Result<Image> {
    let mut stream = Stream::new(data);
    let mut header = Header::default();
    let scan = header.first_scan(&mut stream)?;
    let frame = header.frame()?.clone();
    let space = header.color_space()?;
    // Each block takes at least one bit somewhere, so buffers stay in proportion to the file.
    if stream.rest().len().saturating_mul(8) < frame.blocks() {
        let found = stream.rest().len();
        return Err(broken(format!("{found} bytes cannot hold a picture of {}x{}", frame.width, frame.height)));
    }
    if frame.progressive || scan.components.len() < frame.components.len() {
        many_scans(&mut header, &frame, space, scan, &mut stream)
    } else {
        let threads = threads(frame.width * frame.height * 3);
        one_scan(&mut header, &frame, space, &scan, &mut stream, threads)
    }
}

/// An error about a file that is not what it should be.
fn broken(what: impl std::fmt::Display) -> Error {
    Error::input(format!("broken JPEG file: {what}"))
}

/// A frame whose only scan has every component: blocks are painted as they come.
fn one_scan<'a>(
    header: &mut Header<'a>,
    frame: &Frame,
    space: ColorSpace,
    scan: &ScanHeader,
    stream: &mut Stream<'a>,
    threads: usize,
) -> Result<Image> {
    header.assume_standard_tables();
    let mut tables = vec![None; frame.components.len()];
    latch_quantisation(header, frame, scan, &mut tables)?;
    overlap::paint(frame, Painter::new(frame, space, tables), threads, |emit| {
        let mut target = Target::Rows(RowTarget::new(frame, emit));
        scan::decode(scan, header, stream, &mut target)?;
        match header.next_scan(stream)? {
            None => Ok(()),
            Some(_) => Err(broken("a scan follows the one that holds everything")),
        }
    })
}

/// A progressive frame, or one whose components come one after another: coefficients are gathered first.
fn many_scans<'a>(
    header: &mut Header<'a>,
    frame: &Frame,
    space: ColorSpace,
    first: ScanHeader,
    stream: &mut Stream<'a>,
) -> Result<Image> {
    if !frame.progressive {
        header.assume_standard_tables();
    }
    let mut coefficients: Vec<Vec<Block>> =
        frame.components.iter().map(|component| vec![[0; 64]; component.padded.0 * component.padded.1]).collect();
    let mut tables = vec![None; frame.components.len()];
    let mut next = Some(first);
    let mut scans = 0;
    while let Some(scan) = next {
        scans += 1;
        if scans > MAX_SCANS {
            return Err(broken(format!("it has more than {MAX_SCANS} scans")));
        }
        latch_quantisation(header, frame, &scan, &mut tables)?;
        scan::decode(&scan, header, stream, &mut Target::Coefficients(&mut coefficients))?;
        next = header.next_scan(stream)?;
    }
    let mut painter = Painter::new(frame, space, tables);
    for row in 0..frame.mcus.1 {
        painter.row(frame.components.iter().zip(&coefficients).map(|(component, blocks)| {
            let count = component.padded.0 * component.v;
            &blocks[row * count..][..count]
        }));
    }
    Ok(painter.finish())
}

/// Remembers the quantisation table of each component as it stands at the component's first scan.
fn latch_quantisation(
    header: &Header<'_>,
    frame: &Frame,
    scan: &ScanHeader,
    tables: &mut [Option<[u16; 64]>],
) -> Result<()> {
    for &(index, ..) in &scan.components {
        let slot = frame.components[index].quantisation;
        if tables[index].is_none() {
            let table = header.quantisation.get(slot).copied().flatten();
            tables[index] =
                Some(table.ok_or_else(|| broken(format!("quantisation table {slot} is used but not defined")))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, cut, and with one byte changed, as a second thread must not change what broken files give.
    #[test]
    fn a_second_thread_paints_the_same_picture_or_gives_the_same_error() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/image");
        let mut painted = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "jpg") {
                continue;
            }
            let whole = std::fs::read(&path).unwrap();
            for change in 0..20 {
                let mut data = whole.clone();
                let at = whole.len() * change / 20;
                match change {
                    0 => {}
                    1..6 => data.truncate(at),
                    _ => data[at] ^= 0x55,
                }
                let (one, two) = (decode_with(&data, |_| 1), decode_with(&data, |_| 2));
                painted += usize::from(one.is_ok());
                match (one, two) {
                    (Ok(one), Ok(two)) => assert!(one == two, "{path:?}, change {change}"),
                    (Err(one), Err(two)) => assert_eq!(one.to_string(), two.to_string(), "{path:?}, change {change}"),
                    (one, two) => panic!("{path:?}, change {change}: {:?} and {:?}", one.err(), two.err()),
                }
            }
        }
        assert!(painted > 100, "only {painted} files could be painted");
    }
}
