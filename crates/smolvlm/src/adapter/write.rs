//! Writing an adapter's folder, for PEFT and for [`AdapterFile::read`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{A, AdapterFile, B, CONFIG, LoraMatrices, MAGNITUDE, PREFIX, Targets, WEIGHTS};
use crate::{Error, Result};

/// A tensor's name, shape and little-endian f32 numbers.
type Stored = (String, Vec<usize>, Vec<u8>);

impl AdapterFile {
    /// Writes both files to a folder, each beside its place and then renamed.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let failed =
            |error: &dyn std::fmt::Display| Error::input(format!("{}: cannot be written: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(|error| failed(&error).caused_by(error))?;
        let tensors: Vec<Stored> = self.matrices.iter().flat_map(stored).collect();
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|error| failed(&error).caused_by(error))
            })
            .collect::<Result<_>>()?;
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let weights = folder.join(WEIGHTS);
        safetensors::serialize_to_file(views, Some(metadata), &beside(&weights))
            .map_err(|error| failed(&error).caused_by(error))?;
        finish(&weights)?;
        let config = folder.join(CONFIG);
        fs::write(beside(&config), format!("{:#}\n", self.config()))
            .map_err(|error| failed(&error).caused_by(error))?;
        finish(&config)
    }

    /// `LoraConfig` of PEFT.
    fn config(&self) -> Value {
        let targets = match &self.options.targets {
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern.text),
        };
        json!({
            "base_model_name_or_path": self.base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": self.options.alpha,
            "lora_dropout": self.options.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.options.rank,
            "target_modules": targets,
            "task_type": null,
            "use_dora": self.options.dora,
            "use_rslora": self.options.rank_stabilised,
        })
    }
}

/// What is stored of one module.
fn stored(matrices: &LoraMatrices) -> Vec<Stored> {
    let LoraMatrices { module, rank, a, b, magnitude } = matrices;
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let name = |end: &str| format!("{PREFIX}{module}.{end}");
    let mut tensors =
        vec![(name(A), vec![*rank, a.len() / rank], bytes(a)), (name(B), vec![b.len() / rank, *rank], bytes(b))];
    tensors.extend(magnitude.iter().map(|numbers| (name(MAGNITUDE), vec![numbers.len()], bytes(numbers))));
    tensors
}

/// The name under which a file is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Brings a written file to its place, after what it holds has reached the disk.
fn finish(path: &Path) -> Result<()> {
    let part = beside(path);
    File::open(&part)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&part, path))
        .map_err(|error| Error::input(format!("{}: cannot be written: {error}", path.display())).caused_by(error))
}
