//! Numbers on views: the [`Backend`] seam, a scalar [reference](mod@reference) of every operation, and the [`cpu`] and [`cuda`] backends.
//!
//! An operation is what one fused kernel does well, not a primitive of algebra. A model is written once over the
//! trait; backends are interchangeable and are held to the reference by `tests/conformance`.
//!
//! [`training`] extends the seam by what learning needs.
//!
//! This is the only crate of the workspace in which `unsafe` is allowed.

mod aligned;
pub mod backend;
mod choose;
pub mod cpu;
pub mod cuda;
pub mod jpeg;
pub mod mapped;
pub mod packed;
pub mod quantise;
pub mod reference;
pub mod resample;
pub mod training;
pub mod view;

pub use backend::{
    Activation, Appetite, Backend, BackendError, CacheShape, Ceilings, DecoderLayer, DecoderWeights, FeatureRow,
    LinearArgs, Norm, PAGE_TOKENS, PatchArgs, RopeTable, Segment, TileBatch, TokenBatch,
};
pub use choose::{Draw, DrawRules, candidates, drawn, largest};
pub use cpu::CpuBackend;
pub use cuda::CudaBackend;
pub use reference::ReferenceBackend;
pub use training::TrainBackend;
pub use view::{Elements, Format, MatrixView};
