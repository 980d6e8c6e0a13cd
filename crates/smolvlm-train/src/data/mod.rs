//! From files of conversations to batches: what a trainer learns from, in an order that can be stopped and gone on with.

mod batches;
mod check;
mod cursor;
mod dataset;
mod drawn;
mod example;
mod files;
mod forms;
mod loader;
mod mixture;
mod order;
mod random;
mod root;
mod samples;
mod source;
mod table;
mod value;

pub use self::batches::{BatchPlan, BatchRule};
pub use self::check::{CheckOptions, Length, Lengths, Problem, Report, check};
pub use self::cursor::{Cursor, Schedule, ScheduleOptions};
pub use self::dataset::Dataset;
pub use self::drawn::{Drawing, OpenDrawing, Sample, Showing, no_drawing};
pub use self::example::{Example, ExampleMaker, ExampleRules, IGNORED, Loss, TooLong};
pub use self::forms::{Form, read};
pub use self::loader::{Batch, Loader, LoaderOptions, Skipped};
pub use self::mixture::{Entry, Mixture, Paths, Sampling, Share};
pub use self::order::Order;
pub(crate) use self::random::generator;
pub use self::root::MediaRoot;
pub use self::samples::{DEFAULT_CACHE, HoldOut, Part, SampleRef, Samples};
pub use self::table::{Modality, Row, Table, Totals};
pub use self::value::Value;
