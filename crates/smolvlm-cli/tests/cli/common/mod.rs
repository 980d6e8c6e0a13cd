//! What the tests share: running the binary, the reference's recorded cases, and checkpoints to damage.

pub(crate) mod checkpoint;
pub(crate) mod command;
pub(crate) mod goldens;
pub(crate) mod hub;
pub(crate) mod safetensors;

pub(crate) use checkpoint::Copy;
pub(crate) use command::{Ended, smolvlm};
pub(crate) use goldens::{Case, cases, checkpoint, input};
