//! Which files are learned from, how much of each, and how often.
//!
//! ```yaml
//! media_root: images            # for entries that name none; relative to this file
//! samples_per_epoch: 100000     # only with weights; else every selected sample once
//! seed: 0                       # which samples `random` selects
//! datasets:
//!   - path: captions.jsonl      # also a list, a folder, or a name with *; `json_path` as in LLaVA
//!     sampling: random:10%      # all, first:N, first:P%, end:N, end:P%, random:N, random:P%
//!     cap: 5000                 # at most so many
//!     weight: 2.5               # share of an epoch, beside those of the others
//!   - scenes: {seed: 1}         # in place of a path: drawn, not read; new ones in every epoch
//!     cap: 50000                # so many in an epoch, where there are no weights
//! ```

mod sampling;

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub(super) use self::sampling::Selection;
pub use self::sampling::{Sampling, Share};
use super::forms::Form;
use crate::{Error, Result, yaml};

/// What an epoch is made of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// The folder of media, for entries that name none; else that of their file.
    #[serde(default)]
    pub media_root: Option<PathBuf>,
    /// Samples of one epoch, shared out by weight; none: as many as are selected.
    #[serde(default)]
    pub samples_per_epoch: Option<u64>,
    /// Which samples `random` selects.
    #[serde(default)]
    pub seed: u64,
    /// At least one.
    pub datasets: Vec<Entry>,
}

/// One set of files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What to call it in tables; none: its path.
    #[serde(default)]
    pub name: Option<String>,
    /// A file, a folder, a file name with `*`, or a list of these.
    #[serde(default, alias = "json_path")]
    pub path: Paths,
    /// In place of files: the settings of what draws samples, which whoever opens the mixture understands.
    #[serde(default)]
    pub scenes: Option<serde_json::Value>,
    /// The key of the conversation; none: each record tells.
    #[serde(default)]
    pub form: Option<Form>,
    /// The folder that names of media start at.
    #[serde(default, alias = "image_folder", alias = "video_folder")]
    pub media_root: Option<PathBuf>,
    /// Whether names of media may lead out of the media root.
    #[serde(default)]
    pub trust_paths: bool,
    /// Which of the records are used.
    #[serde(default, alias = "sampling_strategy")]
    pub sampling: Sampling,
    /// Most records used.
    #[serde(default)]
    pub cap: Option<u64>,
    /// Share of an epoch. All entries have one, or none has.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// One path or several.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// One.
    One(PathBuf),
    /// Several, in order.
    Many(Vec<PathBuf>),
}

impl Default for Paths {
    /// None.
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Paths {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, PathBuf> {
        match self {
            Self::One(path) => std::slice::from_ref(path).iter(),
            Self::Many(paths) => paths.iter(),
        }
    }
}

impl Entry {
    /// All of `path`, as it is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            path: Paths::One(path.into()),
            scenes: None,
            form: None,
            media_root: None,
            trust_paths: false,
            sampling: Sampling::All,
            cap: None,
            weight: None,
        }
    }

    /// Files or a drawing, and what belongs to files alone with files alone.
    fn check_source(&self) -> Result<()> {
        let has_path = self.path.iter().next().is_some();
        if self.scenes.is_none() && !has_path {
            return Err(Error::input("`path`: expected at least one, or `scenes`"));
        }
        let of_files = self.form.is_some() || self.media_root.is_some() || self.sampling != Sampling::All;
        if self.scenes.is_some() && (has_path || of_files) {
            return Err(Error::input("`scenes`: expected no `path`, `form`, `media_root` or `sampling` beside it"));
        }
        Ok(())
    }

    /// What to call it.
    pub fn title(&self) -> String {
        let path = || self.path.iter().next().map(|path| path.display().to_string());
        self.name.clone().or_else(path).unwrap_or_else(|| "scenes".to_owned())
    }
}

