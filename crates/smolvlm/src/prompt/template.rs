//! From a conversation to prompt text, by the checkpoint's Jinja template.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use super::expand::{IMAGE, VIDEO};
use crate::messages::{Content, Message, Messages};
use crate::{Error, Result};

/// `DEFAULT_CHAT_TEMPLATE` of `processing_smolvlm.py`: the published template with a branch for video.
const WITH_VIDEO: &str = include_str!("chat_template.video.jinja");

/// Longest template, in bytes.
const MAX_SOURCE: usize = 1 << 20;

/// Work and memory that one rendering may cost: about this many instructions, and 64 bytes each.
const FUEL: u64 = 4_000_000;

/// Depth of macros and loops inside each other.
const MAX_DEPTH: usize = 100;

/// A compiled chat template.
///
/// Rendered as the reference does in `chat_template_utils.py`: `trim_blocks`, `lstrip_blocks`, loop controls,
/// `raise_exception`, and Python's string methods. Templates are code from strangers: work, memory and depth are bounded.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    from_caller: bool,
    special_tokens: SpecialTokens,
}

#[derive(Debug, Clone, Default, Serialize)]
struct SpecialTokens {
    bos_token: Option<String>,
    eos_token: Option<String>,
    unk_token: Option<String>,
    pad_token: Option<String>,
}

#[derive(Serialize)]
struct Context<'a> {
    messages: Vec<MessageView<'a>>,
    add_generation_prompt: bool,
    #[serde(flatten)]
    special_tokens: &'a SpecialTokens,
}

#[derive(Serialize)]
struct MessageView<'a> {
    role: &'a str,
    content: Vec<BlockView<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum BlockView<'a> {
    Text { text: &'a str },
    Image,
    Video,
}

impl ChatTemplate {
    /// The template of a checkpoint: the key `chat_template` of `processor_config.json`, of `chat_template.json`, the
    /// file `chat_template.jinja`, or the key of `tokenizer_config.json`, in this order; where a key holds several named
    /// templates, the one named `default`.
    ///
    /// # Errors
    /// A checkpoint error when there is none, or it does not compile.
    pub fn find(
        processor_config: Option<&Value>,
        chat_template_json: Option<&Value>,
        chat_template_jinja: Option<&str>,
        tokenizer_config: Option<&Value>,
    ) -> Result<Self> {
        let keyed = |file: Option<&Value>| file.and_then(|file| file.get("chat_template")).and_then(default_template);
        let found = [
            (keyed(processor_config), "processor_config.json"),
            (keyed(chat_template_json), "chat_template.json"),
            (chat_template_jinja.map(str::to_owned), "chat_template.jinja"),
            (keyed(tokenizer_config), "tokenizer_config.json"),
        ];
        let Some((source, place)) = found.into_iter().find_map(|(source, place)| Some((source?, place))) else {
            return Err(Error::checkpoint(
                "the checkpoint has no chat template: add chat_template.json, chat_template.jinja or the key \
                 `chat_template` in processor_config.json or tokenizer_config.json",
            ));
        };
        let special_tokens = tokenizer_config.map(SpecialTokens::of).unwrap_or_default();
        Self::compile(source, special_tokens, false).map_err(|error| error.at(place))
    }

    /// A template given by the caller, used for every conversation as it is.
    ///
    /// # Errors
    /// A checkpoint error when it does not compile.
    pub fn from_caller(source: &str) -> Result<Self> {
        Self::compile(source.to_owned(), SpecialTokens::default(), true)
    }

