//! Adapters beside a checkpoint: LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024) in the layout of PEFT, a folder with
//! `adapter_config.json` and `adapter_model.safetensors`.
//!
//! [`AdapterFile`] reads and writes such a folder. [`Checkpoint::with_adapter`](crate::checkpoint::Checkpoint::with_adapter) folds
//! one into the weights as they are loaded, so that answering with it costs what answering without it does.

mod fit;
mod matrices;
mod options;
mod read;
mod write;

pub use matrices::LoraMatrices;
pub use options::{LoraOptions, Pattern, Targets};

/// The two files.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";
/// What it calls the matrices and the magnitude behind it.
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";
const MAGNITUDE: &str = "lora_magnitude_vector";

/// An adapter as it lies in a folder.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// The model that it was made on, as its file says.
    pub base: String,
    /// How it is applied.
    pub options: LoraOptions,
    /// Of every module, by name.
    pub matrices: Vec<LoraMatrices>,
    /// Tensors of the base model that lie beside them.
    pub(crate) copies: Vec<BaseCopy>,
}

/// A tensor of the base model that PEFT stored with an adapter, as it does with a head that has one.
#[derive(Debug, Clone)]
pub(crate) struct BaseCopy {
    /// As a checkpoint calls it.
    name: String,
    numbers: Vec<f32>,
}

impl AdapterFile {
    /// One of these matrices, sorted by the names of their modules.
    pub fn new(base: &str, options: LoraOptions, mut matrices: Vec<LoraMatrices>) -> Self {
        matrices.sort_by(|a, b| a.module.cmp(&b.module));
        Self { base: base.to_owned(), options, matrices, copies: Vec::new() }
    }

    /// What a module has, by its name.
    pub fn of_module(&self, module: &str) -> Option<&LoraMatrices> {
        self.matrices.iter().find(|matrices| matrices.module == module)
    }

    /// What the tensor `name` (`….weight`) has.
    pub fn of_tensor(&self, name: &str) -> Option<&LoraMatrices> {
        name.strip_suffix(".weight").and_then(|module| self.of_module(module))
    }

    /// How many numbers it holds.
    pub fn parameter_count(&self) -> usize {
        self.matrices.iter().map(LoraMatrices::parameter_count).sum()
    }
}