impl Mixture {
    /// One set of files, all of it.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self { media_root: None, samples_per_epoch: None, seed: 0, datasets: vec![Entry::new(path)] }
    }

    /// Reads a mixture file. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// An input error that names the line: unknown keys, wrong types, values out of range.
    pub fn from_file(path: &Path) -> Result<Self> {
        let mixture = Self::from_yaml(&yaml::read(path)?).map_err(|error| error.at(path.display()))?;
        Ok(mixture.below(path.parent().unwrap_or(Path::new(""))))
    }

    /// Reads a mixture.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_yaml(text: &str) -> Result<Self> {
        let mixture: Self = yaml::parse(text)?;
        mixture.check()?;
        Ok(mixture)
    }

    /// The same mixture with its relative paths below `folder`.
    #[must_use]
    pub fn below(mut self, folder: &Path) -> Self {
        let join = |path: &mut PathBuf| *path = folder.join(&*path);
        self.media_root.as_mut().map(join);
        for entry in &mut self.datasets {
            entry.media_root.as_mut().map(join);
            match &mut entry.path {
                Paths::One(path) => join(path),
                Paths::Many(paths) => paths.iter_mut().for_each(join),
            }
        }
        self
    }

    /// Whether the entries have weights.
    pub fn is_weighted(&self) -> bool {
        self.datasets.iter().any(|entry| entry.weight.is_some())
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.datasets.is_empty() {
            return Err(Error::input("`datasets`: expected at least one entry"));
        }
        for (index, entry) in self.datasets.iter().enumerate() {
            let here = |error: Error| error.at(format!("datasets[{index}]"));
            entry.check_source().map_err(here)?;
            if entry.cap == Some(0) {
                return Err(here(Error::input("`cap`: expected at least 1; leave the entry out instead")));
            }
            match entry.weight {
                Some(weight) if !(weight > 0.0 && weight.is_finite()) => {
                    return Err(here(Error::input(format!("`weight`: expected a number above 0, found {weight}"))));
                }
                None if self.is_weighted() => {
                    return Err(here(Error::input("`weight`: expected one, as other entries have; give all or none")));
                }
                _ => {}
            }
        }
        match self.samples_per_epoch {
            Some(0) => Err(Error::input("`samples_per_epoch`: expected at least 1")),
            Some(_) if !self.is_weighted() => {
                Err(Error::input("`samples_per_epoch`: only weighted entries share an epoch; give each a `weight`"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llavas_own_files_are_read() {
        let text = "datasets:\n- json_path: a.json\n  sampling_strategy: first:10%\n- json_path: b.json\n  sampling_strategy: all\n";
        let mixture = Mixture::from_yaml(text).unwrap().below(Path::new("/data"));
        assert_eq!(mixture.datasets[0].path, Paths::One("/data/a.json".into()));
        assert_eq!(mixture.datasets[0].sampling, "first:10%".parse().unwrap());
        assert_eq!(mixture.datasets[1], Entry::new("/data/b.json"));
    }

    #[test]
    fn every_key_is_read() {
        let text = "media_root: m\nsamples_per_epoch: 10\nseed: 3\ndatasets:\n- {name: x, path: [a, b], form: conversations, \
                    media_root: n, trust_paths: true, sampling: end:3, cap: 2, weight: 0.5}\n";
        let mixture = Mixture::from_yaml(text).unwrap();
        let entry = &mixture.datasets[0];
        assert_eq!(
            (mixture.samples_per_epoch, mixture.seed, entry.cap, entry.weight),
            (Some(10), 3, Some(2), Some(0.5))
        );
        assert_eq!((entry.form, entry.trust_paths), (Some(Form::Conversations), true));
        assert_eq!(entry.path, Paths::Many(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn mistakes_are_named() {
        let entry = |rest: &str| format!("datasets:\n- path: a\n  {rest}\n");
        for (text, message) in [
            ("".to_owned(), ""),
            ("datasets: []".to_owned(), "`datasets`: expected at least one"),
            ("datasets:\n- name: x\n".to_owned(), "path"),
            ("data: []".to_owned(), "data"),
            (entry("wieght: 1"), "wieght"),
            (entry("weight: -1"), "datasets[0]: `weight`: expected a number above 0"),
            (entry("weight: .nan"), "datasets[0]: `weight`"),
            (entry("cap: 0"), "`cap`"),
            (entry("cap: -4"), ""),
            (entry("sampling: first"), "sampling"),
            (entry("form: chat"), "form"),
            (entry("weight: 1\n- path: b"), "datasets[1]: `weight`: expected one"),
            (format!("samples_per_epoch: 5\n{}", entry("cap: 1")), "only weighted"),
            ("datasets:\n- path: []\n".to_owned(), "`path`: expected at least one"),
            ("datasets: [\n".to_owned(), ""),
        ] {
            let error = Mixture::from_yaml(&text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        text.push_str("datasets: *a11\n");
        assert!(Mixture::from_yaml(&text).is_err());
    }
}
