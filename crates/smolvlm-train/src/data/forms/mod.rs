//! From a record to a conversation, in the forms in which people keep them.
//!
//! | key | form |
//! |---|---|
//! | `messages` | `[{"role": …, "content": …}]`, as `datasets` and TRL have it; content is a string, or typed blocks |
//! | `conversations` | `[{"from": "human"\|"gpt"\|"system", "value": …}]`, as LLaVA has it |
//! | `texts` | `[{"user": …, "assistant": …}]`, as the Cauldron has it |
//!
//! Media stand in the columns `images`, `image`, `videos`, `video`: one or a list, each a name below the media root, a
//! `data:` URL, or (parquet) the file itself as `{"bytes": …, "path": …}`. A placeholder (`<image>`, `<video>`) in a string,
//! or a block without a source of its own, takes the next one of its column; a block with `index` that one. Where nothing
//! in the text says where media stand, they come first in the first message of the user, as TRL does it; else every medium must be
//! placed, and every place filled.

mod columns;
mod turns;

use smolvlm::messages::{Content, Message, Messages};

use self::columns::Columns;
use self::turns::Reader;
use super::root::MediaRoot;
use super::value::Value;
use crate::{Error, Result};

/// Which key of a record holds the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Roles and content.
    Messages,
    /// LLaVA's `from` and `value`.
    Conversations,
    /// Pairs of `user` and `assistant`.
    Texts,
}

impl Form {
    /// Every form, in the order in which a record is searched for them.
    pub(super) const ALL: [Self; 3] = [Self::Messages, Self::Conversations, Self::Texts];

    /// The key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Texts => "texts",
        }
    }
}

/// Columns of media.
pub(super) const MEDIA_COLUMNS: [&str; 4] = ["images", "image", "videos", "video"];

/// The conversation in a record; `form` where it is known, else the one whose key the record has.
///
/// # Errors
/// An input error that names the place: `messages[0].content[2]: …`.
pub fn read(record: &Value, form: Option<Form>, root: &MediaRoot) -> Result<Messages> {
    if !matches!(record, Value::Object(_)) {
        return Err(Error::input(format!("expected an object with a conversation, found {}", record.kind())));
    }
    let form = form.or_else(|| Form::ALL.into_iter().find(|form| record.get(form.key()).is_some()));
    let form = form.ok_or_else(|| Error::input("expected one of the keys messages, conversations, texts"))?;
    let key = form.key();
    let turns = record.get(key).and_then(Value::list).filter(|turns| !turns.is_empty());
    let turns = turns.ok_or_else(|| Error::input(format!("`{key}`: expected a list with at least one turn")))?;
    let mut columns = Columns::read(record, root)?;
    let video_as_image = columns.only_videos() && !turns.iter().any(|turn| turns::mentions(turn, "<video>"));
    let mut reader = Reader { columns: &mut columns, root, video_as_image };
    let mut messages = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let read = match form {
            Form::Messages => reader.message(turn, ("role", "content"), &mut messages),
            Form::Conversations => reader.message(turn, ("from", "value"), &mut messages),
            Form::Texts => reader.pair(turn, &mut messages),
        };
        read.map_err(|error| error.at(format!("{key}[{index}]")))?;
    }
    place_rest(&mut messages, columns)?;
    check(&messages, key)?;
    Ok(Messages(messages))
}

/// Puts media that no text has a place for before the first words of the user; refuses some placed and some not.
fn place_rest(messages: &mut [Message], columns: Columns) -> Result<()> {
    let (placed, rest) = columns.into_rest()?;
    if rest.is_empty() {
        return Ok(());
    }
    if placed > 0 {
        return Err(Error::input(format!(
            "{} media are given and {placed} have a place (<image>, <video>, or a block) in the text",
            placed + rest.len()
        )));
    }
    let first = messages.iter_mut().find(|message| message.role == "user");
    let first = first.ok_or_else(|| Error::input("there are media, and no message of the user to show them in"))?;
    first.content.splice(..0, rest);
    Ok(())
}

/// There must be something to learn, and nothing empty.
fn check(messages: &[Message], key: &str) -> Result<()> {
    if let Some(index) = messages.iter().position(|message| message.content.is_empty()) {
        return Err(Error::input(format!("{key}: message {} says nothing", index + 1)));
    }
    let says = |content: &Content| !matches!(content, Content::Text(text) if text.is_empty());
    if !messages.iter().any(|message| message.role == "assistant" && message.content.iter().any(says)) {
        return Err(Error::input(format!("{key}: there is no answer of the assistant to learn from")));
    }
    Ok(())
}
