//! The whole path: a folder or hub id becomes a [`SmolVlm`]; messages become replies.

mod complete;
mod device;
mod dtype;
mod encode;
mod layout;
mod load;
mod prepare;
mod processor;
mod reply;
mod trace;
mod trace_file;
mod video_view;

pub use complete::{Outline, TileRun};
pub use device::{Device, Gpu, GpuLibrary, Machine, gpus};
pub use dtype::Dtype;
pub use load::{LoadOptions, processor_settings};
pub use prepare::Prepared;
pub use processor::Processor;
pub use reply::{Reply, ReplyPiece, ReplyStream, Timings, Usage};
pub use trace::{Trace, TracedMedium};
pub use video_view::VideoView;

use crate::checkpoint::{GenerationDefaults, ModelConfig};
use crate::generate::{Engine, GenerateOptions, Logits, Sampling};
use crate::media::source::MediaLimits;
use crate::media::video::VideoOptions;
use crate::messages::Messages;
use crate::preprocess::Overrides;
use crate::prompt::PromptTokenizer;
use crate::{Error, Result};

/// The model used when none is named.
pub const DEFAULT_MODEL: &str = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct";

/// How pictures and videos are read and cut.
#[derive(Debug, Clone, Default)]
pub struct MediaOptions {
    /// What the caller wants otherwise than the checkpoint says.
    pub overrides: Overrides,
    /// How videos are read.
    pub video: VideoOptions,
    /// What reading one medium may cost.
    pub limits: MediaLimits,
}

/// How far long work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Tiles and frames through the vision tower.
    Vision {
        /// Tiles done.
        done: usize,
        /// Tiles of all media of the call.
        total: usize,
    },
}

/// Called as work goes on.
pub type ProgressHook = Box<dyn FnMut(Progress) + Send>;

/// A loaded model with its processor: everything between messages and replies.
///
/// ```no_run
/// use smolvlm::messages::{Content, Messages};
/// use smolvlm::{GenerateOptions, SmolVlm};
///
/// # fn main() -> smolvlm::Result<()> {
/// let mut model = SmolVlm::from_pretrained("HuggingFaceTB/SmolVLM2-256M-Video-Instruct")?;
/// let messages = Messages::new().user([Content::image("bee.jpg"), Content::text("Can you describe this image?")]);
/// let reply = model.generate(&messages, &GenerateOptions::default().max_new_tokens(64))?;
/// println!("{}", reply.text);
/// # Ok(())
/// # }
/// ```
pub struct SmolVlm {
    engine: Box<dyn Engine>,
    processor: Processor,
    generation: GenerationDefaults,
    dtype: Dtype,
    compute: String,
    progress: Option<ProgressHook>,
}

impl SmolVlm {
    /// Loads a checkpoint folder or hub id with default options.
    ///
    /// # Errors
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) or [`Network`](crate::ErrorKind::Network), saying what is missing.
    pub fn from_pretrained(model: &str) -> Result<Self> {
        LoadOptions::default().load(model)
    }

    /// The model's sizes.
    pub fn config(&self) -> &ModelConfig {
        self.engine.config()
    }

    /// The number format in use.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// What computes, for people: processor, instruction set, threads.
    pub fn compute(&self) -> &str {
        &self.compute
    }

    /// Everything between messages and the model's inputs.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &PromptTokenizer {
        self.processor.tokenizer()
    }

    /// The engine below, for measuring it alone.
    pub fn engine(&mut self) -> &mut dyn Engine {
        self.engine.as_mut()
    }

    /// What each value of each channel of a picture means to the model.
    pub fn pixel_table(&self) -> [[f32; 256]; 3] {
        self.processor.preprocessor.pixel_table()
    }

    /// What the checkpoint's `generation_config.json` asks for: usually greedy, 20 new tokens.
    pub fn default_options(&self) -> GenerateOptions {
        let defaults = &self.generation;
        let mut options = GenerateOptions::default();
        options.max_new_tokens = defaults.max_new_tokens.unwrap_or(options.max_new_tokens);
        options.repetition_penalty = defaults.repetition_penalty.unwrap_or(1.0);
        options.stop_strings.clone_from(&defaults.stop_strings);
        let reference = Sampling::default();
        options.sampling = (defaults.do_sample == Some(true)).then(|| Sampling {
            temperature: defaults.temperature.unwrap_or(reference.temperature),
            top_k: defaults.top_k.unwrap_or(reference.top_k),
            top_p: defaults.top_p.unwrap_or(reference.top_p),
            min_p: defaults.min_p.unwrap_or(reference.min_p),
            seed: reference.seed,
        });
        options
    }

    /// Settings of the checkpoint's `generation_config.json` that would change replies and are not known here.
    pub fn ignored_settings(&self) -> &[String] {
        &self.generation.ignored
    }

    /// How pictures and videos are read from now on.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when a value is out of range.
    pub fn set_media_options(&mut self, media: MediaOptions) -> Result<()> {
        self.processor.set_media_options(media)
    }

    /// Calls `hook` as long work goes on.
    pub fn on_progress(&mut self, hook: ProgressHook) {
        self.progress = Some(hook);
    }

    /// Answers one conversation.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) for media or messages that cannot be used; see [`Engine::submit`].
    pub fn generate(&mut self, messages: &Messages, options: &GenerateOptions) -> Result<Reply> {
        let mut replies = self.generate_batch(std::slice::from_ref(messages), options)?;
        replies.pop().ok_or_else(|| Error::internal("one conversation gave no reply"))
    }

    /// Answers several conversations together. Each reply is what the conversation would get alone.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); an error in one conversation names it by its number.
    pub fn generate_batch(&mut self, conversations: &[Messages], options: &GenerateOptions) -> Result<Vec<Reply>> {
        let mut stream = self.start(conversations, options)?;
        while stream.advance()? {}
        Ok(stream.into_replies())
    }

    /// Answers one conversation piece by piece. Pieces are whole characters.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), for what goes wrong before the first token.
    pub fn stream(&mut self, messages: &Messages, options: &GenerateOptions) -> Result<ReplyStream<'_>> {
        self.start(std::slice::from_ref(messages), options)
    }

    /// Every stage's numbers for one conversation, continued greedily.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn trace(&mut self, messages: &Messages, max_new_tokens: usize, logits: Logits) -> Result<Trace> {
        trace::trace(self, messages, max_new_tokens, logits)
    }

    fn start(&mut self, conversations: &[Messages], options: &GenerateOptions) -> Result<ReplyStream<'_>> {
        options.validate()?;
        ReplyStream::start(self, conversations, options)
    }
}
