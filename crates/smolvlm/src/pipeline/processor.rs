//! Everything between messages and a model's inputs, without the model's weights.

use std::path::Path;

use super::MediaOptions;
use super::complete::{self, Outline};
use super::layout::Ending;
use super::load::processor_settings;
use super::prepare::Prepared;
use crate::checkpoint::{ModelConfig, read_json, read_text, tokenizer_path};
use crate::compat::Compat;
use crate::messages::Messages;
use crate::preprocess::{Overrides, Preprocessor, Settings};
use crate::prompt::{ChatTemplate, PromptTokenizer};
use crate::{Error, Result};

/// What a checkpoint says of text and pixels: chat template, tokenizer, preprocessing. One serves any number of threads.
#[derive(Debug, Clone)]
pub struct Processor {
    pub(super) settings: Settings,
    pub(super) template: ChatTemplate,
    pub(super) tokenizer: PromptTokenizer,
    pub(super) preprocessor: Preprocessor,
    pub(super) media: MediaOptions,
    pub(super) compat: Compat,
    pub(super) image_token: u32,
    /// Tokens that the model's context holds.
    pub(super) context: usize,
}

impl Processor {
    /// Reads the processor of a checkpoint folder. Weights are not looked at, and need not be there.
    ///
    /// # Errors
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) when a file is missing or broken or contradicts another,
    /// [`Usage`](crate::ErrorKind::Usage) for overrides out of range.
    pub fn open(folder: &Path, compat: Compat, media: MediaOptions) -> Result<Self> {
        let here = |error: Error| error.at(folder.display());
        let json = read_json(folder, "config.json")?;
        let json = json.ok_or_else(|| here(Error::checkpoint("expected config.json, found none")))?;
        Self::of(folder, &ModelConfig::from_json(&json).map_err(here)?, compat, media)
    }

    /// The processor that belongs to a model of these sizes.
    pub(super) fn of(folder: &Path, config: &ModelConfig, compat: Compat, media: MediaOptions) -> Result<Self> {
        let json = |file| read_json(folder, file);
        let settings = processor_settings(folder)?;
        let template = ChatTemplate::find(
            json("processor_config.json")?.as_ref(),
            json("chat_template.json")?.as_ref(),
            read_text(folder, "chat_template.jinja")?.as_deref(),
            json("tokenizer_config.json")?.as_ref(),
        )
        .map_err(|error| error.at(folder.display()))?;
        let tokenizer = PromptTokenizer::from_file(&tokenizer_path(folder)?)?;
        check_agreement(folder, config, &settings, &tokenizer)?;
        let preprocessor = Preprocessor::new(settings.clone(), compat, media.overrides)?;
        let (image_token, context) = (config.image_token_id, config.text.max_positions);
        Ok(Self { settings, template, tokenizer, preprocessor, media, compat, image_token, context })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &PromptTokenizer {
        &self.tokenizer
    }

    /// What turns pictures into tiles.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The id of `<image>`, one for each feature of a picture or frame.
    pub fn image_token(&self) -> u32 {
        self.image_token
    }

    /// Most tokens of a prompt and its answer.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The same processor with other wishes.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when one is out of range.
    pub fn with_overrides(&self, change: impl FnOnce(&mut Overrides)) -> Result<Self> {
        let mut changed = self.clone();
        let mut media = self.media.clone();
        change(&mut media.overrides);
        changed.set_media_options(media)?;
        Ok(changed)
    }

    /// Opens the media of a conversation that is complete, answers included, and writes it as a prompt: what a model
    /// learns from. With `locate_replies`, [`Prepared::replies`] says which tokens are answers.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) for media that are missing or broken, for messages that cannot be rendered, and
    /// for a prompt beyond the context; [`Checkpoint`](crate::ErrorKind::Checkpoint) when the chat template or the
    /// tokenizer does not let answers be located.
    pub fn prepare_complete(&self, messages: &Messages, locate_replies: bool) -> Result<Prepared> {
        complete::prepare_complete(self, messages, ending(locate_replies))
    }

    /// What [`prepare_complete`](Self::prepare_complete) would give, without pixels. Opens headers only.
    ///
    /// # Errors
    /// As [`prepare_complete`](Self::prepare_complete).
    pub fn outline_complete(&self, messages: &Messages, locate_replies: bool) -> Result<Outline> {
        complete::outline_complete(self, messages, ending(locate_replies))
    }

    /// How pictures and videos are read from now on.
    pub(super) fn set_media_options(&mut self, media: MediaOptions) -> Result<()> {
        self.preprocessor = Preprocessor::new(self.settings.clone(), self.compat, media.overrides)?;
        self.media = media;
        Ok(())
    }
}

fn ending(locate_replies: bool) -> Ending {
    if locate_replies { Ending::Answered } else { Ending::Whole }
}

/// The processor's files and the model's must speak of the same tiles and tokens.
fn check_agreement(
    folder: &Path,
    config: &ModelConfig,
    settings: &Settings,
    tokenizer: &PromptTokenizer,
) -> Result<()> {
    let disagree = |what: &str, processor: usize, model: usize| {
        let message = format!("{what}: the processor's files say {processor}, config.json says {model}");
        Err(Error::checkpoint(message).at(folder.display()))
    };
    if settings.image.tile_size != config.vision.image_size {
        return disagree("pixels on a tile's side", settings.image.tile_size, config.vision.image_size);
    }
    if settings.image_seq_len != config.tokens_per_tile() {
        return disagree("tokens of a tile", settings.image_seq_len, config.tokens_per_tile());
    }
    let image_token = tokenizer.id_of("<image>").map_or(usize::MAX, |id| id as usize);
    if image_token != config.image_token_id as usize {
        return disagree("id of <image>", image_token, config.image_token_id as usize);
    }
    if tokenizer.vocab_size() > config.text.vocab {
        return disagree("vocabulary", tokenizer.vocab_size(), config.text.vocab);
    }
    Ok(())
}
