//! Turns of a conversation, with placeholders and blocks filled from the media columns.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use smolvlm::media::source::MediaSource;
use smolvlm::messages::{Content, Message};

use super::columns::{Columns, source};
use crate::data::root::{MediaRoot, shown};
use crate::data::value::Value;
use crate::{Error, Result};

const IMAGE: &str = "<image>";
const VIDEO: &str = "<video>";

/// Longest name of a role.
const MAX_ROLE: usize = 64;

/// Reads the turns of one record.
pub(super) struct Reader<'a> {
    pub(super) columns: &'a mut Columns,
    pub(super) root: &'a MediaRoot,
    /// Whether `<image>` stands for a video.
    pub(super) video_as_image: bool,
}

impl Reader<'_> {
    /// A turn whose role and words are under these keys.
    pub(super) fn message(
        &mut self,
        turn: &Value,
        (role_key, content_key): (&str, &str),
        messages: &mut Vec<Message>,
    ) -> Result<()> {
        let role = text(turn, role_key)?;
        let role = if role_key == "from" { llava_role(role)? } else { role };
        if role.is_empty() || role.len() > MAX_ROLE {
            return Err(Error::input(format!(
                "`{role_key}`: expected user, assistant or system, found {}",
                shown(role)
            )));
        }
        let content = match turn.get(content_key) {
            Some(Value::Text(text)) => self.fill(text)?,
            Some(Value::List(blocks)) => self.blocks(blocks).map_err(|error| error.at(content_key))?,
            other => {
                let found = other.map_or("none", Value::kind);
                return Err(Error::input(format!(
                    "`{content_key}`: expected a string or a list of blocks, found {found}"
                )));
            }
        };
        messages.push(Message { role: role.to_owned(), content });
        Ok(())
    }

    /// A question and its answer.
    pub(super) fn pair(&mut self, turn: &Value, messages: &mut Vec<Message>) -> Result<()> {
        for role in ["user", "assistant"] {
            let content = self.fill(text(turn, role)?)?;
            messages.push(Message { role: role.to_owned(), content });
        }
        Ok(())
    }

    /// Text with its placeholders replaced by media. Line breaks that set a placeholder apart go with it: the template sets
    /// nothing between a picture and the words after it, neither here nor when a model is asked.
    fn fill(&mut self, text: &str) -> Result<Vec<Content>> {
        let mut blocks = Vec::new();
        let mut rest = text;
        while let Some((at, placeholder)) = next_placeholder(rest) {
            let before = rest[..at].trim_end_matches(['\n', '\r']);
            push_text(&mut blocks, before);
            blocks.push(if placeholder == IMAGE && !self.video_as_image {
                self.columns.image(None)?
            } else {
                self.columns.video(None)?
            });
            rest = rest[at + placeholder.len()..].trim_start_matches(['\n', '\r']);
        }
        push_text(&mut blocks, rest);
        Ok(if blocks.is_empty() { vec![Content::text("")] } else { blocks })
    }

    fn blocks(&mut self, blocks: &[Value]) -> Result<Vec<Content>> {
        let mut content = Vec::with_capacity(blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            content.push(self.block(block).map_err(|error| error.at(format!("[{index}]")))?);
        }
        Ok(content)
    }

    fn block(&mut self, block: &Value) -> Result<Content> {
        match text(block, "type")? {
            "text" => text(block, "text").map(Content::text),
            "image" => match inline(block, "image", self.root)? {
                Some(source) => Ok(Content::Image(source)),
                None => self.columns.image(index(block)?),
            },
            "image_url" => match block.get("image_url") {
                Some(url) => source(url, self.root).map(Content::Image).map_err(|error| error.at("image_url")),
                None => Err(Error::input("`image_url`: expected a URL or an object with `url`, found none")),
            },
            "video" => match inline(block, "video", self.root)? {
                Some(source) => Ok(Content::Video(source)),
                None => self.columns.video(index(block)?),
            },
            other => Err(Error::input(format!("`type`: expected text, image or video, found {}", shown(other)))),
        }
    }
}

/// The medium that a block names itself, if it does.
fn inline(block: &Value, kind: &str, root: &MediaRoot) -> Result<Option<MediaSource>> {
    if let Some(value) = block.get("base64") {
        return decoded(value).map(Some).map_err(|error| error.at("base64"));
    }
    if let Some(value) = block.get(kind) {
        return source(value, root).map(Some).map_err(|error| error.at(kind));
    }
    if ["bytes", "path", "url"].into_iter().any(|key| block.get(key).is_some()) {
        return source(block, root).map(Some);
    }
    Ok(None)
}

/// A file that stands in the JSON itself.
fn decoded(value: &Value) -> Result<MediaSource> {
    let text = value.text().ok_or_else(|| Error::input(format!("expected a string, found {}", value.kind())))?;
    let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let data = BASE64_STANDARD.decode(compact);
    let data = data.map_err(|error| Error::input(format!("not base64: {error}")).caused_by(error))?;
    Ok(MediaSource::Bytes { name: "embedded file".to_owned(), data: data.into() })
}

fn index(block: &Value) -> Result<Option<usize>> {
    let Some(value) = block.get("index") else { return Ok(None) };
    let index = value.index();
    index.map(Some).ok_or_else(|| Error::input("`index`: expected a whole number from 0"))
}

/// Whether a turn's text holds `placeholder`, or it has a block of that kind.
pub(super) fn mentions(turn: &Value, placeholder: &str) -> bool {
    let kind = placeholder.trim_matches(['<', '>']);
    let in_text = |value: &Value| value.text().is_some_and(|text| text.contains(placeholder));
    let in_block = |block: &Value| block.get("type").and_then(Value::text) == Some(kind);
    ["content", "value", "user", "assistant"].into_iter().filter_map(|key| turn.get(key)).any(|value| match value {
        Value::List(blocks) => blocks.iter().any(in_block),
        value => in_text(value),
    })
}

/// `human`, `gpt` and `system`, and what else is found in published sets.
fn llava_role(from: &str) -> Result<&'static str> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" | "chatgpt" => Ok("assistant"),
        "system" => Ok("system"),
        other => Err(Error::input(format!("`from`: expected human, gpt or system, found {}", shown(other)))),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    if !matches!(value, Value::Object(_)) {
        return Err(Error::input(format!("expected an object with `{key}`, found {}", value.kind())));
    }
    let found = value.get(key);
    found
        .and_then(Value::text)
        .ok_or_else(|| Error::input(format!("`{key}`: expected a string, found {}", found.map_or("none", Value::kind))))
}

fn next_placeholder(text: &str) -> Option<(usize, &'static str)> {
    [IMAGE, VIDEO].into_iter().filter_map(|placeholder| Some((text.find(placeholder)?, placeholder))).min()
}

fn push_text(blocks: &mut Vec<Content>, text: &str) {
    if !text.is_empty() {
        blocks.push(Content::text(text));
    }
}
