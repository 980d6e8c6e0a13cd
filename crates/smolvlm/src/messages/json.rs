//! Conversations from JSON in the schema of the model card.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::{Content, Message, Messages};
use crate::media::source::MediaSource;
use crate::{Error, Result};

/// Keys that may hold a picture, in the order the reference looks at them.
const IMAGE_KEYS: [&str; 4] = ["image", "url", "path", "base64"];
/// Keys that may hold a video.
const VIDEO_KEYS: [&str; 3] = ["video", "url", "path"];

/// The conversations in `json_text`: a list of messages is one, a list of such lists several.
///
/// A message is `{"role": …, "content": …}`; its content is a string, or a list of blocks `{"type": "text", "text": …}`,
/// `{"type": "image", …}` with one of `image`, `url`, `path` or `base64`, `{"type": "video", …}` with one of `video`, `url`
/// or `path`, and OpenAI's `{"type": "image_url", "image_url": {"url": …}}`. Relative paths start at `base_dir`. A string
/// as content is one text block here; the reference renders it as nothing, without an error.
///
/// # Errors
/// An input error that names `name` and the place in it: `chat.json: [0].content[2]: …`.
pub fn parse(json_text: &str, base_dir: &Path, name: &str) -> Result<Vec<Messages>> {
    let value: Value = serde_json::from_str(json_text)
        .map_err(|error| Error::input(format!("{name}: not JSON: {error}")).caused_by(error))?;
    let reader = Reader { base_dir };
    reader.conversations(&value).map_err(|error| error.at(name))
}

struct Reader<'a> {
    base_dir: &'a Path,
}

impl Reader<'_> {
    fn conversations(&self, value: &Value) -> Result<Vec<Messages>> {
        let list = value.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| Error::input("expected a list of messages, or a list of conversations"))?;
        if list[0].is_array() {
            list.iter().enumerate().map(|(index, value)| self.conversation(value, &format!("[{index}]"))).collect()
        } else {
            Ok(vec![self.conversation(value, "")?])
        }
    }

    fn conversation(&self, value: &Value, place: &str) -> Result<Messages> {
        let list = value.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| Error::input("expected a list of messages, at least one").at(place))?;
        let message = |(index, value)| self.message(value, &format!("{place}[{index}]"));
        list.iter().enumerate().map(message).collect::<Result<_>>().map(Messages)
    }

    fn message(&self, value: &Value, place: &str) -> Result<Message> {
        let object = value.as_object();
        let object =
            object.ok_or_else(|| Error::input("expected a message: {\"role\": …, \"content\": …}").at(place))?;
        let role = text_of(object, "role", place)?.to_owned();
        let content = match object.get("content") {
            Some(Value::String(text)) => vec![Content::text(text)],
            Some(Value::Array(blocks)) if !blocks.is_empty() => {
                let block = |(index, value)| self.block(value, &format!("{place}.content[{index}]"));
                blocks.iter().enumerate().map(block).collect::<Result<_>>()?
            }
            _ => return Err(Error::input("`content`: expected a string or a list of blocks, at least one").at(place)),
        };
        Ok(Message { role, content })
    }

    fn block(&self, value: &Value, place: &str) -> Result<Content> {
        let object = value.as_object();
        let object = object.ok_or_else(|| Error::input("expected a block: {\"type\": …}").at(place))?;
        match text_of(object, "type", place)? {
            "text" => Ok(Content::text(text_of(object, "text", place)?)),
            "image" => Ok(Content::Image(self.source(object, &IMAGE_KEYS, place)?)),
            "video" => Ok(Content::Video(self.source(object, &VIDEO_KEYS, place)?)),
            "image_url" => Ok(Content::Image(self.openai_source(object, place)?)),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(Error::input(format!("`type`: expected text, image, video or image_url, found {shown:?}"))
                    .at(place))
            }
        }
    }

    fn source(&self, object: &Map<String, Value>, keys: &[&str], place: &str) -> Result<MediaSource> {
        let mut present = keys.iter().filter(|key| object.get(**key).is_some_and(|value| !value.is_null()));
        let (Some(key), None) = (present.next(), present.next()) else {
            return Err(Error::input(format!("expected exactly one of {}", keys.join(", "))).at(place));
        };
        let text = text_of(object, key, place)?;
        if *key == "base64" {
            decoded(text, &format!("{place}.base64"))
        } else {
            Ok(MediaSource::parse(text, Some(self.base_dir)))
        }
    }

    fn openai_source(&self, object: &Map<String, Value>, place: &str) -> Result<MediaSource> {
        match object.get("image_url") {
            Some(Value::Object(inner)) => {
                Ok(MediaSource::parse(text_of(inner, "url", &format!("{place}.image_url"))?, Some(self.base_dir)))
            }
            _ => Ok(MediaSource::parse(text_of(object, "image_url", place)?, Some(self.base_dir))),
        }
    }
}

