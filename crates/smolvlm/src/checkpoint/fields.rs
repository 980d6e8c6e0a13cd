//! Typed reading of JSON objects that name the file and the field when something is wrong.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::problems::{Problems, quoted};

/// One JSON object of a configuration file. A field that is absent or `null` takes the caller's default, as the
/// reference's configuration classes do; a field of the wrong type or size is noted and takes the default too, so that
/// one pass finds every fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    place: &'a str,
    object: Option<&'a Map<String, Value>>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which `place` names in messages (`"config.json"`, `"config.json: text_config."`).
    pub(super) fn new(place: &'a str, value: Option<&'a Value>, problems: &'a Problems) -> Self {
        let object = value.and_then(Value::as_object);
        if value.is_some_and(|value| !value.is_null()) && object.is_none() {
            let place = place.trim_end_matches([':', '.', ' ']);
            problems.add(format!("{place}: expected a JSON object, found {}", brief(value)));
        }
        Self { place, object, problems }
    }

    /// The field's value, unless it is absent or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|value| !value.is_null())
    }

    /// Notes that a field holds what it must not.
    pub(super) fn wrong(&self, key: &str, expected: &str, found: &str) {
        self.problems.add(format!("{}{key}: expected {expected}, found {found}", self.place));
    }

    /// An integer within `limits`, if the field is there.
    pub(super) fn optional_count(&self, key: &str, limits: RangeInclusive<usize>) -> Option<usize> {
        let value = self.get(key)?;
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| limits.contains(count));
        if count.is_none() {
            let expected = format!("an integer from {} to {}", limits.start(), limits.end());
            self.wrong(key, &expected, &brief(Some(value)));
        }
        count
    }

    /// An integer within `limits`.
    pub(super) fn count(&self, key: &str, default: usize, limits: RangeInclusive<usize>) -> usize {
        self.optional_count(key, limits).unwrap_or(default)
    }

    /// A number within `limits`, if the field is there.
    pub(super) fn optional_number(&self, key: &str, limits: RangeInclusive<f64>) -> Option<f32> {
        let value = self.get(key)?;
        let number = value.as_f64().filter(|number| limits.contains(number));
        if number.is_none() {
            let expected = format!("a number from {} to {}", limits.start(), limits.end());
            self.wrong(key, &expected, &brief(Some(value)));
        }
        number.map(|number| number as f32)
    }

    /// A number within `limits`.
    pub(super) fn number(&self, key: &str, default: f32, limits: RangeInclusive<f64>) -> f32 {
        self.optional_number(key, limits).unwrap_or(default)
    }

    /// True or false, if the field is there.
    pub(super) fn optional_flag(&self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(key, "true or false", &brief(Some(value)));
        }
        flag
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.optional_flag(key).unwrap_or(default)
    }

    /// Notes every field of `keys` that switches on what this engine does not compute.
    pub(super) fn must_be_off(&self, keys: &[&str]) {
        for key in keys {
            if self.flag(key, false) {
                self.wrong(key, "false (nothing else is implemented)", "true");
            }
        }
    }

    /// Notes a field that is there and is not one of the `accepted` strings.
    pub(super) fn must_be_one_of(&self, key: &str, accepted: &[&str]) {
        if let Some(value) = self.get(key)
            && !value.as_str().is_some_and(|text| accepted.contains(&text))
        {
            let expected = format!("\"{}\" (nothing else is implemented)", accepted.join("\" or \""));
            self.wrong(key, &expected, &brief(Some(value)));
        }
    }
}

/// A value as a message shows it.
pub(super) fn brief(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Array(items)) => format!("a list of {}", items.len()),
        Some(Value::Object(fields)) => format!("an object of {} fields", fields.len()),
        Some(value) => quoted(&value.to_string()),
    }
}
