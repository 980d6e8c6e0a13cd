//! The demonstration model's tokenizer: byte-level BPE learnt from the generator's text, with SmolVLM2's special tokens
//! where SmolVLM2 has them.
//!
//! Ids: 0 to 16 SmolLM2's special tokens, then 256 bytes and the merges, then 128 tokens of the image processor, of which the
//! last is `<end_of_utterance>`. Digits are split singly; no two capitals are ever merged, so that a word that was read is
//! spelled in one token a letter.

use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::files::write;
use crate::{Error, Generator, Medium, Mixture, Result, Sample, Split};

/// All ids, special ones included: a multiple of 64, as products like. With some 20 more every word of the wordings is one token.
pub(crate) const VOCABULARY: usize = 960;
/// The first ids: what SmolLM2's tokenizer begins with.
const FIRST: [&str; 17] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
];
pub(crate) const FAKE: &str = "<fake_token_around_image>";
pub(crate) const IMAGE: &str = "<image>";
pub(crate) const GLOBAL: &str = "<global-img>";
pub(crate) const END: &str = "<end_of_utterance>";
/// Most rows and columns of tiles that have a token.
const MOST_TILES: usize = 6;
const RESERVED: usize = 88;
/// How the video prompt spells the numbers of frames of clips.
const COUNTS: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Ids that configuration files name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<image>`.
    pub image: u32,
    /// `<end_of_utterance>`, with which an answer ends.
    pub end_of_utterance: u32,
    /// `<|im_end|>`.
    pub pad: u32,
    /// `<|im_start|>`.
    pub start: u32,
}

/// A tokenizer that was learnt.
#[derive(Debug, Clone)]
pub struct TrainedTokenizer {
    inner: Tokenizer,
}

/// Learns a tokenizer from the text of samples 0 to `samples` of the default mixture for training.
///
/// # Errors
/// When the text is too little for the vocabulary.
pub fn train_tokenizer(seed: u64, samples: u64) -> Result<TrainedTokenizer> {
    let generator = Generator::new(seed, Split::Train, Mixture::default());
    let texts = (0..samples).flat_map(|index| texts(&generator.sample(index)));
    let last = last_tokens();
    let failed = |error: tokenizers::Error| Error::new(format!("the tokenizer cannot be trained: {error}"));
    let mut inner = Tokenizer::new(BPE::default());
    let byte_level = ByteLevel::new(false, true, true);
    inner.with_pre_tokenizer(Some(Sequence::new(vec![Digits::new(true).into(), byte_level.into()])));
    inner.with_decoder(Some(ByteLevel::new(true, true, true)));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY - last.len())
        .min_frequency(2)
        .special_tokens(special(FIRST.iter().copied()))
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    inner.train(&mut TrainerWrapper::from(trainer), texts.collect::<Vec<String>>().into_iter()).map_err(failed)?;
    inner.add_special_tokens(special(last.iter().map(String::as_str))).map_err(failed)?;
    let found = inner.get_vocab_size(true);
    if found != VOCABULARY {
        return Err(Error::new(format!("the tokenizer has {found} entries, expected {VOCABULARY}: give more samples")));
    }
    Ok(TrainedTokenizer { inner })
}

impl TrainedTokenizer {
    /// The tokenizer in the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or lacks one of the special tokens.
    pub fn from_file(path: &Path) -> Result<Self> {
        let inner = Tokenizer::from_file(path).map_err(|error| Error::file(path, "read", error))?;
        let read = Self { inner };
        read.special_ids()?;
        Ok(read)
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| Error::new(format!("cannot tokenise: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Each token of a text as it is in the vocabulary.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn tokens(&self, text: &str) -> Result<Vec<String>> {
        let ids = self.encode(text)?;
        Ok(ids.into_iter().filter_map(|id| self.inner.id_to_token(id)).collect())
    }

    /// Ids that configuration files name.
    ///
    /// # Errors
    /// When one of the tokens is missing.
    pub fn special_ids(&self) -> Result<SpecialIds> {
        let id = |token: &str| {
            self.inner.token_to_id(token).ok_or_else(|| Error::new(format!("the tokenizer has no {token}")))
        };
        Ok(SpecialIds { image: id(IMAGE)?, end_of_utterance: id(END)?, pad: id(FIRST[2])?, start: id(FIRST[1])? })
    }

    /// Every special token with its id.
    pub(crate) fn specials(&self) -> Vec<(u32, String)> {
        let names = FIRST.iter().map(|&name| name.to_owned()).chain(last_tokens());
        names.filter_map(|name| Some((self.inner.token_to_id(&name)?, name))).collect()
    }

    /// Writes `tokenizer.json`.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = self.inner.to_string(true).map_err(|error| Error::file(path, "written", error))?;
        write(path, json.as_bytes())
    }
}

/// The last ids, in SmolVLM2's order.
fn last_tokens() -> Vec<String> {
    let mut tokens = vec![GLOBAL.to_owned()];
    for row in 1..=MOST_TILES {
        tokens.extend((1..=MOST_TILES).map(|col| format!("<row_{row}_col_{col}>")));
    }
    tokens.extend([FAKE.to_owned(), IMAGE.to_owned()]);
    tokens.extend((0..RESERVED).map(|index| format!("<|reserved_special_token_{index}|>")));
    tokens.push(END.to_owned());
    tokens
}

fn special<'a>(names: impl Iterator<Item = &'a str>) -> Vec<AddedToken> {
    names.map(|name| AddedToken::from(name, true).normalized(false)).collect()
}

/// What stands between special tokens in a conversation about the sample, but for words that were read from the picture:
/// pairs of their letters are not to become tokens.
fn texts(sample: &Sample) -> Vec<String> {
    let mut texts = vec!["User:".to_owned(), "\nAssistant:".to_owned(), "\n".to_owned(), "\n\n".to_owned()];
    texts.extend(sample.system.iter().map(|system| format!("System: {system}")));
    for medium in &sample.media {
        let Medium::Clip(clip) = medium else { continue };
        let count = COUNTS.get(clip.frames.len()).copied().unwrap_or("many");
        texts.push(format!("User: You are provided the following series of {count} frames"));
        // Without the capitals of `[H:MM:SS]`, which are not to become pairs either.
        texts.extend([format!(" from a {} [", duration(clip.duration())), "] video.\n".to_owned()]);
        texts.extend(clip.times.iter().map(|&time| format!("\nFrame from {}:", crate::phrase::clock(time))));
    }
    for (index, turn) in sample.turns.iter().enumerate() {
        let lead = if index == 0 { "" } else { "User: " };
        texts.push(without_capitals(&format!("{lead}{}", turn.question)));
        texts.push(without_capitals(&format!(" {}", turn.answer)));
    }
    texts
}

/// `H:MM:SS`.
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// Without the words that are all capitals, but for `A`.
fn without_capitals(text: &str) -> String {
    let is_read = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.contains(|c: char| c.is_ascii_lowercase())
    };
    let kept = text.split(' ').filter(|word| *word == "A" || !is_read(word));
    kept.collect::<Vec<_>>().join(" ")
}
