//! A model on disk: a folder as published on the Hugging Face hub.
//!
//! [`hub::resolve`] turns a folder or a hub id into a folder; [`Checkpoint::open`] reads its configuration and maps its
//! weights; [`Checkpoint::validate`] says whether the two belong together.

mod config;
mod destination;
mod fields;
mod files;
mod generation;
pub mod hub;
mod memory;
pub mod names;
pub(crate) mod packed;
mod problems;
mod shards;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;
mod validate;

use std::path::{Path, PathBuf};

use serde_json::Value;
use smolvlm_kernels::Format;
use smolvlm_kernels::packed::{PackedMatrix, PackedShape};

pub use self::config::{ModelConfig, TextConfig, VisionConfig};
pub use self::destination::{Destination, Replace, is_weights};
pub(crate) use self::files::{read_json, read_text, tokenizer_path};
pub use self::generation::GenerationDefaults;
pub use self::memory::{MemoryEstimate, memory_estimate};
pub use self::tensor::{StoredDtype, StoredTensor};

use self::problems::{Problems, quoted};
pub(crate) use self::shards::{INDEX, SINGLE, read_header};
use self::shards::{Location, Weights};
use crate::adapter::AdapterFile;
use crate::{Error, Result};

/// An open checkpoint. Weights stay in their files until they are touched.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    generation: GenerationDefaults,
    weights: Weights,
    adapter: Option<AdapterFile>,
}

impl Checkpoint {
    /// Reads the configuration in `dir` and the headers of its weight files, and maps the latter.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when a file is missing or broken, or when configuration files contradict
    /// themselves or each other. Whether the weights fit the configuration is [`Self::validate`]'s to say.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::checkpoint(format!("{}: expected a folder with config.json", dir.display())));
        }
        let here = |error: Error| error.at(dir.display());
        let Some(json) = files::read_json(dir, "config.json")? else {
            return Err(here(Error::checkpoint("expected config.json, found none")));
        };
        let config = ModelConfig::from_json(&json).map_err(here)?;
        let generation = files::read_json(dir, "generation_config.json")?;
        let generation = GenerationDefaults::from_json(generation.as_ref(), &json, config.text.vocab).map_err(here)?;
        check_processor(dir, &config)?;
        let weights = Weights::open(dir)?;
        Ok(Self { dir: dir.to_owned(), config, generation, weights, adapter: None })
    }

    /// As [`with_adapter`](Self::with_adapter), of the adapter in a folder, if one is named.
    ///
    /// # Errors
    /// Beside that, as [`AdapterFile::read`].
    pub fn with_adapter_in(self, folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { return Ok(self) };
        self.with_adapter(AdapterFile::read(folder)?).map_err(|error| error.at(folder.display()))
    }

    /// The same with an adapter folded into its weights, in single precision, whenever a model is loaded, packed or saved from it.
    /// (What [`tensor`](Self::tensor) returns stays as it lies in its file.)
    ///
    /// # Errors
    /// As [`AdapterFile::check_fits`].
    pub fn with_adapter(mut self, adapter: AdapterFile) -> Result<Self> {
        adapter.check_fits(&self)?;
        self.adapter = Some(adapter);
        Ok(self)
    }

    /// The adapter that is folded in.
    pub fn adapter(&self) -> Option<&AdapterFile> {
        self.adapter.as_ref()
    }

    /// Whether the adapter changes the tensor `name`. (Of a tied pair, the head alone can have one.)
    pub fn is_adapted(&self, name: &str) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.of_tensor(name).is_some())
    }

    /// All numbers of the tensor `name`, the adapter folded in.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let mut numbers = self.tensor(name)?.to_f32();
        if let Some((adapter, matrices)) = self.adapter.as_ref().and_then(|known| Some((known, known.of_tensor(name)?)))
        {
            matrices.fold(&mut numbers, adapter.options.scaling());
        }
        Ok(numbers)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The sampling settings the checkpoint brings along.
    pub fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// The JSON in `file`; nothing when the folder has no such file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when the file is above 64 MiB, unreadable, or not JSON.
    pub fn json(&self, file: &str) -> Result<Option<Value>> {
        files::read_json(&self.dir, file)
    }

    /// The text of `file`; nothing when the folder has no such file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when the file is above 64 MiB, unreadable, or not UTF-8.
    pub fn text(&self, file: &str) -> Result<Option<String>> {
        files::read_text(&self.dir, file)
    }

    /// Where `tokenizer.json` is.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when there is none, or it is empty, above 64 MiB or no file.
    pub fn tokenizer_path(&self) -> Result<PathBuf> {
        files::tokenizer_path(&self.dir)
    }

    /// The format the weights are in: what `config.json` says, else that of the first weight stored in one (the
    /// reference's `dtype="auto"`).
    pub fn stored_dtype(&self) -> Option<StoredDtype> {
        let first = || self.weights.tensors.values().find_map(|at| StoredDtype::from_safetensors(at.dtype));
        self.config.stored_dtype.or_else(first)
    }

    /// Size of all weights in their files, in bytes.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.tensors.values().map(|at| at.range.len() as u64).sum()
    }

    /// The number format that the weights are packed in (by `smolvlm quantize`); nothing for published ones. Packed
    /// weights can be used in no other.
    pub fn packed_as(&self) -> Option<Format> {
        self.weights.packing.as_ref().map(|packing| packing.dtype)
    }

    /// Whether its weights can be used in `dtype`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] when they are packed in another.
    pub fn accepts(&self, dtype: Format) -> Result<()> {
        match self.packed_as() {
            Some(packed) if packed != dtype => Err(Error::usage(format!(
                "its weights are packed as {}; for {}, leave the number format out or give the original checkpoint",
                packed.name(),
                dtype.name()
            ))),
            _ => Ok(()),
        }
    }

    /// A matrix of a packed checkpoint, where it is mapped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when there is none of that name, or it is no matrix of that shape.
    pub fn packed(&self, name: &str, shape: PackedShape) -> Result<PackedMatrix> {
        let Some(at) = self.weights.tensors.get(name) else {
            return Err(Error::checkpoint(format!("{}: no packed matrix {}", self.dir.display(), quoted(name))));
        };
        let shard = &self.weights.shards[at.shard];
        PackedMatrix::new(shape, shard.map.clone(), at.range.clone()).ok_or_else(|| {
            let (file, range) = (&shard.file, &at.range);
            Error::checkpoint(format!("{file}: {name}: expected {shape:?}, found bytes {range:?}"))
        })
    }

    /// Whether the head is the embedding table: `tie_word_embeddings`, and no head of its own is stored or made by an adapter.
    /// (When both are there, the reference uses the stored head.)
    pub fn head_is_tied(&self) -> bool {
        if self.is_adapted(names::HEAD) {
            return false;
        }
        let stored = || self.weights.tensors.contains_key(names::HEAD);
        self.config.tie_embeddings
            && self.weights.packing.as_ref().map_or_else(|| !stored(), |packing| packing.tied_head)
    }

    /// The names of all tensors, in this engine's layout and alphabetical.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.weights.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name` in the layout of `SmolVLMForConditionalGeneration`, whatever its file calls it. A tied
    /// head is the embedding table, under the table's name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] when it is missing or in a format other than f32, bf16 and f16.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        let Some((name, at)) = self.locate_named(name) else {
            return Err(Error::checkpoint(format!("{}: no tensor {}", self.dir.display(), quoted(name))));
        };
        let shard = &self.weights.shards[at.shard];
        let Some(dtype) = StoredDtype::from_safetensors(at.dtype) else {
            let (file, found) = (&shard.file, at.dtype);
            return Err(Error::checkpoint(format!("{file}: {name}: expected f32, bf16 or f16, found {found}")));
        };
        Ok(StoredTensor { name, dtype, shape: &at.shape, bytes: &shard.map.bytes()[at.range.clone()] })
    }

    /// Hands the memory that reading `name` took back to the system, for a caller that has made its own copy. Reading
    /// it again fetches it from the file again.
    pub fn release(&self, name: &str) {
        if let Some(at) = self.locate(name) {
            self.weights.shards[at.shard].map.release(at.range.clone());
        }
    }

    /// Compares the weights with the configuration.
    ///
    /// # Errors
    /// One [`crate::ErrorKind::Checkpoint`] that lists every missing, unexpected and repeated tensor and every wrong
    /// shape and format; the first twenty in full, the others as a number.
    pub fn validate(&self) -> Result<()> {
        validate::validate(self)
    }

    fn locate(&self, name: &str) -> Option<&Location> {
        self.locate_named(name).map(|(_, location)| location)
    }

    /// As transformers' `tie_weights`: of a tied pair, either may stand in for the other.
    fn locate_named(&self, name: &str) -> Option<(&str, &Location)> {
        let twin = match name {
            names::HEAD => names::EMBEDDING,
            names::EMBEDDING => names::HEAD,
            _ => name,
        };
        let tensors = &self.weights.tensors;
        let found = tensors.get_key_value(name);
        let found = found.or_else(|| self.config.tie_embeddings.then(|| tensors.get_key_value(twin)).flatten());
        found.map(|(name, location)| (name.as_str(), location))
    }
}

