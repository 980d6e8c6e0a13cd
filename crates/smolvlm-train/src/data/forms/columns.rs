//! Media beside the conversation, handed out in order.

use smolvlm::media::source::MediaSource;
use smolvlm::messages::Content;

use crate::data::root::MediaRoot;
use crate::data::value::Value;
use crate::{Error, Result};

/// Most media of one sample; far beyond any context.
const MAX_MEDIA: usize = 4096;

/// Keys of an object that may hold a medium's name, in the order in which they are looked at.
pub(super) const NAME_KEYS: [&str; 4] = ["path", "url", "image", "video"];

/// The media columns of one record.
pub(super) struct Columns {
    images: Column,
    videos: Column,
}

/// One kind of media, in order, and which have their place.
struct Column {
    name: &'static str,
    media: Vec<MediaSource>,
    taken: Vec<bool>,
    next: usize,
}

impl Columns {
    pub(super) fn read(record: &Value, root: &MediaRoot) -> Result<Self> {
        Ok(Self {
            images: Column::read(record, ["images", "image"], "image", root)?,
            videos: Column::read(record, ["videos", "video"], "video", root)?,
        })
    }

    /// Whether there are videos and no pictures. LLaVA's video sets then write `<image>` for a video.
    pub(super) fn only_videos(&self) -> bool {
        self.images.media.is_empty() && !self.videos.media.is_empty()
    }

    /// The next picture without a place, or the one of this index.
    pub(super) fn image(&mut self, index: Option<usize>) -> Result<Content> {
        self.images.take(index).map(Content::Image)
    }

    /// The next video without a place, or the one of this index.
    pub(super) fn video(&mut self, index: Option<usize>) -> Result<Content> {
        self.videos.take(index).map(Content::Video)
    }

    /// How many have a place, and those that have none.
    pub(super) fn into_rest(self) -> Result<(usize, Vec<Content>)> {
        let placed = self.images.placed() + self.videos.placed();
        let images = self.images.rest().map(Content::Image);
        let rest: Vec<_> = images.chain(self.videos.rest().map(Content::Video)).collect();
        Ok((placed, rest))
    }
}

impl Column {
    /// Both spellings of a column, one after the other; published sets have one of them.
    fn read(record: &Value, keys: [&'static str; 2], name: &'static str, root: &MediaRoot) -> Result<Self> {
        let mut media = Vec::new();
        for key in keys {
            match record.get(key) {
                None => {}
                Some(Value::List(list)) if list.len() > MAX_MEDIA => {
                    return Err(Error::input(format!("`{key}`: {} media, at most {MAX_MEDIA} are read", list.len())));
                }
                Some(Value::List(list)) => {
                    for (index, value) in list.iter().enumerate() {
                        media.push(source(value, root).map_err(|error| error.at(format!("{key}[{index}]")))?);
                    }
                }
                Some(value) => media.push(source(value, root).map_err(|error| error.at(key))?),
            }
        }
        let taken = vec![false; media.len()];
        Ok(Self { name, media, taken, next: 0 })
    }

    fn take(&mut self, index: Option<usize>) -> Result<MediaSource> {
        let index = index.unwrap_or(self.next);
        let (name, count) = (self.name, self.media.len());
        let source = self.media.get(index).ok_or_else(|| {
            Error::input(format!("{name} {} has a place in the text, and {count} are given", index + 1))
        })?;
        self.taken[index] = true;
        self.next = index + 1;
        Ok(source.clone())
    }

    fn placed(&self) -> usize {
        self.taken.iter().filter(|taken| **taken).count()
    }

    fn rest(self) -> impl Iterator<Item = MediaSource> {
        self.media.into_iter().zip(self.taken).filter(|(_, taken)| !taken).map(|(source, _)| source)
    }
}

/// One medium: a name, or an object with the file itself or its name.
pub(super) fn source(value: &Value, root: &MediaRoot) -> Result<MediaSource> {
    match value {
        Value::Text(name) => root.resolve(name),
        Value::Bytes(data) => Ok(MediaSource::Bytes { name: "embedded file".to_owned(), data: data.clone() }),
        Value::Object(_) => {
            let name = NAME_KEYS.into_iter().find_map(|key| value.get(key)).and_then(Value::text);
            match (value.get("bytes"), name) {
                (Some(Value::Bytes(data)), name) => {
                    let name = name.map_or_else(|| "embedded file".to_owned(), |name| format!("embedded file {name}"));
                    Ok(MediaSource::Bytes { name, data: data.clone() })
                }
                (Some(other), _) => Err(Error::input(format!("`bytes`: expected bytes, found {}", other.kind()))),
                (None, Some(name)) => root.resolve(name),
                (None, None) => Err(Error::input("expected `bytes` or `path`, found neither")),
            }
        }
        other => Err(Error::input(format!("expected a file's name, found {}", other.kind()))),
    }
}
