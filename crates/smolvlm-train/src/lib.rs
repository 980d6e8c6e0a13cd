//! Fine-tuning SmolVLM2.
#![forbid(unsafe_code)]

pub mod data;
mod error;

pub use error::{Error, ErrorKind, Result};
