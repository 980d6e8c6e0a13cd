//! What a run's file says of its data.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::data::{Entry, Mixture};
use crate::{Error, Result};

/// The name of a mixture or of records, or a mixture in place, or its entries alone.
#[derive(Debug, Clone, PartialEq)]
pub enum DataConfig {
    /// A mixture (`.yaml`, `.yml`), or a file or folder of records.
    Path(PathBuf),
    /// A mixture in place.
    Mixture(Mixture),
}

impl DataConfig {
    /// The same with relative paths below `folder`.
    #[must_use]
    pub(super) fn below(self, folder: &Path) -> Self {
        match self {
            Self::Path(path) => Self::Path(folder.join(path)),
            Self::Mixture(mixture) => Self::Mixture(mixture.below(folder)),
        }
    }

    /// The mixture that it is.
    ///
    /// # Errors
    /// An input error when a mixture file cannot be read or is wrong.
    pub fn mixture(&self) -> Result<Mixture> {
        match self {
            Self::Path(path) if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") => {
                Mixture::from_file(path)
            }
            Self::Path(path) => Ok(Mixture::of(path)),
            Self::Mixture(mixture) => Ok(mixture.clone()),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Path(path) if path.as_os_str().is_empty() => Err(Error::usage("expected a path, found none")),
            Self::Path(_) => Ok(()),
            Self::Mixture(mixture) => mixture.check(),
        }
    }
}

impl<'de> Deserialize<'de> for DataConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

/// The three ways to write it down.
struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = DataConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, a list of entries, or a mixture")
    }

    fn visit_str<E>(self, path: &str) -> Result<DataConfig, E> {
        Ok(DataConfig::Path(path.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<DataConfig, A::Error> {
        let datasets = Vec::<Entry>::deserialize(SeqAccessDeserializer::new(entries))?;
        Ok(DataConfig::Mixture(Mixture { media_root: None, samples_per_epoch: None, seed: 0, datasets }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mixture: A) -> Result<DataConfig, A::Error> {
        Mixture::deserialize(MapAccessDeserializer::new(mixture)).map(DataConfig::Mixture)
    }
}
