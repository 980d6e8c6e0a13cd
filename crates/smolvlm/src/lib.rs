//! The native engine for SmolVLM2: any mix of text, images and video in, text out.
//!
//! Data flows one way: messages → media → preprocess → prompt → model → generate.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod checkpoint;
pub mod compat;
mod error;
pub mod generate;
mod machine;
pub mod media;
pub mod messages;
pub mod model;
mod pipeline;
pub mod preprocess;
pub mod prompt;
mod quantize;

pub use compat::Compat;
pub use error::{Error, ErrorKind, Result};
pub use generate::{FinishReason, GenerateOptions, Sampling};
pub use machine::ProcessMemory;
pub use messages::{Content, Messages};
pub use pipeline::{
    DEFAULT_MODEL, Device, Dtype, Gpu, GpuLibrary, LoadOptions, Machine, MediaOptions, Outline, Prepared, Processor,
    Progress, ProgressHook, Reply, ReplyPiece, ReplyStream, SmolVlm, TileRun, Timings, Trace, TracedMedium, Usage,
    VideoView, gpus, processor_settings,
};
pub use quantize::{QuantizeOptions, QuantizeProgress, Quantized, quantize};
pub use smolvlm_kernels::Ceilings;
