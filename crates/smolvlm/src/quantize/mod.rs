//! Packed checkpoints: the weights as the kernels read them, written once, mapped ever after.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use smolvlm::checkpoint::Checkpoint;
//! use smolvlm::{Dtype, QuantizeOptions, quantize};
//!
//! # fn main() -> smolvlm::Result<()> {
//! let source = Checkpoint::open(Path::new("SmolVLM2-256M-Video-Instruct"))?;
//! quantize(&source, Path::new("256m-q8"), &QuantizeOptions::new(Dtype::Q8), &mut |_| {})?;
//! # Ok(())
//! # }
//! ```

mod volumes;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use smolvlm_kernels::CpuBackend;

use crate::checkpoint::packed::Description;
use crate::checkpoint::packed::plan::Plan;
use crate::checkpoint::{Checkpoint, Destination, Replace};
use crate::model::packed_bytes;
use crate::{Dtype, Error, Result};
use volumes::{Item, Volume};

/// How a checkpoint is packed.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// Number format of the packed weights.
    pub dtype: Dtype,
    /// Threads that pack; 0: one for each core.
    pub threads: usize,
    /// Whether an earlier packed checkpoint in the same folder is replaced.
    pub replace: bool,
    /// Most bytes of one weight file, unless a single matrix has more.
    pub file_bytes: u64,
}

impl QuantizeOptions {
    /// Into a new folder, on all cores, in files of at most 4 GiB.
    pub fn new(dtype: Dtype) -> Self {
        Self { dtype, threads: 0, replace: false, file_bytes: 4 << 30 }
    }
}

/// How far packing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeProgress {
    /// Bytes of weights written.
    pub done: u64,
    /// Bytes of weights in all.
    pub total: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// The new checkpoint.
    pub folder: PathBuf,
    /// Its weight files.
    pub weight_files: Vec<String>,
    /// Their size together.
    pub weight_bytes: u64,
    /// Files taken over from the source.
    pub copied_files: Vec<String>,
}

/// Packs `source` into the folder `out`, which must not exist or be empty (but see [`QuantizeOptions::replace`]).
/// Everything is written beside it, checked, and renamed when it is whole. Loading the new checkpoint gives, to the bit,
/// the numbers that loading the source in the same format gives.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when `source` is packed already or `out` is taken,
/// [`Checkpoint`](crate::ErrorKind::Checkpoint) when the weights do not fit the configuration,
/// [`Input`](crate::ErrorKind::Input) when a file cannot be read or written.
pub fn quantize(
    source: &Checkpoint,
    out: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress),
) -> Result<Quantized> {
    if let Some(packed) = source.packed_as() {
        let (folder, packed) = (source.dir().display(), packed.name());
        return Err(Error::usage(format!("{folder}: is packed as {packed} already; give the original checkpoint")));
    }
    source.validate()?;
    let plan = Plan::new(source.config(), options.dtype.format());
    let volumes = Volume::all(&plan, options.file_bytes);
    let mut writer = Writer {
        backend: CpuBackend::new(options.threads).map_err(Error::from)?,
        source,
        description: Description { dtype: options.dtype.format(), tied_head: source.head_is_tied() },
        progress: QuantizeProgress { done: 0, total: plan.bytes() },
        report: progress,
    };
    let destination = Destination::begin(out, if options.replace { Replace::Packed } else { Replace::Nothing })?;
    let copied_files = destination.copy_from(source.dir())?;
    let mut weight_bytes = 0;
    for volume in &volumes {
        weight_bytes += writer.write(volume, destination.folder())?;
    }
    if let Some(index) = volumes::index(&volumes) {
        destination.write(&index.0, index.1.as_bytes())?;
    }
    Checkpoint::open(destination.folder())?.validate()?;
    let weight_files = volumes.into_iter().map(|volume| volume.file).collect();
    Ok(Quantized { folder: destination.finish()?, weight_files, weight_bytes, copied_files })
}

/// Packs and writes, one matrix at a time.
struct Writer<'a> {
    backend: CpuBackend,
    source: &'a Checkpoint,
    description: Description,
    progress: QuantizeProgress,
    report: &'a mut dyn FnMut(QuantizeProgress),
}

impl Writer<'_> {
    /// Writes one file; returns its size.
    fn write(&mut self, volume: &Volume<'_>, folder: &Path) -> Result<u64> {
        let path = folder.join(&volume.file);
        let total = self.progress.total;
        let failed = |error: io::Error| {
            let needed = total.div_ceil(1 << 20);
            let message = format!("{}: cannot be written ({needed} MiB of weights in all): {error}", path.display());
            Error::input(message).caused_by(error)
        };
        let mut file = File::create_new(&path).map_err(failed)?;
        let header = volume.header(&self.description);
        file.write_all(&header).map_err(failed)?;
        for item in &volume.items {
            match item {
                Item::Matrix(matrix) => {
                    packed_bytes(&self.backend, self.source, matrix, |bytes| file.write_all(bytes).map_err(failed))?
                }
                Item::Vector(vector) => {
                    let numbers = self.source.tensor(&vector.name)?.to_f32();
                    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                    file.write_all(&bytes).map_err(failed)?;
                }
            }
            self.progress.done += item.bytes();
            (self.report)(self.progress);
        }
        file.sync_all().map_err(failed)?;
        Ok(header.len() as u64 + volume.bytes())
    }
}

#[cfg(test)]
mod tests;
