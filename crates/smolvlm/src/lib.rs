//! The native engine for SmolVLM2.
//!
//! Data flows one way: messages → media → preprocess → prompt → model → generate.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod compat;
mod error;
pub mod generate;
pub mod media;
pub mod messages;
pub mod model;
pub mod preprocess;
pub mod prompt;

pub use compat::Compat;
pub use error::{Error, ErrorKind, Result};
