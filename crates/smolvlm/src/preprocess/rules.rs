//! Which resampling and which arithmetic each release of the reference uses: the only place that asks.

use super::normalise::Formula;
use super::resample::{Arithmetic, Filter, Resampler};
use crate::Compat;

/// How pictures of one kind are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelRules {
    pub(super) resampler: Resampler,
    pub(super) formula: Formula,
}

/// Still pictures, for a checkpoint that asks for `filter`.
pub(super) fn for_images(compat: Compat, filter: Filter) -> PixelRules {
    match compat {
        Compat::Newest | Compat::Hf523 => torchvision(filter),
        Compat::Hf517 => torchvision(Filter::Bicubic),
        Compat::Hf457 | Compat::Pil => {
            PixelRules { resampler: Resampler { filter, arithmetic: Arithmetic::Pillow }, formula: Formula::Separate }
        }
    }
}

/// Video frames, which every release gives to torchvision.
pub(super) fn for_frames(compat: Compat, filter: Filter) -> PixelRules {
    match compat {
        Compat::Newest | Compat::Hf523 | Compat::Pil => torchvision(filter),
        // Lanczos came with torchvision 0.27; 4.57 never asks for it, 5.17 substitutes bicubic below 0.27.
        Compat::Hf517 | Compat::Hf457 => torchvision(Filter::Bicubic),
    }
}

fn torchvision(filter: Filter) -> PixelRules {
    PixelRules { resampler: Resampler { filter, arithmetic: Arithmetic::Torch }, formula: Formula::Fused }
}
