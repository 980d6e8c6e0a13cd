//! Reading settings out of a JSON object, with errors that name the file and the field.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// One JSON object of settings. A field that is absent or null has the library's default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which was read from `place` (a file, or a section of one).
    pub(super) fn of(value: &'a Value, place: &'a str) -> Result<Self> {
        match value.as_object() {
            Some(object) => Ok(Self { object, place }),
            None => Err(Error::checkpoint(format!("{place}: expected an object, found {}", kind_of(value)))),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn section(&self, name: &str) -> Result<Option<Self>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(name, "an object", value))?;
        Ok(Some(Self { object, place: self.place }))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, "true or false", value))
    }

    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(name, "a number", value))
    }

    /// A whole number from `1` to `most`.
    pub(super) fn count(&self, name: &str, default: usize, most: usize) -> Result<usize> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        let in_range = count.filter(|count| (1..=most).contains(count));
        in_range.ok_or_else(|| self.wrong(name, &format!("a whole number from 1 to {most}"), value))
    }

    /// `{"longest_edge": n}`, as `size`, `max_image_size` and `video_size` are published.
    pub(super) fn longest_edge(&self, name: &str, default: usize, most: usize) -> Result<usize> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let edge = value.get("longest_edge").and_then(Value::as_u64).and_then(|edge| usize::try_from(edge).ok());
        let in_range = edge.filter(|edge| (1..=most).contains(edge));
        let expected = format!("{{\"longest_edge\": n}} with n from 1 to {most}");
        in_range.ok_or_else(|| self.wrong(name, &expected, value))
    }

    /// Three numbers, or one that stands for all three.
    pub(super) fn per_channel(&self, name: &str, default: f64) -> Result<[f64; 3]> {
        let Some(value) = self.get(name) else { return Ok([default; 3]) };
        if let Some(number) = value.as_f64() {
            return Ok([number; 3]);
        }
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
        three.ok_or_else(|| self.wrong(name, "three numbers", value))
    }

    /// The error of a field that holds something else than `expected`.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: &Value) -> Error {
        let mut shown = found.to_string();
        if let Some((cut, _)) = shown.char_indices().nth(80) {
            shown.truncate(cut);
            shown.push('…');
        }
        Error::checkpoint(format!("{}: `{name}`: expected {expected}, found {shown}", self.place))
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
