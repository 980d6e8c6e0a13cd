//! What the headers of a sample's NAL units tell without decoding it.

use super::super::bits::{Bits, Units};
use super::super::embedded::Access;

const SLICE: u8 = 1;
const SLICE_IDR: u8 = 5;
const SEI: u8 = 6;
/// `payloadType` of the recovery point message (D.1.8).
const RECOVERY_POINT: usize = 6;

/// What decoding may do at, or without, this sample.
pub(super) fn access(sample: &[u8], length_size: usize) -> Access {
    let mut kinds = Kinds::default();
    Units::new(sample, length_size).for_each(|unit| kinds.note(unit));
    kinds.access()
}

#[derive(Default)]
struct Kinds {
    idr: bool,
    recovers: bool,
    referenced: bool,
}

impl Kinds {
    fn note(&mut self, unit: &[u8]) {
        let Some((&header, payload)) = unit.split_first() else { return };
        match header & 0x1F {
            SLICE_IDR => self.idr = true,
            SLICE..SLICE_IDR => self.referenced |= header & 0x60 != 0,
            SEI => self.recovers |= is_recovery_point(payload),
            // Parameter sets must not be skipped.
            7 | 8 => self.referenced = true,
            _ => {}
        }
    }

    fn access(&self) -> Access {
        match self {
            Self { idr: true, .. } => Access::Independent,
            Self { recovers: true, .. } => Access::Recovery,
            Self { referenced: true, .. } => Access::Dependent,
            _ => Access::Disposable,
        }
    }
}

/// Whether an SEI holds a recovery point with `recovery_frame_cnt` 0: all is right from this picture on, in output order.
fn is_recovery_point(mut payload: &[u8]) -> bool {
    while let Some((kind, rest)) = extended(payload)
        && let Some((size, rest)) = extended(rest)
    {
        if kind == RECOVERY_POINT {
            // Exp-Golomb 0 is the single bit 1. Emulation prevention cannot precede it within the message.
            return rest.first().is_some_and(|byte| byte & 0x80 != 0);
        }
        payload = rest.get(size..).unwrap_or_default();
    }
    false
}

/// A number coded as bytes of 255 and a last one below.
fn extended(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|&&byte| byte == 255).count();
    let (&last, rest) = bytes.get(full..)?.split_first()?;
    Some((full * 255 + usize::from(last), rest))
}

/// Whether a unit is a sequence parameter set.
pub(super) fn is_sps(unit: &[u8]) -> bool {
    unit.first().is_some_and(|header| header & 0x1F == 7)
}

/// Whether a sequence parameter set (without its header and emulation prevention) orders pictures in the way that the
/// faster decoder only approximates, `pic_order_cnt_type` 1, or has scaling lists before that field, which nobody needs
/// to read here.
pub(super) fn has_unusual_order(rbsp: &[u8]) -> bool {
    order_count_type(rbsp).is_none_or(|kind| kind == 1)
}

/// `pic_order_cnt_type` (7.3.2.1.1).
fn order_count_type(rbsp: &[u8]) -> Option<u32> {
    let profile = *rbsp.first()?;
    let mut bits = Bits::at(rbsp, 24);
    bits.golomb()?;
    if matches!(profile, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244) {
        let chroma_format = bits.golomb()?;
        if chroma_format == 3 {
            bits.bit()?;
        }
        bits.golomb()?;
        bits.golomb()?;
        bits.bit()?;
        if bits.bit()? == 1 {
            return None;
        }
    }
    bits.golomb()?;
    bits.golomb()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect()
    }

    #[test]
    fn headers_tell_where_decoding_can_start() {
        let access = |units: &[&[u8]]| super::access(&sample(units), 4);
        assert_eq!(access(&[&[0x67, 1], &[0x65, 1]]), Access::Independent);
        assert_eq!(access(&[&[0x06, 6, 1, 0xC4, 0x80], &[0x41, 1]]), Access::Recovery);
        assert_eq!(access(&[&[0x06, 6, 1, 0x24, 0x80], &[0x41, 1]]), Access::Dependent);
        assert_eq!(access(&[&[0x41, 1]]), Access::Dependent);
        assert_eq!(access(&[&[0x01, 1]]), Access::Disposable);
    }

    #[test]
    fn the_order_of_pictures_is_read_from_parameter_sets() {
        // Baseline: profile 66, id 0, log2_max_frame_num 0, then the type as `1`, `010`, `011`.
        for (bits, kind) in [(0b1110_0000, 0), (0b1101_0000, 1), (0b1101_1000, 2)] {
            assert_eq!(order_count_type(&[66, 0, 30, bits]), Some(kind));
        }
        // High: chroma 1 (`010`), two depths (`1`, `1`), two flags, then as above.
        assert_eq!(order_count_type(&[100, 0, 30, 0b1010_1100, 0b1100_0000]), Some(0));
        assert_eq!(order_count_type(&[100, 0, 30, 0b1010_1101, 0b1100_0000]), None);
        assert!(has_unusual_order(&[66, 0]));
    }

    #[test]
    fn a_recovery_point_is_found_behind_other_messages() {
        assert!(is_recovery_point(&[5, 2, 9, 9, 6, 1, 0x80]));
        assert!(!is_recovery_point(&[5, 200, 9, 9, 6, 1, 0x80]));
        assert!(!is_recovery_point(&[255, 255]));
    }
}
