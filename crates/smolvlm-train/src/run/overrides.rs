//! Values in place of those in a run's file.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result, yaml};

/// One value of a run's file: `key=value`, or `key.inner=value`; the value is YAML.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    keys: Vec<String>,
    value: Value,
}

impl Override {
    /// `value` at `key`, whose parts are joined by dots.
    ///
    /// # Errors
    /// A usage error for a key with an empty part.
    pub fn new(key: &str, value: impl Into<Value>) -> Result<Self> {
        let keys: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(Error::usage(format!("expected a key such as `steps` or `schedule.warmup`, found {key:?}")));
        }
        Ok(Self { keys, value: value.into() })
    }

    /// Reads `key=value`.
    ///
    /// # Errors
    /// A usage error that shows the text.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Error::usage(format!("expected KEY=VALUE, found {text:?}")));
        };
        let value: Value = yaml::parse(value).map_err(|error| Error::usage(format!("{text}: {error}")))?;
        Self::new(key, value)
    }

    fn name(&self) -> String {
        self.keys.join(".")
    }

    /// Puts the value in its place; mappings that are missing are made.
    fn apply(&self, root: &mut Value) -> Result<()> {
        let mut at = root;
        for (depth, key) in self.keys.iter().enumerate() {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            let found = at.to_string();
            let Some(fields) = at.as_object_mut() else {
                let place = self.keys[..depth].join(".");
                return Err(Error::usage(format!("{}: expected a mapping at {place}, found {found}", self.name())));
            };
            at = fields.entry(key.clone()).or_insert(Value::Null);
        }
        *at = self.value.clone();
        Ok(())
    }
}

/// What a file says, but for `overrides`, of which the last counts. Without any, mistakes are named by line.
///
/// # Errors
/// An input error for a mistake in the file, a usage error for one in an override, by its key.
pub(super) fn read<T: DeserializeOwned>(path: &Path, overrides: &[Override]) -> Result<T> {
    let text = yaml::read(path)?;
    let here = |error: Error| error.at(path.display());
    if overrides.is_empty() {
        return yaml::parse(&text).map_err(here);
    }
    let mut value: Value = yaml::parse(&text).map_err(here)?;
    let typed = |value: &Value| serde_json::from_value::<T>(value.clone());
    let mut was_right = typed(&value).is_ok();
    for over in overrides {
        over.apply(&mut value)?;
        match typed(&value) {
            Err(error) if was_right => {
                return Err(Error::usage(format!("{}={}: {error}", over.name(), over.value)).caused_by(error));
            }
            typed => was_right = typed.is_ok(),
        }
    }
    typed(&value).map_err(|error| here(Error::input(error.to_string()).caused_by(error)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        steps: u64,
        #[serde(default)]
        schedule: Option<std::collections::BTreeMap<String, f64>>,
    }

    fn settings(text: &str, overrides: &[&str]) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        std::fs::write(&path, text).unwrap();
        let overrides: Result<Vec<_>> = overrides.iter().map(|text| Override::parse(text)).collect();
        read(&path, &overrides?)
    }

    #[test]
    fn the_last_value_of_a_key_counts_and_mappings_are_made() {
        let found = settings("steps: 1", &["steps=2", "schedule.warmup=1e-3", "steps=3"]).unwrap();
        assert_eq!((found.steps, found.schedule.unwrap()["warmup"]), (3, 1e-3));
        assert_eq!(settings("schedule: {warmup: 2}", &["steps=4"]).unwrap().steps, 4);
        assert_eq!(settings("steps: 1\nschedule: {warmup: 2}", &["schedule=null"]).unwrap().schedule, None);
    }

    #[test]
    fn a_wrong_override_is_named() {
        for (overrides, expected) in [
            (&["steps"][..], "KEY=VALUE"),
            (&["=3"], "expected a key"),
            (&["steps.most=3"], "expected a mapping at steps, found 1"),
            (&["steps=many"], "steps=\"many\": invalid type"),
            (&["steps=2", "speed=3"], "speed=3: unknown field"),
        ] {
            let error = settings("steps: 1", overrides).unwrap_err();
            assert!(error.to_string().contains(expected), "{overrides:?}: {error}");
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
        }
    }
}