/// Name and shape of every tensor that a model of these dimensions has, in the order in which they are used and in the layout of
/// `SmolVLMForConditionalGeneration`; a tied head is left out.
pub fn tensor_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let shape = |tensor: &names::Expected| tensor.shape.iter().map(|dim| dim.size).collect();
    names::expected(config).into_iter().map(|tensor| (tensor.name.clone(), shape(&tensor))).collect()
}

/// Whether the weight files in `dir` can be read and are packed.
pub(crate) fn is_packed_folder(dir: &Path) -> bool {
    Weights::open(dir).is_ok_and(|weights| weights.packing.is_some())
}

/// The processor repeats how many tokens a tile becomes; a prompt built with another number would not fit the model.
fn check_processor(dir: &Path, config: &ModelConfig) -> Result<()> {
    let problems = Problems::default();
    let json = files::read_json(dir, "processor_config.json")?;
    let fields = fields::Fields::new("processor_config.json: ", json.as_ref(), &problems);
    let (found, tokens) = (fields.optional_count("image_seq_len", 1..=usize::MAX), config.tokens_per_tile());
    if let Some(found) = found
        && found != tokens
    {
        let expected = format!("{tokens} ((image_size / patch_size / scale_factor)² of config.json)");
        fields.wrong("image_seq_len", &expected, &found.to_string());
    }
    problems.into_result(&format!("{}: the configuration is not usable", dir.display()))
}

#[cfg(test)]
mod tests;
