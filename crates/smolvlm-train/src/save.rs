//! Trained weights as an ordinary checkpoint folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};
use smolvlm::checkpoint::{Checkpoint, StoredDtype, StoredTensor};
use smolvlm_kernels::{CpuBackend, TrainBackend};

use crate::lora::{AdapterFile, LoraMatrices, LoraOptions, module_of};
use crate::parameters::{Kind, Parameter};
use crate::taped::Taped;
use crate::{Error, Result};

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const CONFIG: &str = "config.json";
/// Endings of files that hold weights.
const WEIGHT_FILES: [&str; 6] = [".safetensors", ".index.json", ".bin", ".pt", ".pth", ".part"];
/// Nothing larger belongs to a checkpoint beside its weights.
const MAX_COPIED: u64 = 64 << 20;

/// Writes the checkpoint that was loaded, with the weights that were learned, to the new folder `place`: beside it, then
/// renamed. Tensors have the names and shapes of `SmolVLMForConditionalGeneration` and the number formats they were loaded
/// from, or all `dtype`; every other file (tokenizer, templates, processor) is copied. A tied head stays tied, and adapters are
/// merged.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when `place` is there and is no empty folder, [`Input`](crate::ErrorKind::Input) when files cannot
/// be written, [`Checkpoint`](crate::ErrorKind::Checkpoint) when the source is packed or broken.
pub fn save_checkpoint<B: TrainBackend>(
    source: &Checkpoint,
    taped: &Taped<B>,
    place: &Path,
    dtype: Option<StoredDtype>,
) -> Result<()> {
    let adapters = taped.adapters();
    let learned = Learned {
        backend: Some(taped.inner()),
        places: places(source, &taped.parameters())?,
        adapters: adapters.iter().flat_map(|adapter| adapter.matrices(taped.inner())).collect(),
        scaling: taped.lora().map_or(0.0, LoraOptions::scaling),
    };
    save(source, &learned, place, dtype)
}

/// As [`save_checkpoint`], of a checkpoint with an adapter that was trained on it: its weights become
/// `W + scaling · B · A`.
///
/// # Errors
/// As [`save_checkpoint`]; [`Usage`](crate::ErrorKind::Usage) when the adapter belongs to another checkpoint.
pub fn merge_adapter(
    source: &Checkpoint,
    adapter: &AdapterFile,
    place: &Path,
    dtype: Option<StoredDtype>,
) -> Result<()> {
    for matrices in &adapter.matrices {
        let name = format!("{}.weight", matrices.module);
        let tensor = source.tensor(&name).map_err(|_| Error::usage(format!("{name}: the checkpoint has none")))?;
        let (shape, expected) = (tensor.shape, matrices.shape());
        if shape != expected {
            return Err(Error::usage(format!("{name}: the adapter is for {expected:?}, the checkpoint has {shape:?}")));
        }
    }
    let scaling = adapter.options.scaling();
    let learned: Learned<'_, CpuBackend> =
        Learned { backend: None, places: HashMap::new(), adapters: adapter.matrices.clone(), scaling };
    save(source, &learned, place, dtype)
}

fn save<B: TrainBackend>(
    source: &Checkpoint,
    learned: &Learned<'_, B>,
    place: &Path,
    dtype: Option<StoredDtype>,
) -> Result<()> {
    if let Some(packed) = source.packed_as() {
        let (place, packed) = (source.dir().display(), packed.name());
        return Err(Error::usage(format!("{place}: its weights are packed as {packed}; give the original checkpoint")));
    }
    let beside = part_of(place);
    if fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some()) || place.is_file() {
        return Err(Error::usage(format!("{}: is not empty; give the name of a new folder", place.display())));
    }
    if beside.is_dir() {
        fs::remove_dir_all(&beside).map_err(|error| failed(&beside, "removed", error))?;
    }
    fs::create_dir_all(&beside).map_err(|error| failed(&beside, "made", error))?;
    let written = write_weights(source, learned, &beside.join(WEIGHTS), dtype)
        .and_then(|()| copy_others(source.dir(), &beside))
        .and_then(|()| name_dtype(source, &beside, dtype))
        .and_then(|()| fs::rename(&beside, place).map_err(|error| failed(place, "put in place", error)));
    if written.is_err() {
        // What cannot be removed stays, under a name that says what it is.
        let _ = fs::remove_dir_all(&beside);
    }
    written
}

/// The name under which something is written before it is brought to its place.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Brings a written file to its place, after what it holds has reached the disk.
pub(crate) fn finish_file(part: &Path, path: &Path) -> Result<()> {
    File::open(part).and_then(|file| file.sync_all()).map_err(|error| failed(part, "written", error))?;
    fs::rename(part, path).map_err(|error| failed(path, "put in place", error))
}

pub(crate) fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::input(format!("{}: cannot be {what}: {error}", path.display())).caused_by(error)
}

/// A tensor that is fetched and rounded when it is written.
struct Tensor<'a, B: TrainBackend> {
    shape: Vec<usize>,
    dtype: StoredDtype,
    numbers: Numbers<'a, B>,
}

