//! One sample as a model learns from it: ids, which of them count, and pixels.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use smolvlm::prompt::PromptTokenizer;
use smolvlm::{Outline, Prepared, Processor, TileRun};

use super::drawn::{Sample, Showing};
use super::samples::{SampleRef, Samples};
use crate::{Error, Result};

/// Which tokens count for the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// The assistant's: each answer from its first token to its end token, `<end_of_utterance>`, so that a model learns when
    /// to stop. The line break after it does not count, because nothing is generated after the end token; neither do the role's
    /// name and anything of other roles.
    #[default]
    Replies,
    /// All but image tokens, as in the public fine-tuning notebook.
    Full,
}

/// What becomes of a sample with more tokens than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TooLong {
    /// It is skipped, counted and named, like a broken one.
    #[default]
    Skip,
    /// Its end is cut off. Skipped if that leaves nothing that counts, or would cut off image tokens.
    Truncate,
}

/// How samples become examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExampleRules {
    /// Which tokens count.
    pub loss: Loss,
    /// Most tokens of an example; the model's context bounds them in any case.
    pub max_tokens: usize,
    /// What becomes of longer ones.
    pub too_long: TooLong,
}

impl Default for ExampleRules {
    fn default() -> Self {
        Self { loss: Loss::default(), max_tokens: usize::MAX, too_long: TooLong::default() }
    }
}

/// One sample, ready for a model. There is no padding: a batch is ragged.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What to call it in messages.
    pub name: String,
    /// Token ids: `[T]`.
    pub ids: Vec<u32>,
    /// Whether `ids[t]`, as predicted from `ids[..t]`, counts: `[T]`. The first never does, and one at least does.
    pub counted: Vec<bool>,
    /// Pixels in prompt order: as many tiles as image tokens ask for.
    pub pixels: Vec<TileRun>,
}

/// What labels say of tokens that do not count, as in PyTorch's cross-entropy.
pub const IGNORED: i64 = -100;

impl Example {
    /// Token ids where they count, else [`IGNORED`]: `[T]`, not shifted.
    pub fn labels(&self) -> impl Iterator<Item = i64> {
        self.ids.iter().zip(&self.counted).map(|(id, counted)| if *counted { i64::from(*id) } else { IGNORED })
    }

    /// Tokens that count.
    pub fn counted_tokens(&self) -> usize {
        self.counted.iter().filter(|counted| **counted).count()
    }

    /// Tiles of pictures and frames of videos.
    pub fn tiles(&self) -> usize {
        self.pixels.iter().map(|run| run.tiles.len()).sum()
    }

    /// Memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes: usize = self.pixels.iter().flat_map(|run| &run.tiles).map(|tile| tile.rgb.len()).sum();
        (bytes + self.ids.len() * BYTES_PER_TOKEN + self.name.len()) as u64
    }
}

/// An example in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    pub(super) tokens: usize,
    /// Tokens that count.
    pub(super) counted: usize,
    pub(super) tiles: usize,
    pub(super) images: usize,
    pub(super) videos: usize,
    pub(super) frames: usize,
}

/// Makes examples of samples. One serves any number of threads.
#[derive(Debug, Clone)]
pub struct ExampleMaker {
    samples: Arc<Samples>,
    processor: Arc<Processor>,
    /// The same for samples that ask for another showing: split, whole, direct.
    showings: [Arc<Processor>; 3],
    rules: ExampleRules,
}

/// An example whose media are open and not yet decoded.
pub(super) struct Opened {
    name: String,
    prepared: Prepared,
    processor: Arc<Processor>,
    ids: Vec<u32>,
    counted: Vec<bool>,
    tile_bytes: u64,
}

impl Opened {
    /// Memory that it takes at most while it is decoded: its tiles, and one picture or frame at its full size.
    pub(super) fn bytes_while_decoding(&self) -> u64 {
        let tiles = self.tile_bytes.saturating_mul(self.prepared.tiles() as u64);
        let largest = self.prepared.largest_pixels().saturating_mul(3);
        tiles.saturating_add(largest).saturating_add((self.ids.len() * BYTES_PER_TOKEN + self.name.len()) as u64)
    }
}

/// A token's id, and whether it counts.
const BYTES_PER_TOKEN: usize = size_of::<u32>() + size_of::<bool>();

impl ExampleMaker {
    /// A maker for these samples.
    ///
    /// # Errors
    /// A usage error when no token is allowed.
    pub fn new(samples: Arc<Samples>, processor: Arc<Processor>, rules: ExampleRules) -> Result<Self> {
        if rules.max_tokens < 2 {
            return Err(Error::usage(format!("at most {} tokens: expected at least 2", rules.max_tokens)));
        }
        let tile = processor.preprocessor().tile_size();
        let showing = |split, edge: Option<usize>| {
            let changed = processor.with_overrides(|wishes| {
                wishes.split_images = Some(split);
                wishes.longest_edge = edge.or(wishes.longest_edge);
            });
            changed.map(Arc::new)
        };
        let showings = [showing(true, None)?, showing(false, None)?, showing(false, Some(tile))?];
        Ok(Self { samples, processor, showings, rules })
    }

