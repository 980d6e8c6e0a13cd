//! One scan: which blocks its entropy-coded data holds, in which order, with restarts between them.

use super::bits::Bits;
use super::block::{self, Band, Block};
use super::broken;
use super::frame::Frame;
use super::header::{Header, ScanHeader};
use super::huffman::{Class, CombinedTable, HuffmanTable};
use super::overlap::Emit;
use super::paint::{McuRow, empty_row};
use super::stream::Stream;
use crate::Result;

/// libjpeg's `D_MAX_BLOCKS_IN_MCU`.
const MAX_BLOCKS_IN_MCU: usize = 10;

/// Where the blocks of a scan go.
pub(super) enum Target<'t> {
    /// To be painted row by row, for a frame whose only scan holds everything.
    Rows(RowTarget<'t>),
    /// Coefficients of each component, gathered over many scans; rows of blocks padded to whole MCUs.
    Coefficients(&'t mut [Vec<Block>]),
}

/// Gathers the blocks of a row of MCUs, and hands them on when the next row begins.
pub(super) struct RowTarget<'t> {
    emit: &'t mut Emit<'t>,
    number: usize,
    row: McuRow,
}

impl<'t> RowTarget<'t> {
    pub(super) fn new(frame: &Frame, emit: &'t mut Emit<'t>) -> Self {
        Self { emit, number: 0, row: empty_row(frame) }
    }

    /// Hands on every row before `number`; those that had no block are empty.
    fn reach(&mut self, number: usize) -> Result<()> {
        while self.number < number {
            self.row = (self.emit)(std::mem::take(&mut self.row))?;
            self.number += 1;
        }
        Ok(())
    }
}

/// What the blocks of a scan hold, with the Huffman table of each component of the scan where one is needed.
enum Coding {
    Sequential(Vec<(HuffmanTable, HuffmanTable, CombinedTable)>),
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
            let tables = dc().zip(ac()).map(|(dc, ac)| {
                let (dc, ac) = (dc?, ac?);
                let combined = CombinedTable::new(&ac);
                Ok((dc, ac, combined))
            });
            return Ok(Self::Sequential(tables.collect::<Result<_>>()?));
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
            target.reach(layout.row(mcu, frame))?;
            layout.mcu(mcu, |position, component, x, y| {
                let block = target.block(component, frame, (x, y));
                decode_block(&coding, &mut bits, &mut state, position, block)
            })?;
        }
        if bits.at_end_of_scan() {
            break;
        }
    }
    target.reach(frame.mcus.1)
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
            let (dc, ac, combined) = &tables[position];
            block::sequential(bits, (dc, ac, combined), &mut state.predicted[position], block)
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
    /// Says that all blocks to come are in this row of MCUs or below it.
    #[inline]
    fn reach(&mut self, row: usize) -> Result<()> {
        match self {
            Self::Rows(target) => target.reach(row),
            Self::Coefficients(_) => Ok(()),
        }
    }

    /// The block at `(x, y)` of `component`; its row is the one that was reached.
    #[inline]
    fn block(&mut self, component: usize, frame: &Frame, (x, y): (usize, usize)) -> &mut Block {
        let place = &frame.components[component];
        match self {
            Self::Coefficients(blocks) => &mut blocks[component][y * place.padded.0 + x],
            Self::Rows(target) => &mut target.row[component][(y - target.number * place.v) * place.padded.0 + x],
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

    /// The frame's row of MCUs that the blocks of the scan's MCU `mcu` belong to.
    #[inline]
    fn row(&self, mcu: usize, frame: &Frame) -> usize {
        let (component, _, v) = self.components[0];
        mcu / self.mcus.0 * v / frame.components[component].v
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
