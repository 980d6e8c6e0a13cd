//! From files of conversations to batches: what a trainer learns from, in an order that can be stopped and gone on with.

mod forms;
mod root;
mod source;
mod value;

pub use self::forms::{Form, read};
pub use self::root::MediaRoot;
pub use self::value::Value;