    /// The samples.
    pub fn samples(&self) -> &Arc<Samples> {
        &self.samples
    }

    /// What spells ids.
    pub fn tokenizer(&self) -> &PromptTokenizer {
        self.processor.tokenizer()
    }

    /// The rules.
    pub fn rules(&self) -> &ExampleRules {
        &self.rules
    }

    /// The whole way: record, conversation, prompt, pixels.
    ///
    /// # Errors
    /// An input error that names the sample: its record or media are broken, or it is too long.
    pub fn make(&self, sample: SampleRef) -> Result<Example> {
        self.decode(self.open(sample)?)
    }

    /// The way up to the pixels. Headers of media are read, and files of pictures.
    pub(super) fn open(&self, sample: SampleRef) -> Result<Opened> {
        self.prepare(&self.samples.read(sample)?, self.samples.name(sample))
    }

    fn prepare(&self, sample: &Sample, name: String) -> Result<Opened> {
        let here = |error: Error| error.at(&name);
        let processor = self.processor_for(sample).clone();
        let prepared = processor.prepare_complete(&sample.messages, self.rules.loss == Loss::Replies);
        let prepared = prepared.map_err(|error| here(error.into()))?;
        let image_token = processor.image_token();
        let mut counted = counted(prepared.ids(), prepared.replies(), image_token, self.rules.loss);
        let kept = self.kept(prepared.ids(), &counted).map_err(here)?;
        counted.truncate(kept);
        let ids = prepared.ids()[..kept].to_vec();
        let tile_bytes = (processor.preprocessor().tile_size() as u64).pow(2) * 3;
        Ok(Opened { name, prepared, processor, ids, counted, tile_bytes })
    }

    pub(super) fn decode(&self, opened: Opened) -> Result<Example> {
        let Opened { name, mut prepared, processor, ids, counted, .. } = opened;
        let pixels = prepared.read_tiles(&processor).map_err(|error| Error::from(error).at(&name))?;
        Ok(Example { name, ids, counted, pixels })
    }

    /// What a sample would become, in numbers. Opens headers only.
    pub(super) fn measure(&self, sample: &Sample) -> Result<Size> {
        let outline =
            self.processor_for(sample).outline_complete(&sample.messages, self.rules.loss == Loss::Replies)?;
        let counted = counted(&outline.ids, &outline.replies, self.processor.image_token(), self.rules.loss);
        let tokens = self.kept(&outline.ids, &counted)?;
        let Outline { tiles, images, videos, frames, .. } = outline;
        let counted = counted[..tokens].iter().filter(|counted| **counted).count();
        Ok(Size { tokens, counted, tiles, images, videos, frames })
    }

    fn processor_for(&self, sample: &Sample) -> &Arc<Processor> {
        let [split, whole, direct] = &self.showings;
        match sample.showing {
            Showing::AsSet => &self.processor,
            Showing::Split => split,
            Showing::Whole => whole,
            Showing::Direct => direct,
        }
    }

    /// How many tokens stay.
    fn kept(&self, ids: &[u32], counted: &[bool]) -> Result<usize> {
        let most = self.rules.max_tokens;
        if ids.len() > most {
            if self.rules.too_long == TooLong::Skip {
                return Err(self.too_long(ids.len()));
            }
            if ids[most..].contains(&self.processor.image_token()) {
                return Err(Error::input(format!("cut after {most} of {} tokens, it would lose media", ids.len())));
            }
        }
        let kept = ids.len().min(most);
        if counted[..kept].contains(&true) {
            return Ok(kept);
        }
        Err(Error::input(format!("none of its {kept} tokens counts for the loss")))
    }

    fn too_long(&self, tokens: usize) -> Error {
        Error::input(format!("it has {tokens} tokens, at most {} are learned from", self.rules.max_tokens))
    }
}

/// Which tokens count.
fn counted(ids: &[u32], replies: &[Range<usize>], image_token: u32, loss: Loss) -> Vec<bool> {
    let mut counted = vec![loss == Loss::Full; ids.len()];
    if loss == Loss::Replies {
        for reply in replies {
            counted[reply.clone()].fill(true);
        }
    }
    for (counted, id) in counted.iter_mut().zip(ids) {
        *counted &= *id != image_token;
    }
    // Nothing predicts the first.
    if let Some(first) = counted.first_mut() {
        *first = false;
    }
    counted
}
