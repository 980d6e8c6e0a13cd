//! Numbers on views: the [`Backend`](backend) seam and its implementations.

pub mod mapped;
