//! Trained weights, or an adapter's, as an ordinary checkpoint folder.

mod tensor;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use smolvlm::checkpoint::names::HEAD;
use smolvlm::checkpoint::{Checkpoint, Destination, Replace, StoredDtype};
use smolvlm_kernels::{CpuBackend, TrainBackend};

use crate::files::failed;
use crate::lora::AdapterFile;
use crate::parameters::{Kind, Parameter};
use crate::taped::Taped;
use crate::{Error, Result};
use tensor::{Numbers, Tensor};

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const CONFIG: &str = "config.json";
/// Whether head and table are one.
const TIED: &str = "tie_word_embeddings";

/// Writes the checkpoint that was loaded, with the weights that were learned, to the new folder `place`: beside it, then
/// renamed. Tensors have the names and shapes of `SmolVLMForConditionalGeneration` and the number formats they were loaded
/// from, or all `dtype`; every other file (tokenizer, templates, processor) is copied. A tied head stays tied unless an adapter
/// changes it, and adapters are merged.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when `place` is there and is no empty folder, or the source is packed;
/// [`Input`](crate::ErrorKind::Input) when files cannot be written, [`Checkpoint`](crate::ErrorKind::Checkpoint) when the source is broken.
pub fn save_checkpoint<B: TrainBackend>(
    source: &Checkpoint,
    taped: &Taped<B>,
    place: &Path,
    dtype: Option<StoredDtype>,
) -> Result<()> {
    check_source(source)?;
    let places = places(source, &taped.parameters())?;
    let learned = Learned { backend: Some(taped.inner()), places, adapter: taped.adapter_file("") };
    let destination = Destination::begin_again(place)?;
    save(source, &learned, destination, dtype, &mut |_| {}).map(|_| ())
}

/// How an adapter is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeOptions {
    /// The number format of all tensors; none: each keeps its own.
    pub dtype: Option<StoredDtype>,
    /// Whether a checkpoint in the same place is replaced.
    pub replace: bool,
}

/// How far a merge has come, in bytes of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeProgress {
    /// Written.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// What a merge wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The new folder.
    pub folder: PathBuf,
    /// Bytes of its weights.
    pub weight_bytes: u64,
}

/// As [`save_checkpoint`], of a validated checkpoint with an adapter that was trained on it: its weights become
/// `W + scaling · B · A`, with DoRA's rows brought to their lengths, computed in f64 and rounded once.
///
/// # Errors
/// As [`save_checkpoint`]; [`Input`](crate::ErrorKind::Input) when the adapter belongs to another checkpoint;
/// [`Usage`](crate::ErrorKind::Usage) when `place` is the source itself.
pub fn merge_adapter(
    source: &Checkpoint,
    adapter: &AdapterFile,
    place: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(MergeProgress),
) -> Result<Merged> {
    check_source(source)?;
    adapter.check_fits(source)?;
    if fs::canonicalize(place).is_ok_and(|place| fs::canonicalize(source.dir()).is_ok_and(|source| source == place)) {
        return Err(Error::usage(format!("{}: is the checkpoint itself; give another folder", place.display())));
    }
    let destination = Destination::begin(place, if options.replace { Replace::Checkpoint } else { Replace::Nothing })?;
    let learned: Learned<'_, CpuBackend> =
        Learned { backend: None, places: HashMap::new(), adapter: Some(adapter.clone()) };
    save(source, &learned, destination, options.dtype, progress)
}

fn check_source(source: &Checkpoint) -> Result<()> {
    let Some(packed) = source.packed_as() else { return Ok(()) };
    let (place, packed) = (source.dir().display(), packed.name());
    Err(Error::usage(format!("{place}: its weights are packed as {packed}; give the original checkpoint")))
}

fn save<B: TrainBackend>(
    source: &Checkpoint,
    learned: &Learned<'_, B>,
    destination: Destination,
    dtype: Option<StoredDtype>,
    progress: &mut dyn FnMut(MergeProgress),
) -> Result<Merged> {
    let weight_bytes = write_weights(source, learned, &destination.folder().join(WEIGHTS), dtype, progress)?;
    destination.copy_from(source.dir())?;
    if let Some(config) = changed_config(source, dtype, learned.unties(source))? {
        destination.write(CONFIG, format!("{config:#}\n").as_bytes())?;
    }
    Ok(Merged { folder: destination.finish()?, weight_bytes })
}