fn text_of<'a>(object: &'a Map<String, Value>, key: &str, place: &str) -> Result<&'a str> {
    let text = object.get(key).and_then(Value::as_str);
    text.ok_or_else(|| Error::input(format!("`{key}`: expected a string")).at(place))
}

/// The bytes of a picture that stands in the JSON itself, bare or as a `data:` URL.
fn decoded(text: &str, place: &str) -> Result<MediaSource> {
    if text.starts_with("data:") {
        return Ok(MediaSource::Url(text.to_owned()));
    }
    let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let data = BASE64_STANDARD.decode(compact);
    let data = data.map_err(|error| Error::input(format!("not base64: {error}")).at(place).caused_by(error))?;
    Ok(MediaSource::Bytes { name: place.to_owned(), data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(json: &str) -> Result<Messages> {
        parse(json, Path::new("base"), "chat.json").map(|mut all| all.remove(0))
    }

    #[test]
    fn a_list_of_messages_is_one_conversation_and_a_list_of_lists_several() {
        let one = r#"[{"role": "user", "content": "Hi"}]"#;
        assert_eq!(parse_one(one).unwrap(), Messages::new().user("Hi"));
        let batch = parse(&format!("[{one}, {one}]"), Path::new(""), "x").unwrap();
        assert_eq!(batch, [Messages::new().user("Hi"), Messages::new().user("Hi")]);
    }

    #[test]
    fn every_block_of_the_model_card_is_read() {
        let json = r#"[{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "image", "url": "https://x/a.png"},
            {"type": "image", "path": "a.png"}, {"type": "image", "image": "/a.png", "url": null},
            {"type": "image", "base64": "aGk="}, {"type": "video", "path": "a.mp4"},
            {"type": "video", "video": "frames"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]"#;
        let data = MediaSource::Bytes { name: "[0].content[4].base64".into(), data: b"hi"[..].into() };
        let expected = [
            Content::text("a"),
            Content::image("https://x/a.png"),
            Content::image("base/a.png"),
            Content::image("/a.png"),
            Content::Image(data),
            Content::video("base/a.mp4"),
            Content::video("base/frames"),
            Content::image("data:image/png;base64,aGk="),
        ];
        assert_eq!(parse_one(json).unwrap().0[0].content, expected);
    }

    #[test]
    fn errors_name_the_file_and_the_place_in_it() {
        for (json, place) in [
            ("{", "chat.json: not JSON"),
            ("[]", "chat.json: expected a list"),
            (r#"[[{"role": "user", "content": "a"}], []]"#, "chat.json: [1]: expected a list"),
            (r#"[7]"#, "chat.json: [0]: expected a message"),
            (r#"[{"content": "a"}]"#, "chat.json: [0]: `role`"),
            (r#"[{"role": "user", "content": null}]"#, "chat.json: [0]: `content`"),
            (r#"[{"role": "user", "content": []}]"#, "chat.json: [0]: `content`"),
            (
                r#"[{"role": "user", "content": [{"type": "audio"}]}]"#,
                "chat.json: [0].content[0]: `type`: expected text",
            ),
            (r#"[{"role": "user", "content": ["a"]}]"#, "chat.json: [0].content[0]: expected a block"),
            (
                r#"[{"role": "user", "content": [{"type": "image"}]}]"#,
                "chat.json: [0].content[0]: expected exactly one of",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}]"#,
                "chat.json: [0].content[0]: expected exactly one of",
            ),
            (
                r#"[[{"role": "user", "content": [{"type": "image", "base64": "%"}]}]]"#,
                "chat.json: [0][0].content[0].base64: not base64",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]"#,
                "chat.json: [0].content[0].image_url: `url`",
            ),
        ] {
            let error = parse_one(json).unwrap_err();
            assert!(error.to_string().starts_with(place), "{json}: {error}");
            assert_eq!(error.kind(), crate::ErrorKind::Input);
        }
    }
}
