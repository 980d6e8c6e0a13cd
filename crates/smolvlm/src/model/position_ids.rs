//! Which row of the position embedding each patch takes.

use smolvlm_kernels::Format;

use crate::compat::Compat;

/// Position ids of the patches of a full tile, row-major. The intended rule, and today's, is the identity.
///
/// `SmolVLMVisionEmbeddings.forward` of some releases sorts patches into buckets by fractional coordinates, which goes
/// wrong in two ways that [`Compat`] reproduces: 4.55.1–4.57 in f32 shifts every index down by one
/// (transformers issue 41190), and up to 5.17 in bf16 the fractions are rounded to bf16 before they are compared
/// (issue 47133).
pub(super) fn for_full_grid(side: usize, format: Format, compat: Compat) -> Vec<usize> {
    let bucket = |i: usize| match (compat, format) {
        (Compat::Hf457, Format::F32) => i.saturating_sub(1),
        (Compat::Hf457 | Compat::Hf517, Format::Bf16) => bf16_bucket(i, side),
        _ => i,
    };
    (0..side * side).map(|patch| bucket(patch / side) * side + bucket(patch % side)).collect()
}

/// The number of boundaries `k / side` at or below the coordinate `i / side`, as computed with both in bf16.
fn bf16_bucket(i: usize, side: usize) -> usize {
    let step = 1.0 / side as f64;
    let count = ((1.0 - step) / step).ceil() as usize;
    let fraction = (i as f32 * (1.0 / side as f32)).min(1.0 - 1e-6);
    let fraction = half::bf16::from_f32(fraction).to_f32();
    (1..=count).filter(|k| (step + (*k as f64 - 1.0) * step) as f32 <= fraction).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(side: usize, format: Format, compat: Compat) -> Vec<(usize, usize)> {
        let ids = for_full_grid(side, format, compat);
        (0..side).map(|i| (i, ids[i])).filter(|(i, id)| i != id).collect()
    }

    #[test]
    fn the_default_is_the_identity_in_every_format() {
        for side in [6, 27, 32] {
            for format in [Format::F32, Format::Bf16] {
                assert!(moved(side, format, Compat::Newest).is_empty());
                assert!(moved(side, format, Compat::Hf523).is_empty());
            }
        }
    }

    #[test]
    fn release_4_57_shifts_f32_ids_down_by_one() {
        let expected: Vec<_> = (1..32).map(|i| (i, i - 1)).collect();
        assert_eq!(moved(32, Format::F32, Compat::Hf457), expected);
    }

    /// The lists were printed by the library's own releases for 27, 6 and 32 patches a side.
    #[test]
    fn releases_to_5_17_put_some_patches_into_the_bucket_below_in_bf16() {
        let below = |list: &[usize]| list.iter().map(|i| (*i, i - 1)).collect::<Vec<_>>();
        for compat in [Compat::Hf457, Compat::Hf517] {
            assert_eq!(moved(27, Format::Bf16, compat), below(&[15, 17, 19, 21, 23, 25]));
            assert_eq!(moved(6, Format::Bf16, compat), below(&[5]));
            assert!(moved(32, Format::Bf16, compat).is_empty());
        }
    }
}