/// Writes every tensor, and a head of its own where an adapter makes one; returns their bytes.
fn write_weights<B: TrainBackend>(
    source: &Checkpoint,
    learned: &Learned<'_, B>,
    path: &Path,
    dtype: Option<StoredDtype>,
    progress: &mut dyn FnMut(MergeProgress),
) -> Result<u64> {
    let head = learned.unties(source).then_some(HEAD);
    let names: Vec<&str> = source.tensor_names().chain(head).collect();
    let bytes = |name: &&str| {
        let tensor = source.tensor(name)?;
        Ok((tensor.shape.iter().product::<usize>() * dtype.unwrap_or(tensor.dtype).size()) as u64)
    };
    let total = names.iter().map(bytes).sum::<Result<u64>>()?;
    let (done, progress) = (Cell::new(0), RefCell::new(progress));
    let fetched = |bytes: usize| {
        done.set(done.get() + bytes as u64);
        (progress.borrow_mut())(MergeProgress { done: done.get(), total });
    };
    let tensors: Vec<(&str, Tensor<'_, B>)> =
        names.iter().map(|name| Ok((*name, learned.tensor(source, name, dtype, &fetched)?))).collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|error| Error::input(format!("{}: cannot be written: {error}", path.display())).caused_by(error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path, "written", error))?;
    Ok(total)
}

/// The parameter of a learned tensor, and its first number there.
type Places<B> = HashMap<String, (Arc<Parameter<B>>, usize)>;

/// What is different from the source.
struct Learned<'a, B: TrainBackend> {
    backend: Option<&'a B>,
    places: Places<B>,
    adapter: Option<AdapterFile>,
}

impl<B: TrainBackend> Learned<'_, B> {
    /// Whether the head is no longer its table.
    fn unties(&self, source: &Checkpoint) -> bool {
        let adapted = self.adapter.as_ref().is_some_and(|adapter| adapter.of_tensor(HEAD).is_some());
        (adapted || source.is_adapted(HEAD)) && !source.tensor_names().any(|name| name == HEAD)
    }

    /// One tensor as it is to be stored.
    fn tensor<'t>(
        &'t self,
        source: &'t Checkpoint,
        name: &'t str,
        dtype: Option<StoredDtype>,
        fetched: &'t dyn Fn(usize),
    ) -> Result<Tensor<'t, B>> {
        let stored = source.tensor(name)?;
        let to = dtype.unwrap_or(stored.dtype);
        // A tied head goes by its table's name.
        let mut numbers = match (self.places.get(stored.name), self.backend) {
            (Some((parameter, first)), Some(backend)) => Numbers::Learned(backend, parameter.clone(), *first),
            _ if to == stored.dtype && !source.is_adapted(name) => Numbers::Bytes(stored),
            _ => Numbers::Stored(source, name),
        };
        if let Some((adapter, matrices)) = self.adapter.as_ref().and_then(|known| Some((known, known.of_tensor(name)?)))
        {
            numbers = Numbers::Merged(Box::new(numbers), matrices, adapter.options.scaling());
        }
        Ok(Tensor { shape: stored.shape.to_vec(), dtype: to, numbers, fetched })
    }
}

/// Which numbers of which parameter each learned tensor is.
fn places<B: TrainBackend>(source: &Checkpoint, parameters: &[Arc<Parameter<B>>]) -> Result<Places<B>> {
    let mut places = HashMap::new();
    for parameter in parameters.iter().filter(|parameter| !matches!(parameter.kind(), Kind::Adapter | Kind::Magnitude))
    {
        let mut first = 0;
        for name in parameter.names() {
            places.insert(name.clone(), (parameter.clone(), first));
            first += source.tensor(name)?.shape.iter().product::<usize>();
        }
        if first != parameter.len() {
            let (names, len) = (parameter.names().join(", "), parameter.len());
            return Err(Error::internal(format!("{names}: {len} numbers were learned, the checkpoint has {first}")));
        }
    }
    Ok(places)
}

/// `config.json` with the new number format, and a head of its own, if there is either.
fn changed_config(source: &Checkpoint, dtype: Option<StoredDtype>, unties: bool) -> Result<Option<Value>> {
    if dtype.is_none() && !unties {
        return Ok(None);
    }
    let Some(mut config) = source.json(CONFIG)? else { return Ok(None) };
    if let (Some(dtype), Some(fields)) = (dtype, config.as_object_mut()) {
        let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        fields.insert(key.to_owned(), name_in_config(dtype).into());
    }
    if unties {
        config[TIED] = false.into();
        if let Some(tied) = config.get_mut("text_config").and_then(|text| text.get_mut(TIED)) {
            *tied = false.into();
        }
    }
    Ok(Some(config))
}

fn name_in_config(dtype: StoredDtype) -> &'static str {
    match dtype {
        StoredDtype::F32 => "float32",
        StoredDtype::Bf16 => "bfloat16",
        StoredDtype::F16 => "float16",
    }
}
