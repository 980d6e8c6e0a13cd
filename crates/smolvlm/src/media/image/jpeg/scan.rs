//! One scan: which blocks its entropy-coded data holds, in which order, with restarts between them.

use super::bits::Bits;
use super::block::{self, Band, Block};
use super::frame::Frame;
use super::header::{Header, ScanHeader};
use super::huffman::{Class, HuffmanTable};
use super::stream::Stream;
use super::upsample::Plane;
use super::{broken, idct};
use crate::Result;

/// libjpeg's `D_MAX_BLOCKS_IN_MCU`.
const MAX_BLOCKS_IN_MCU: usize = 10;

/// Where the blocks of a scan go.
pub(super) enum Target<'t> {
    /// Samples, for a frame whose only scan holds everything.
    Samples { planes: &'t mut [Plane], quantisation: &'t [[u16; 64]] },
    /// Coefficients of each component, gathered over many scans; rows of blocks padded to whole MCUs.
    Coefficients(&'t mut [Vec<Block>]),
}

/// What the blocks of a scan hold, with the Huffman table of each component of the scan where one is needed.
enum Coding {
    Sequential(Vec<(HuffmanTable, HuffmanTable)>),
    DcFirst(Vec<HuffmanTable>, u32),
    DcRefine(u32),
    AcFirst(HuffmanTable, Band),
    AcRefine(HuffmanTable, Band),
}

impl Coding {
    fn new(scan: &ScanHeader, header: &Header<'_>) -> Result<Self> {
        let dc = || scan.components.iter().map(|&(_, dc, _)| header.huffman(Class::Dc, dc));
        let ac = || scan.components.iter().map(|&(.., ac)| header.huffman(Class::Ac, ac));
        if !header.frame()?.progressive {
            return Ok(Self::Sequential(dc().zip(ac()).map(|(dc, ac)| Ok((dc?, ac?))).collect::<Result<_>>()?));
        }
        let (first, last) = scan.band;
        let legal_band = if first == 0 { last == 0 } else { first <= last && last < 64 && scan.components.len() == 1 };
        if !legal_band || scan.high != 0 && scan.low + 1 != scan.high || scan.low > 13 {
            return Err(broken("a progressive scan has illegal parameters"));
        }
        let band = Band { first, last, low: scan.low };
        Ok(match (first, scan.high) {
            (0, 0) => Self::DcFirst(dc().collect::<Result<_>>()?, scan.low),
            (0, _) => Self::DcRefine(scan.low),
            (_, high) => {
                let table = header.huffman(Class::Ac, scan.components[0].2)?;
                if high == 0 { Self::AcFirst(table, band) } else { Self::AcRefine(table, band) }
            }
        })
    }
}

/// What carries over from block to block, back to zero at each restart.
#[derive(Default)]
struct State {
    /// Last DC value of each component of the scan.
    predicted: [i32; 4],
    /// Blocks to come without coefficients in the band.
    empty: u32,
}

/// Decodes the entropy-coded data that follows `scan` into `target`.
///
/// Broken data is not an error where it is none in the reference: what is missing reads as zero.
pub(super) fn decode(
    scan: &ScanHeader,
    header: &Header<'_>,
    stream: &mut Stream<'_>,
    target: &mut Target<'_>,
) -> Result<()> {
    let frame = header.frame()?;
    let layout = Layout::new(scan, frame)?;
    let coding = Coding::new(scan, header)?;
    let mut bits = Bits::new(stream);
    let mut state = State::default();
    let total = layout.mcus.0 * layout.mcus.1;
    let interval = if header.restart_interval == 0 { total } else { header.restart_interval };
    for (number, start) in (0..total).step_by(interval).enumerate() {
        if start > 0 {
            bits.restart(((number - 1) & 7) as u8)?;
            state = State::default();
        }
        for mcu in start..total.min(start + interval) {
            if bits.exhausted() {
                break;
            }
            layout.mcu(mcu, |position, component, x, y| {
                target.block(component, frame.components[component].padded.0, (x, y), |block| {
                    decode_block(&coding, &mut bits, &mut state, position, block)
                })
            })?;
        }
        if bits.at_end_of_scan() {
            break;
        }
    }
    Ok(())
}

#[inline]
fn decode_block(
    coding: &Coding,
    bits: &mut Bits<'_, '_>,
    state: &mut State,
    position: usize,
    block: &mut Block,
) -> Result<()> {
    match coding {
        Coding::Sequential(tables) => {
            let (dc, ac) = &tables[position];
            block::sequential(bits, (dc, ac), &mut state.predicted[position], block)
        }
        Coding::DcFirst(tables, low) => {
            block::dc_first(bits, &tables[position], &mut state.predicted[position], *low, block)
        }
        Coding::DcRefine(low) => block::dc_refine(bits, *low, block),
        Coding::AcFirst(table, band) => block::ac_first(bits, table, *band, &mut state.empty, block),
        Coding::AcRefine(table, band) => block::ac_refine(bits, table, *band, &mut state.empty, block),
    }
}

impl Target<'_> {
    /// Decodes the block at `(x, y)` of `component`, whose rows are `blocks_across` long, and puts it where it belongs.
    #[inline]
    fn block(
        &mut self,
        component: usize,
        blocks_across: usize,
        (x, y): (usize, usize),
        decode: impl FnOnce(&mut Block) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Coefficients(blocks) => decode(&mut blocks[component][y * blocks_across + x]),
            Self::Samples { planes, quantisation } => {
                let mut block = [0; 64];
                decode(&mut block)?;
                let plane = &mut planes[component];
                let start = y * 8 * plane.stride + x * 8;
                idct::inverse(&block, &quantisation[component], &mut plane.samples[start..], plane.stride);
                Ok(())
            }
        }
    }
}

/// The order of blocks in a scan.
struct Layout {
    /// MCUs across and down.
    mcus: (usize, usize),
    /// For each component of the scan: its index in the frame, and its blocks across and down in an MCU.
    components: Vec<(usize, usize, usize)>,
}

impl Layout {
    fn new(scan: &ScanHeader, frame: &Frame) -> Result<Self> {
        if let &[(index, ..)] = scan.components.as_slice() {
            return Ok(Self { mcus: frame.components[index].blocks, components: vec![(index, 1, 1)] });
        }
        let factors =
            |&(index, ..): &(usize, usize, usize)| (index, frame.components[index].h, frame.components[index].v);
        let components: Vec<_> = scan.components.iter().map(factors).collect();
        if components.iter().map(|(_, h, v)| h * v).sum::<usize>() > MAX_BLOCKS_IN_MCU {
            return Err(broken("its sampling factors make an MCU of more than ten blocks"));
        }
        Ok(Self { mcus: frame.mcus, components })
    }

    /// Calls `visit` with (position in the scan, component, x, y) of each block of MCU `mcu`.
    #[inline]
    fn mcu(&self, mcu: usize, mut visit: impl FnMut(usize, usize, usize, usize) -> Result<()>) -> Result<()> {
        let (mcu_x, mcu_y) = (mcu % self.mcus.0, mcu / self.mcus.0);
        for (position, &(component, h, v)) in self.components.iter().enumerate() {
            for y in 0..v {
                for x in 0..h {
                    visit(position, component, mcu_x * h + x, mcu_y * v + y)?;
                }
            }
        }
        Ok(())
    }
}
