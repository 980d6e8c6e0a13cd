//! One record as it lies in a file, whichever kind of file that is.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A tree of fields, from JSON or parquet. Only parquet has bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, or a field of a kind that no sample uses.
    Null,
    /// True or false.
    Bool(bool),
    /// A number, of whatever width.
    Number(f64),
    /// Words.
    Text(String),
    /// An encoded file.
    Bytes(Arc<[u8]>),
    /// Values in order.
    List(Vec<Value>),
    /// Named values in order.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The field called `name`, if this is an object that has one which is not null. Of several the last, as in Python.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        let found = fields.iter().rfind(|(key, _)| key == name).map(|(_, value)| value);
        found.filter(|value| !matches!(value, Self::Null))
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The list, if this is one.
    pub fn list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The whole number, if this is one that can count something.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::Number(number) if *number >= 0.0 && *number <= f64::from(u32::MAX) && number.fract() == 0.0 => {
                Some(*number as usize)
            }
            _ => None,
        }
    }

    /// What to call its kind in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Memory that it takes, about, in bytes.
    pub fn size(&self) -> u64 {
        let own = size_of::<Self>() as u64;
        own + match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::Text(text) => text.len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.iter().map(Self::size).sum(),
            Self::Object(fields) => {
                fields.iter().map(|(key, value)| (size_of::<String>() + key.len()) as u64 + value.size()).sum()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Value::Object(fields))
    }
}
