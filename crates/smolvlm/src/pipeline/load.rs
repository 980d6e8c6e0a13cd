//! From a folder or hub id to a loaded model.

use std::path::{Path, PathBuf};

use smolvlm_kernels::Backend;

use super::device::{Device, Machine};
use super::dtype::Dtype;
use super::processor::Processor;
use super::{MediaOptions, SmolVlm};
use crate::checkpoint::hub::{self, DownloadProgress};
use crate::checkpoint::{Checkpoint, memory_estimate, read_json};
use crate::compat::Compat;
use crate::generate::{CachePlan, Engine, Generator};
use crate::machine::{available_bytes, check_memory};
use crate::model::Model;
use crate::preprocess::Settings;
use crate::{Error, Result};

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Number format; none: that of packed weights, else bf16 on a GPU and [`Dtype::best`] on the processor.
    pub dtype: Option<Dtype>,
    /// An adapter's folder in the layout of PEFT; it is folded into the weights as they are loaded, so answers cost what they
    /// do without it.
    pub adapter: Option<PathBuf>,
    /// What computes.
    pub device: Device,
    /// Compute threads of the processor; 0: one for each core.
    pub threads: usize,
    /// Which release of the reference to agree with.
    pub compat: Compat,
    /// How large the key-value cache may grow, and how long a prompt's chunks are.
    pub cache: CachePlan,
    /// How pictures and videos are read.
    pub media: MediaOptions,
}

impl LoadOptions {
    /// The same options with another number format.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Loads a checkpoint folder or hub id.
    ///
    /// # Errors
    /// See [`SmolVlm::from_pretrained`].
    pub fn load(self, model: &str) -> Result<SmolVlm> {
        self.load_with(model, &mut |_| {})
    }

    /// As [`load`](Self::load), reporting a download as it goes.
    ///
    /// # Errors
    /// See [`SmolVlm::from_pretrained`].
    pub fn load_with(self, model: &str, progress: &mut dyn FnMut(DownloadProgress)) -> Result<SmolVlm> {
        let folder = hub::resolve(model, progress)?;
        let checkpoint = Checkpoint::open(&folder)?;
        checkpoint.validate()?;
        let checkpoint = checkpoint.with_adapter_in(self.adapter.as_deref())?;
        let processor = Processor::of(&folder, checkpoint.config(), self.compat, self.media.clone())?;

        let machine = Machine::open(self.device, self.threads, self.dtype, &checkpoint)?;
        let dtype = self.choose_dtype(&machine, &checkpoint).map_err(|error| error.at(model))?;
        let (engine, compute) = self.start_engine(machine, &checkpoint, dtype).map_err(|error| error.at(model))?;
        let generation = checkpoint.generation().clone();
        Ok(SmolVlm { engine, processor, generation, dtype, compute, progress: None })
    }

    /// That of packed weights, unless something else was asked for; of others, what was asked for, else the device's best.
    fn choose_dtype(&self, machine: &Machine, checkpoint: &Checkpoint) -> Result<Dtype> {
        let Some(packed) = checkpoint.packed_as() else {
            return Ok(self.dtype.unwrap_or_else(|| machine.best_dtype()));
        };
        checkpoint.accepts(self.dtype.map_or(packed, Dtype::format))?;
        Ok(packed.into())
    }

    /// Loads the weights and starts an engine; also says what computes.
    fn start_engine(
        &self,
        machine: Machine,
        checkpoint: &Checkpoint,
        dtype: Dtype,
    ) -> Result<(Box<dyn Engine>, String)> {
        let compute = machine.to_string();
        let engine = match machine {
            Machine::Cpu { backend, .. } => self.engine_on(backend, checkpoint, dtype)?,
            Machine::Cuda(backend) => self.engine_on(backend, checkpoint, dtype)?,
        };
        Ok((engine, compute))
    }

    fn engine_on<B: Backend>(&self, backend: B, checkpoint: &Checkpoint, dtype: Dtype) -> Result<Box<dyn Engine>> {
        let weights = memory_estimate(checkpoint.config(), dtype.format()).weights;
        check_memory("the weights", weights, backend.memory_left().or_else(available_bytes))?;
        let network = Model::load(&backend, checkpoint, dtype.format(), self.compat)?;
        backend.failure().map_err(Error::from)?;
        let maps_weights = checkpoint.packed_as().is_some() && backend.memory_left().is_none();
        let cache = if maps_weights { self.cache.beside(weights) } else { self.cache };
        let generator = Generator::new(backend, network, checkpoint.generation().eos_ids.clone(), cache);
        Ok(Box::new(generator))
    }
}

/// What a checkpoint folder says about pixels. Its weights are not looked at.
///
/// # Errors
/// [`Checkpoint`](crate::ErrorKind::Checkpoint): names file, field, expected and found.
pub fn processor_settings(folder: &Path) -> Result<Settings> {
    let json = |file| read_json(folder, file);
    let (processor, preprocessor) = (json("processor_config.json")?, json("preprocessor_config.json")?);
    let video = json("video_preprocessor_config.json")?;
    Settings::from_files(processor.as_ref(), preprocessor.as_ref(), video.as_ref())
        .map_err(|error| error.at(folder.display()))
}
