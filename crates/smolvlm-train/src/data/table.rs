//! What a mixture holds, by kind of media and by entry.

use std::fmt;

use serde::Serialize;

use super::example::Size;

/// Most characters of a name in a table.
const MAX_NAME: usize = 40;

/// What a sample shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Words alone.
    Text,
    /// One picture.
    Image,
    /// Several pictures.
    MultiImage,
    /// At least one video.
    Video,
}

impl Modality {
    /// Every kind, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Text, Self::Image, Self::MultiImage, Self::Video];

    /// The kind of a sample with so many pictures and videos.
    pub fn of(images: usize, videos: usize) -> Self {
        match (images, videos) {
            (0, 0) => Self::Text,
            (1, 0) => Self::Image,
            (_, 0) => Self::MultiImage,
            _ => Self::Video,
        }
    }

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::MultiImage => "multi-image",
            Self::Video => "video",
        }
    }
}

/// Sums over samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// Samples that can be used.
    pub samples: u64,
    /// Pictures.
    pub images: u64,
    /// Videos.
    pub videos: u64,
    /// Frames of videos that a model sees.
    pub frames: u64,
    /// Tiles of pictures, and frames of videos.
    pub tiles: u64,
    /// Tokens.
    pub tokens: u64,
    /// Tokens that count for the loss.
    pub counted_tokens: u64,
}

impl Totals {
    /// Adds one sample.
    pub(super) fn add(&mut self, size: &Size) {
        self.samples += 1;
        self.images += size.images as u64;
        self.videos += size.videos as u64;
        self.frames += size.frames as u64;
        self.tiles += size.tiles as u64;
        self.tokens += size.tokens as u64;
        self.counted_tokens += size.counted as u64;
    }

    /// Adds other sums.
    pub(super) fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.images += other.images;
        self.videos += other.videos;
        self.frames += other.frames;
        self.tiles += other.tiles;
        self.tokens += other.tokens;
        self.counted_tokens += other.counted_tokens;
    }
}

/// A named row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// An entry of the mixture, or a kind of media.
    pub name: String,
    /// Its sums.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The table: as text, aligned; as JSON by serde.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Table {
    /// One for each kind of media that there is.
    pub modalities: Vec<Row>,
    /// One for each entry of the mixture.
    pub datasets: Vec<Row>,
    /// All of it.
    pub total: Totals,
}

impl Table {
    /// The table of sums by entry and kind.
    pub(super) fn new(names: &[String], sums: &[[Totals; 4]]) -> Self {
        let merged = |totals: &mut dyn Iterator<Item = &Totals>| {
            let mut sum = Totals::default();
            totals.for_each(|totals| sum.merge(totals));
            sum
        };
        let modality = |kind: Modality| Row {
            name: kind.name().to_owned(),
            totals: merged(&mut sums.iter().map(|kinds| &kinds[kind as usize])),
        };
        let datasets = names.iter().zip(sums);
        Self {
            modalities: Modality::ALL.map(modality).into_iter().filter(|row| row.totals.samples > 0).collect(),
            datasets: datasets
                .map(|(name, kinds)| Row { name: name.clone(), totals: merged(&mut kinds.iter()) })
                .collect(),
            total: merged(&mut sums.iter().flatten()),
        }
    }
}

/// A name as a table has room for it: of a long path the end.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length + 1 - MAX_NAME)).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 8] = ["samples", "share", "images", "videos", "frames", "tiles", "tokens", "counted"];
        let rows = self.modalities.iter().chain(&self.datasets).map(|row| (shortened(&row.name), &row.totals));
        let rows: Vec<_> = rows.chain([("total".to_owned(), &self.total)]).collect();
        let name_width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let cells = |totals: &Totals| {
            let share = 100.0 * totals.samples as f64 / (self.total.samples.max(1)) as f64;
            let Totals { samples, images, videos, frames, tiles, tokens, counted_tokens } = *totals;
            let count = |count: u64| count.to_string();
            let (first, share) = (count(samples), format!("{share:.1} %"));
            [
                first,
                share,
                count(images),
                count(videos),
                count(frames),
                count(tiles),
                count(tokens),
                count(counted_tokens),
            ]
        };
        let line = |f: &mut fmt::Formatter<'_>, name: &str, cells: &[String]| {
            write!(f, "{name:<name_width$}")?;
            for (cell, head) in cells.iter().zip(HEAD) {
                write!(f, "  {cell:>width$}", width = head.len().max(11))?;
            }
            writeln!(f)
        };
        line(f, "", &HEAD.map(str::to_owned))?;
        for (index, (name, totals)) in rows.iter().enumerate() {
            if index == self.modalities.len() || index + 1 == rows.len() {
                writeln!(f)?;
            }
            line(f, name, &cells(totals))?;
        }
        Ok(())
    }
}