enum Numbers<'a, B: TrainBackend> {
    /// As they lie in the file they were loaded from.
    Bytes(StoredTensor<'a>),
    /// The same, in another format.
    Stored(StoredTensor<'a>),
    /// Part of a parameter, from this number on.
    Learned(&'a B, Arc<Parameter<B>>, usize),
    /// Any of these with an adapter, times its scaling, added.
    Merged(Box<Self>, LoraMatrices, f64),
}

impl<B: TrainBackend> Numbers<'_, B> {
    fn to_f32(&self, count: usize) -> Vec<f32> {
        match self {
            Self::Bytes(tensor) | Self::Stored(tensor) => tensor.to_f32(),
            Self::Learned(backend, parameter, first) => parameter.master(backend)[*first..first + count].to_vec(),
            Self::Merged(base, adapter, scaling) => {
                let mut numbers = base.to_f32(count);
                adapter.add_to(&mut numbers, *scaling);
                numbers
            }
        }
    }
}

impl<B: TrainBackend> View for Tensor<'_, B> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::Bf16 => Dtype::BF16,
            StoredDtype::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.numbers {
            Numbers::Bytes(tensor) => tensor.bytes.into(),
            numbers => rounded(&numbers.to_f32(self.shape.iter().product()), self.dtype).into(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

fn rounded(numbers: &[f32], dtype: StoredDtype) -> Vec<u8> {
    match dtype {
        StoredDtype::F32 => numbers.iter().flat_map(|value| value.to_le_bytes()).collect(),
        StoredDtype::Bf16 => numbers.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        StoredDtype::F16 => numbers.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
    }
}

fn write_weights<B: TrainBackend>(
    source: &Checkpoint,
    learned: &Learned<'_, B>,
    path: &Path,
    dtype: Option<StoredDtype>,
) -> Result<()> {
    let mut tensors = Vec::new();
    for name in source.tensor_names() {
        let stored = source.tensor(name)?;
        let to = dtype.unwrap_or(stored.dtype);
        let mut numbers = match (learned.places.get(name), learned.backend) {
            (Some((parameter, first)), Some(backend)) => Numbers::Learned(backend, parameter.clone(), *first),
            _ if to == stored.dtype => Numbers::Bytes(stored),
            _ => Numbers::Stored(stored),
        };
        if let Some(adapter) = learned.adapters.iter().find(|adapter| adapter.module == module_of(name))
            && name.ends_with(".weight")
        {
            numbers = Numbers::Merged(Box::new(numbers), adapter.clone(), learned.scaling);
        }
        tensors.push((name, Tensor { shape: stored.shape.to_vec(), dtype: to, numbers }));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|error| Error::input(format!("{}: cannot be written: {error}", path.display())).caused_by(error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path, "written", error))
}

/// The parameter of a learned tensor, and its first number there.
type Places<B> = HashMap<String, (Arc<Parameter<B>>, usize)>;

/// What is different from the source.
struct Learned<'a, B: TrainBackend> {
    backend: Option<&'a B>,
    places: Places<B>,
    adapters: Vec<LoraMatrices>,
    scaling: f64,
}

/// Which numbers of which parameter each learned tensor is.
fn places<B: TrainBackend>(source: &Checkpoint, parameters: &[Arc<Parameter<B>>]) -> Result<Places<B>> {
    let mut places = HashMap::new();
    for parameter in parameters.iter().filter(|parameter| parameter.kind() != Kind::Adapter) {
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

/// Whether a file of this name holds weights.
pub(crate) fn is_weights(name: &str) -> bool {
    let name = name.to_lowercase();
    WEIGHT_FILES.iter().any(|ending| name.ends_with(ending))
}

/// Every file that holds no weights.
pub(crate) fn copy_others(from: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|error| failed(from, "read", error))? {
        let entry = entry.map_err(|error| failed(from, "read", error))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.starts_with('.') || is_weights(&name) {
            continue;
        }
        // Files of the hub's cache are links; this follows them.
        let found = fs::metadata(&path).map_err(|error| failed(&path, "read", error))?;
        if found.is_file() && found.len() <= MAX_COPIED {
            fs::copy(&path, folder.join(entry.file_name())).map_err(|error| failed(&path, "copied", error))?;
        }
    }
    Ok(())
}

/// `config.json` names the new format, if there is one.
fn name_dtype(source: &Checkpoint, folder: &Path, dtype: Option<StoredDtype>) -> Result<()> {
    let Some((dtype, mut config)) = dtype.zip(source.json(CONFIG)?) else { return Ok(()) };
    if let Some(fields) = config.as_object_mut() {
        let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        fields.insert(key.to_owned(), name_in_config(dtype).into());
    }
    let path = folder.join(CONFIG);
    fs::write(&path, format!("{config:#}\n")).map_err(|error| failed(&path, "written", error))
}

fn name_in_config(dtype: StoredDtype) -> &'static str {
    match dtype {
        StoredDtype::F32 => "float32",
        StoredDtype::Bf16 => "bfloat16",
        StoredDtype::F16 => "float16",
    }
}
