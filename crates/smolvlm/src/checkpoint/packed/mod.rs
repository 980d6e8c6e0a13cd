//! Checkpoints whose weights lie as the kernels read them, so that they are used where they are mapped.
//!
//! The weight files have the published names, so that folders, the hub and its cache treat them like any others. What
//! they hold is told by their metadata: `format` is `smolvlm-packed`, and `smolvlm_packed` is JSON:
//!
//! ```json
//! { "version": 1, "dtype": "q8", "tied_head": false,
//!   "layout": { "outputs_per_panel": 32, "bytes_per_step": 4, "…": 0 },
//!   "matrices": { "NAME": { "arrangement": "stacked", "format": "q8", "rows": [576, 192, 192], "inputs": 576 } } }
//! ```
//!
//! `matrices` are those of the same file, each a tensor of bytes (`U8`) in the layout that
//! [`smolvlm_kernels::packed`] describes, beginning at a multiple of 64 bytes of the file. All other tensors are f32.

pub(super) mod check;
mod metadata;
pub(crate) mod plan;

pub(crate) use metadata::Description;
pub(super) use metadata::Packing;
