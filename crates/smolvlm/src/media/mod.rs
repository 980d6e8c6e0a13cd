//! Opens files and yields RGB frames with their times. Knows codecs and nothing about models.

mod address;
mod fetch;
pub mod image;
pub mod source;
pub mod video;

/// One decoded picture: RGB, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `[height, width, 3]`, row-major.
    pub rgb: Vec<u8>,
}

/// One decoded frame of a video and when it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Position in presentation order, from 0.
    pub index: usize,
    /// Seconds from the start of the presentation.
    pub time: f64,
    /// The picture.
    pub image: Image,
}
