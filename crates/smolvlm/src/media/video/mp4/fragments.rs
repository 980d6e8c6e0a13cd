//! Movie fragments (`moof`): samples that are listed beside their data instead of in the movie's index.

use super::super::bytes::{ByteSource, Fields};
use super::boxes::{Boxes, FileBox};
use super::track::Track;
use super::{MAX_SAMPLES, Sample, descend, read_index};
use crate::{Error, Result};

/// Tracks of equal length that the bound on the number of samples allows for.
const TRACKS: usize = 4;

/// What holds for the samples of a run that does not say otherwise (`trex`, `tfhd`).
#[derive(Debug, Clone, Copy, Default)]
struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

/// Appends the samples of all fragments to their tracks.
pub(super) fn append(tracks: &mut [Track], bytes: &ByteSource, moov: &[u8], moofs: &[FileBox]) -> Result<()> {
    let movie_defaults = |track: u32| movie_defaults(moov, track).unwrap_or_default();
    for track in tracks.iter_mut() {
        track.fragmented = track.samples.is_empty() && !moofs.is_empty();
    }
    // Each sample owns at least a byte of the file; what is listed beyond that is made up.
    let mut budget = MAX_SAMPLES.min(usize::try_from(bytes.len()).unwrap_or(usize::MAX)) * TRACKS;
    for moof in moofs {
        let payload = read_index(bytes, moof)?;
        // Where data begins that no box places: at the fragment, then after the previous track's data.
        let mut implicit = moof.start;
        for (_, traf) in Boxes(&payload).filter(|(kind, _)| kind == b"traf") {
            let Some(header) = FragmentHeader::read(traf, moof.start, implicit, movie_defaults) else { continue };
            let track = tracks.iter_mut().find(|track| track.id == header.track);
            let mut unused = Vec::new();
            let samples = track.map_or(&mut unused, |track| &mut track.samples);
            implicit = append_runs(traf, &header, samples, bytes.len(), &mut budget)?;
        }
    }
    Ok(())
}

/// `mvex/trex` of one track.
fn movie_defaults(moov: &[u8], track: u32) -> Option<Defaults> {
    Boxes(descend(moov, &[b"mvex"])?).filter(|(kind, _)| kind == b"trex").find_map(|(_, trex)| {
        let mut fields = Fields(trex);
        fields.skip(4)?;
        (fields.u32()? == track).then_some(())?;
        fields.skip(4)?;
        Some(Defaults { duration: fields.u32()?, size: fields.u32()?, flags: fields.u32()? })
    })
}

/// `tfhd` and `tfdt`.
struct FragmentHeader {
    track: u32,
    base: u64,
    defaults: Defaults,
    /// Decode time of the first sample; without it, it follows the previous fragment.
    dts: Option<i64>,
}

impl FragmentHeader {
    fn read(traf: &[u8], moof: u64, implicit: u64, movie_defaults: impl Fn(u32) -> Defaults) -> Option<Self> {
        let mut fields = Fields(descend(traf, &[b"tfhd"])?);
        let flags = fields.u32()?;
        let track = fields.u32()?;
        let mut defaults = movie_defaults(track);
        let base = match flags {
            flags if flags & 0x1 != 0 => fields.u64()?,
            flags if flags & 0x2_0000 != 0 => moof,
            _ => implicit,
        };
        fields.skip(if flags & 0x2 != 0 { 4 } else { 0 })?;
        let mut optional = |bit: u32, value: &mut u32| -> Option<()> {
            if flags & bit != 0 {
                *value = fields.u32()?;
            }
            Some(())
        };
        optional(0x8, &mut defaults.duration)?;
        optional(0x10, &mut defaults.size)?;
        optional(0x20, &mut defaults.flags)?;
        Some(Self { track, base, defaults, dts: read_decode_time(traf) })
    }
}

fn read_decode_time(traf: &[u8]) -> Option<i64> {
    let mut fields = Fields(descend(traf, &[b"tfdt"])?);
    let version = fields.u8()?;
    fields.skip(3)?;
    i64::try_from(fields.u32_or_u64(version)?).ok()
}

/// Appends the samples of each `trun`; returns where their data ends.
fn append_runs(
    traf: &[u8],
    header: &FragmentHeader,
    samples: &mut Vec<Sample>,
    file_len: u64,
    budget: &mut usize,
) -> Result<u64> {
    let mut offset = header.base;
    let follows = samples.last().map_or(0, |last| last.dts.saturating_add(i64::from(last.duration)));
    let mut dts = header.dts.unwrap_or(follows);
    for (_, trun) in Boxes(traf).filter(|(kind, _)| kind == b"trun") {
        let mut run = Fields(trun);
        let Some((flags, count, first_flags)) = read_run_header(&mut run, header.base, &mut offset) else { continue };
        for index in 0..count {
            let mut defaults = header.defaults;
            if index == 0 {
                defaults.flags = first_flags.unwrap_or(defaults.flags);
            }
            let Some(mut sample) = read_sample(&mut run, flags, defaults) else { break };
            (sample.offset, sample.dts) = (offset, dts);
            offset = offset.saturating_add(u64::from(sample.size));
            dts = dts.saturating_add(i64::from(sample.duration));
            if offset > file_len {
                return Ok(offset);
            }
            *budget = budget.checked_sub(1).ok_or_else(|| {
                Error::input(format!("its fragments list more samples than {file_len} bytes can hold"))
            })?;
            samples.push(sample);
        }
    }
    Ok(offset)
}

/// Flags, sample count and the first sample's flags; moves `offset` where the run places its data.
fn read_run_header(run: &mut Fields<'_>, base: u64, offset: &mut u64) -> Option<(u32, u32, Option<u32>)> {
    let flags = run.u32()?;
    let count = run.u32()?;
    if flags & 0x1 != 0 {
        *offset = base.saturating_add_signed(i64::from(run.i32()?));
    }
    let first_flags = if flags & 0x4 != 0 { Some(run.u32()?) } else { None };
    Some((flags, count, first_flags))
}

fn read_sample(run: &mut Fields<'_>, present: u32, defaults: Defaults) -> Option<Sample> {
    let mut field = |bit: u32, default: u32| if present & bit != 0 { run.u32() } else { Some(default) };
    let duration = field(0x100, defaults.duration)?;
    let size = field(0x200, defaults.size)?;
    let flags = field(0x400, defaults.flags)?;
    let cts = field(0x800, 0)? as i32;
    // Neither "not a sync sample" nor "depends on others".
    let sync = flags & 0x0101_0000 == 0;
    Some(Sample { offset: 0, size, dts: 0, cts, duration, sync })
}
