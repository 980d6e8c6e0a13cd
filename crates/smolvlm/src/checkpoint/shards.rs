//! The weight files: one `model.safetensors`, or several with an index.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use smolvlm_kernels::mapped::MappedFile;

use super::files;
use super::names;
use super::packed::Packing;
use super::problems::quoted;
use crate::{Error, Result};

/// All weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Which of several files holds which weight.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The format's own bound on a header.
const MAX_HEADER: usize = 100_000_000;
const MAX_SHARDS: usize = 1 << 10;

/// One mapped file.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) file: String,
    pub(super) map: Arc<MappedFile>,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) shard: usize,
    /// What the file calls it.
    pub(super) stored: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
}

/// Every tensor of a checkpoint under this engine's name, and what is wrong with their listing.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: BTreeMap<String, Location>,
    /// How they are packed, if they are.
    pub(super) packing: Option<Packing>,
    /// Faults that are reported together with those of [`super::Checkpoint::validate`].
    pub(super) faults: Vec<String>,
}

impl Weights {
    /// Maps the weight files of `dir` and reads their headers.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mut weights = Self::default();
        if dir.join(SINGLE).exists() {
            weights.add_shard(dir, SINGLE)?;
            return Ok(weights);
        }
        let Some(index) = files::read_json(dir, INDEX)? else { return Err(no_weights(dir)) };
        let index = parse_index(&index)?;
        let mut shards: Vec<&str> = index.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > MAX_SHARDS {
            return Err(Error::checkpoint(format!("{INDEX}: {} shards, expected at most {MAX_SHARDS}", shards.len())));
        }
        for file in shards {
            weights.add_shard(dir, file)?;
        }
        weights.compare_with_index(&index);
        Ok(weights)
    }

    fn add_shard(&mut self, dir: &Path, file: &str) -> Result<()> {
        let path = dir.join(file);
        let map = map_file(&path).map_err(|error| error.at(file))?;
        let (data, header) = read_header(map.bytes()).map_err(|error| error.at(path.display()))?;
        let shard = self.shards.len();
        self.add_packing(file, &header)?;
        for (stored, info) in header.tensors() {
            let Some(name) = names::canonical(&stored) else { continue };
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let location = Location { shard, stored, dtype: info.dtype, shape: info.shape.clone(), range };
            self.add_tensor(name, location, file);
        }
        self.shards.push(Shard { file: file.to_owned(), map: Arc::new(map) });
        Ok(())
    }

    /// All files of a checkpoint are packed alike, or none is.
    fn add_packing(&mut self, file: &str, header: &Metadata) -> Result<()> {
        let nothing = HashMap::new();
        let found = Packing::read(file, header.metadata().as_ref().unwrap_or(&nothing))?;
        let first = self.shards.is_empty();
        let same = match (&mut self.packing, found) {
            (None, None) => true,
            (None, Some(packing)) => {
                self.packing = Some(packing);
                first
            }
            (Some(ours), Some(packing)) => ours.join(packing),
            (Some(_), None) => false,
        };
        if same {
            return Ok(());
        }
        let other = self.shards.first().map_or("", |shard| &shard.file);
        Err(Error::checkpoint(format!("{file}: its weights are packed in another way than those of {other}")))
    }

    fn add_tensor(&mut self, name: String, location: Location, file: &str) {
        if let Some(first) = self.tensors.get(&name) {
            let (first, second) = (quoted(&first.stored), quoted(&location.stored));
            self.faults.push(format!("{}: stored twice, as {first} and as {second} in {file}", quoted(&name)));
            return;
        }
        self.tensors.insert(name, location);
    }

    /// The headers are the truth; an index that says otherwise belongs to other files.
    fn compare_with_index(&mut self, index: &BTreeMap<String, String>) {
        for (stored, file) in index {
            let Some(name) = names::canonical(stored) else { continue };
            let place = self.tensors.get(&name).map(|location| self.shards[location.shard].file.as_str());
            if place.is_some_and(|place| place != file) {
                self.faults.push(format!("{}: {INDEX} says it is in {file}, but it is not", quoted(stored)));
            }
        }
    }
}

fn no_weights(dir: &Path) -> Error {
    let other = ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|file| dir.join(file).exists());
    let hint = match other {
        Some(file) => format!("; {file} is there, but only safetensors files are read: convert it"),
        None => String::new(),
    };
    Error::checkpoint(format!("{}: expected {SINGLE} or {INDEX}, found neither{hint}", dir.display()))
}

/// Tensor name to file name. Each file must lie in the folder itself: an index is data, not a licence to read elsewhere.
pub(super) fn parse_index(index: &serde_json::Value) -> Result<BTreeMap<String, String>> {
    let map = index.get("weight_map").and_then(serde_json::Value::as_object);
    let Some(map) = map.filter(|map| !map.is_empty()) else {
        return Err(Error::checkpoint(format!("{INDEX}: expected an object `weight_map` of tensor and file names")));
    };
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(file) if is_plain_name(file) && file.ends_with(".safetensors") => {
                Ok((tensor.clone(), file.to_owned()))
            }
            _ => Err(Error::checkpoint(format!(
                "{INDEX}: {}: expected the name of a .safetensors file in the same folder, found {}",
                quoted(tensor),
                quoted(&file.to_string())
            ))),
        })
        .collect()
}

/// Whether `name` is a file's own name: no folder, no parent, no drive.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    plain && !name.contains(['\\', ':', '\0'])
}

fn map_file(path: &Path) -> Result<MappedFile> {
    let found =
        fs::metadata(path).map_err(|error| Error::checkpoint(format!("cannot open it: {error}")).caused_by(error))?;
    if !found.is_file() {
        return Err(Error::checkpoint("expected a file"));
    }
    if found.len() == 0 {
        return Err(Error::checkpoint("the file is empty (0 bytes)"));
    }
    MappedFile::open(path).map_err(|error| Error::checkpoint(format!("cannot map it: {error}")).caused_by(error))
}

/// Where the data begins, and the checked header: every tensor's bytes lie inside the file, one after the other without
/// gap or overlap, and are as many as its shape and format ask for.
///
/// `safetensors::SafeTensors::read_metadata` is not used because its sum of header and data length can overflow.
pub(crate) fn read_header(bytes: &[u8]) -> Result<(usize, Metadata)> {
    let broken = |what: String| Error::checkpoint(format!("not a usable safetensors file: {what}"));
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(broken(format!("{} bytes are too few for a header", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    let header =
        usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER).and_then(|length| rest.get(..length));
    let Some(header) = header else {
        return Err(broken(format!("it announces a header of {length} bytes, {} are left in the file", rest.len())));
    };
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| broken(quoted(&error.to_string())))?;
    let data = rest.len() - header.len();
    if metadata.data_len() != data {
        let expected = metadata.data_len();
        return Err(broken(format!("its header describes {expected} bytes of data, {data} are in the file")));
    }
    Ok((bytes.len() - data, metadata))
}

#[cfg(test)]
#[path = "tests/shards.rs"]
mod tests;