    fn compile(source: String, special_tokens: SpecialTokens, from_caller: bool) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(Error::checkpoint(format!(
                "the chat template has {} bytes, at most {MAX_SOURCE} are supported",
                source.len()
            )));
        }
        let broken = |error: minijinja::Error| {
            Error::checkpoint(format!("the chat template does not compile: {error}")).caused_by(error)
        };
        let mut environment = environment();
        environment.add_template_owned("own", source).map_err(broken)?;
        environment.add_template("with video", WITH_VIDEO).map_err(broken)?;
        Ok(Self { environment, from_caller, special_tokens })
    }

    /// The prompt text of a conversation; each picture and video appears as its placeholder. With
    /// `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// A conversation with a video is rendered by the library's own template with a video branch unless the caller gave
    /// one, because the published templates have none (`SmolVLMProcessor.apply_chat_template`).
    ///
    /// # Errors
    /// An input error naming the message when the conversation is empty, a message has no content or writes a
    /// placeholder in its text, or the template raises one; a checkpoint error when the template fails or works too
    /// long.
    pub fn render(&self, messages: &Messages, add_generation_prompt: bool) -> Result<String> {
        check(messages)?;
        self.render_as(self.template_for(messages), &messages.0, add_generation_prompt)
    }

    /// Where the assistant's messages stand in `rendered`, which is what [`render`](Self::render) gives for `messages`
    /// without a generation prompt: byte ranges, from the place where the answer would be generated to the end of the
    /// message, white space after its end token left out.
    ///
    /// Found by rendering the conversation up to each answer, so that no text in a message can be mistaken for one.
    ///
    /// # Errors
    /// As [`render`](Self::render), and a checkpoint error when the template does not write a conversation as a
    /// continuation of its beginning.
    pub fn reply_spans(&self, messages: &Messages, rendered: &str) -> Result<Vec<Range<usize>>> {
        let name = self.template_for(messages);
        let replies = messages.0.iter().enumerate().filter(|(_, message)| message.role == "assistant");
        let span = |(index, _): (usize, &Message)| {
            let before = self.render_as(name, &messages.0[..index], true)?;
            let through = self.render_as(name, &messages.0[..=index], false)?;
            if !(through.starts_with(&before) && rendered.starts_with(&through)) {
                return Err(Error::checkpoint(format!(
                    "message {}: the chat template writes a conversation otherwise once it goes on, so answers cannot \
                     be told from the rest; learn from whole sequences, or use another template",
                    index + 1
                )));
            }
            Ok(before.len()..through.trim_end().len().max(before.len()))
        };
        replies.map(span).collect()
    }

    fn template_for(&self, messages: &Messages) -> &'static str {
        let has_video = messages.0.iter().flat_map(|message| &message.content).any(|c| matches!(c, Content::Video(_)));
        if has_video && !self.from_caller { "with video" } else { "own" }
    }

    fn render_as(&self, template: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let context = Context {
            messages: messages.iter().map(MessageView::of).collect(),
            add_generation_prompt,
            special_tokens: &self.special_tokens,
        };
        let template = self.environment.get_template(template);
        template.and_then(|template| template.render(Serde(&context))).map_err(failure)
    }
}

impl SpecialTokens {
    fn of(tokenizer_config: &Value) -> Self {
        let token = |name: &str| {
            let value = tokenizer_config.get(name)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        Self {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            unk_token: token("unk_token"),
            pad_token: token("pad_token"),
        }
    }
}

impl<'a> MessageView<'a> {
    fn of(message: &'a Message) -> Self {
        let block = |content: &'a Content| match content {
            Content::Text(text) => BlockView::Text { text },
            Content::Image(_) => BlockView::Image,
            Content::Video(_) => BlockView::Video,
        };
        Self { role: &message.role, content: message.content.iter().map(block).collect() }
    }
}

/// A template's own complaint about the conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        let kind = minijinja::ErrorKind::InvalidOperation;
        Err(minijinja::Error::new(kind, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// A template, or the one named `default` in a list of `{name, template}` or in an object.
fn default_template(value: &Value) -> Option<String> {
    let named = || value.as_array()?.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let text = value.as_str();
    let listed = || named()?.get("template")?.as_str();
    text.or_else(listed).or_else(|| value.get("default")?.as_str()).map(str::to_owned)
}

fn failure(error: minijinja::Error) -> Error {
    let raised = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Raised>());
    match raised {
        Some(Raised(message)) => Error::input(format!("the chat template refuses the conversation: {message}")),
        None if error.kind() == minijinja::ErrorKind::OutOfFuel => {
            Error::checkpoint("the chat template works too long or makes too much text").caused_by(error)
        }
        None => Error::checkpoint(format!("the chat template fails: {error}")).caused_by(error),
    }
}

/// Refuses what could not be rendered, and text that the expansion would take for a medium.
fn check(messages: &Messages) -> Result<()> {
    if messages.0.is_empty() {
        return Err(Error::input("the conversation has no messages"));
    }
    for (index, message) in messages.0.iter().enumerate() {
        let place = format!("message {} ({})", index + 1, message.role.chars().take(40).collect::<String>());
        if message.content.is_empty() {
            return Err(Error::input("it has no content: give it text or a medium").at(place));
        }
        for text in std::iter::once(message.role.clone()).chain(runs_of_text(&message.content)) {
            if let Some(placeholder) = [IMAGE, VIDEO].into_iter().find(|placeholder| text.contains(placeholder)) {
                return Err(Error::input(format!(
                    "its text contains {placeholder}, which stands for a medium: attach the medium as a block of its own, \
                     or spell the word otherwise"
                ))
                .at(place));
            }
        }
    }
    Ok(())
}

/// Texts as they will stand in the prompt: neighbouring text blocks are not separated.
fn runs_of_text(content: &[Content]) -> impl Iterator<Item = String> {
    let is_text = |content: &Content| matches!(content, Content::Text(_));
    content.chunk_by(move |a, b| is_text(a) && is_text(b)).map(|run| {
        let texts = run.iter().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    })
}
