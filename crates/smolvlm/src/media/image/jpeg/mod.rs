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
mod idct;
mod scan;
mod stream;
mod upsample;

use block::Block;
use color::ColorSpace;
pub(super) use color::under_black;
use frame::{BLOCK, Frame};
use header::{Header, ScanHeader};
use scan::Target;
use stream::Stream;
use upsample::{Plane, Upsampler};

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
    let planes = if frame.progressive || scan.components.len() < frame.components.len() {
        many_scans(&mut header, &frame, scan, &mut stream)?
    } else {
        one_scan(&mut header, &frame, &scan, &mut stream)?
    };
    Ok(to_image(&frame, space, &planes))
}

/// An error about a file that is not what it should be.
fn broken(what: impl std::fmt::Display) -> Error {
    Error::input(format!("broken JPEG file: {what}"))
}

/// A frame whose only scan has every component: blocks become samples as they come.
fn one_scan<'a>(
    header: &mut Header<'a>,
    frame: &Frame,
    scan: &ScanHeader,
    stream: &mut Stream<'a>,
) -> Result<Vec<Plane>> {
    header.assume_standard_tables();
    let mut planes = grey_planes(frame);
    let mut tables = vec![None; frame.components.len()];
    latch_quantisation(header, frame, scan, &mut tables)?;
    let quantisation: Vec<[u16; 64]> = tables.into_iter().flatten().collect();
    scan::decode(scan, header, stream, &mut Target::Samples { planes: &mut planes, quantisation: &quantisation })?;
    match header.next_scan(stream)? {
        None => Ok(planes),
        Some(_) => Err(broken("a scan follows the one that holds everything")),
    }
}

/// A progressive frame, or one whose components come one after another: coefficients are gathered first.
fn many_scans<'a>(
    header: &mut Header<'a>,
    frame: &Frame,
    first: ScanHeader,
    stream: &mut Stream<'a>,
) -> Result<Vec<Plane>> {
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
    let mut planes = grey_planes(frame);
    for (index, component) in frame.components.iter().enumerate() {
        // A component without any scan stays grey.
        let Some(table) = &tables[index] else { continue };
        let plane = &mut planes[index];
        for (position, block) in coefficients[index].iter().enumerate() {
            let (x, y) = (position % component.padded.0, position / component.padded.0);
            let start = y * BLOCK * plane.stride + x * BLOCK;
            idct::inverse(block, table, &mut plane.samples[start..], plane.stride);
        }
    }
    Ok(planes)
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

/// Planes of what blocks without any coefficient decode to.
fn grey_planes(frame: &Frame) -> Vec<Plane> {
    let plane = |component: &frame::Component| {
        let stride = component.padded.0 * BLOCK;
        Plane { samples: vec![128; stride * component.padded.1 * BLOCK], stride }
    };
    frame.components.iter().map(plane).collect()
}

fn to_image(frame: &Frame, space: ColorSpace, planes: &[Plane]) -> Image {
    let mut upsamplers: Vec<Upsampler<'_>> =
        frame.components.iter().zip(planes).map(|(component, plane)| Upsampler::new(frame, component, plane)).collect();
    let mut rgb = vec![0; frame.width * frame.height * 3];
    for (y, output) in rgb.chunks_exact_mut(frame.width * 3).enumerate() {
        let rows: Vec<&[u8]> = upsamplers.iter_mut().map(|upsampler| upsampler.row(y)).collect();
        color::to_rgb(space, &rows, output);
    }
    Image { width: frame.width, height: frame.height, rgb }
}
