//! Adapters in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use smolvlm_kernels::TrainBackend;
use smolvlm_kernels::mapped::MappedFile;
use smolvlm_kernels::{Elements, MatrixView};

use super::{LoraMatrices, LoraOptions, Targets};
use crate::save::{finish_file, part_of};
use crate::taped::Taped;
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";
const MAX_CONFIG: u64 = 1 << 20;

/// An adapter as it lies in a folder.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// How it is applied.
    pub options: LoraOptions,
    /// Of every module, by name.
    pub matrices: Vec<LoraMatrices>,
}

impl AdapterFile {
    /// What was learned over `taped`; nothing without adapters.
    pub fn of<B: TrainBackend>(taped: &Taped<B>) -> Option<Self> {
        let options = taped.lora()?.clone();
        let adapters = taped.adapters();
        let mut matrices: Vec<_> = adapters.iter().flat_map(|adapter| adapter.matrices(taped.inner())).collect();
        matrices.sort_by(|a, b| a.module.cmp(&b.module));
        Some(Self { options, matrices })
    }

    /// Puts these matrices in the place of those that `taped` has.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the two are not of the same modules, shapes, rank and scaling: nothing changes then.
    pub fn load_into<B: TrainBackend>(&self, taped: &Taped<B>) -> Result<()> {
        let scaling = taped.lora().map_or(0.0, LoraOptions::scaling);
        if (scaling - self.options.scaling()).abs() > 1e-9 {
            let found = self.options.scaling();
            return Err(Error::usage(format!("the adapter's scaling is {found}, the model's adapters have {scaling}")));
        }
        let adapters = taped.adapters();
        let rank = taped.lora().map_or(0, |lora| lora.rank);
        let mut expected = 0;
        for (module, outputs, inputs) in adapters.iter().flat_map(|adapter| adapter.modules()) {
            expected += 1;
            let found = self.matrices.iter().find(|known| known.module == module);
            let found = found.ok_or_else(|| Error::usage(format!("{module}: the adapter has no matrices for it")))?;
            if found.rank != rank || found.shape() != [outputs, inputs] {
                let (found_rank, shape) = (found.rank, found.shape());
                return Err(Error::usage(format!(
                    "{module}: expected rank {rank} for [{outputs}, {inputs}], found rank {found_rank} for {shape:?}"
                )));
            }
        }
        if expected != self.matrices.len() {
            let found = self.matrices.len();
            return Err(Error::usage(format!(
                "the adapter is for {found} modules, the model has adapters on {expected}"
            )));
        }
        for adapter in adapters {
            adapter.set_matrices(taped.inner(), |module| {
                self.matrices.iter().find(|known| known.module == module).cloned()
            });
        }
        Ok(())
    }

    /// Writes both files to a folder, each beside its place and then renamed. `base` says which model it is for.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when they cannot be written.
    pub fn write(&self, folder: &Path, base: &str) -> Result<()> {
        let failed =
            |error: &dyn std::fmt::Display| Error::input(format!("{}: cannot be written: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(|error| failed(&error).caused_by(error))?;
        let mut tensors = Vec::new();
        for LoraMatrices { module, rank, a, b } in &self.matrices {
            let bytes = |numbers: &[f32]| numbers.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
            tensors.push((format!("{PREFIX}{module}.lora_A.weight"), vec![*rank, a.len() / rank], bytes(a)));
            tensors.push((format!("{PREFIX}{module}.lora_B.weight"), vec![b.len() / rank, *rank], bytes(b)));
        }
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|error| failed(&error).caused_by(error))
            })
            .collect::<Result<_>>()?;
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let (weights, config) = (folder.join(WEIGHTS), folder.join(CONFIG));
        safetensors::serialize_to_file(views, Some(metadata), &part_of(&weights))
            .map_err(|error| failed(&error).caused_by(error))?;
        finish_file(&part_of(&weights), &weights)?;
        let text = format!("{:#}\n", self.config(base));
        fs::write(part_of(&config), text).map_err(|error| failed(&error).caused_by(error))?;
        finish_file(&part_of(&config), &config)
    }

    /// `LoraConfig` of PEFT.
    fn config(&self, base: &str) -> Value {
        let targets = match &self.options.targets {
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern.text),
        };
        json!({
            "base_model_name_or_path": base,
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
            "use_dora": false,
            "use_rslora": self.options.rank_stabilised,
        })
    }

    /// Reads an adapter that PEFT, or [`write`](Self::write), made.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when files are missing or broken, or ask for something that is not computed here: names
    /// file and field.
    pub fn read(folder: &Path) -> Result<Self> {
        let options = read_config(&folder.join(CONFIG))?;
        let path = folder.join(WEIGHTS);
        let matrices = read_weights(&path, options.rank).map_err(|error| error.at(path.display()))?;
        Ok(Self { options, matrices })
    }
}

fn read_config(path: &Path) -> Result<LoraOptions> {
    let place = path.display();
    let wrong = |what: String| Error::input(format!("{place}: {what}"));
    let size = fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")).caused_by(error))?.len();
    if size > MAX_CONFIG {
        return Err(wrong(format!("expected at most {MAX_CONFIG} bytes, found {size}")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")).caused_by(error))?;
    let config: Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("not JSON: {error}")).caused_by(error))?;
    let expect = |field: &str, allowed: &[Value]| {
        let found = &config[field];
        if allowed.contains(found) {
            Ok(())
        } else {
            Err(wrong(format!("{field}: expected {}, found {found}", allowed[0])))
        }
    };
    expect("peft_type", &[json!("LORA")])?;
    expect("bias", &[json!("none"), Value::Null])?;
    for field in ["fan_in_fan_out", "lora_bias"] {
        expect(field, &[json!(false), Value::Null])?;
    }
    // Variants of LoRA, of which there are new ones all the time.
    let variants = config.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("use_"));
    if let Some((key, _)) = variants.into_iter().find(|(key, value)| *key != "use_rslora" && **value == json!(true)) {
        return Err(wrong(format!("{key}: expected false, found true")));
    }
    for field in ["rank_pattern", "alpha_pattern"] {
        expect(field, &[json!({}), Value::Null])?;
    }
    for field in ["modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters"] {
        expect(field, &[Value::Null, json!([])])?;
    }
    let number = |field: &str| {
        let found = &config[field];
        found.as_f64().ok_or_else(|| wrong(format!("{field}: expected a number, found {found}")))
    };
    let targets = match &config["target_modules"] {
        Value::String(pattern) => Targets::pattern(pattern).map_err(|error| error.at(&place))?,
        Value::Array(names) if names.iter().all(Value::is_string) => {
            let mut names: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            names.sort();
            Targets::Names(names)
        }
        found => return Err(wrong(format!("target_modules: expected names or a pattern, found {found}"))),
    };
    let rank = number("r")?;
    let options = LoraOptions {
        rank: if rank.fract() == 0.0 && rank > 0.0 { rank as usize } else { 0 },
        alpha: number("lora_alpha")?,
        dropout: if config["lora_dropout"].is_null() { 0.0 } else { number("lora_dropout")? as f32 },
        rank_stabilised: config["use_rslora"].as_bool().unwrap_or(false),
        targets,
        seed: 0,
    };
    options.check().map_err(|error| Error::input(error.to_string()).at(&place))?;
    Ok(options)
}

fn read_weights(path: &Path, rank: usize) -> Result<Vec<LoraMatrices>> {
    let broken = |what: String| Error::input(what);
    if fs::metadata(path).map_err(|error| broken(format!("cannot be read: {error}")).caused_by(error))?.len() == 0 {
        return Err(broken("it is empty".to_owned()));
    }
    let file = MappedFile::open(path).map_err(|error| broken(format!("cannot be read: {error}")).caused_by(error))?;
    let tensors = SafeTensors::deserialize(file.bytes()).map_err(|error| broken(error.to_string()).caused_by(error))?;
    let mut found: BTreeMap<String, LoraMatrices> = BTreeMap::new();
    for (key, view) in tensors.iter() {
        let name = key.strip_prefix(PREFIX).unwrap_or(key);
        let parts = name.rsplit_once(".lora_").and_then(|(module, rest)| Some((module, rest.strip_suffix(".weight")?)));
        let Some((module, which @ ("A" | "B"))) = parts else {
            return Err(broken(format!("{key}: expected names that end with .lora_A.weight or .lora_B.weight")));
        };
        let [rows, columns] = *view.shape() else {
            return Err(broken(format!("{key}: expected a matrix, found shape {:?}", view.shape())));
        };
        let ranked = if which == "A" { rows } else { columns };
        if ranked != rank || rows == 0 || columns == 0 {
            return Err(broken(format!("{key}: expected rank {rank}, found shape {:?}", view.shape())));
        }
        let elements = match view.dtype() {
            Dtype::F32 => Elements::F32(view.data()),
            Dtype::BF16 => Elements::Bf16(view.data()),
            Dtype::F16 => Elements::F16(view.data()),
            other => return Err(broken(format!("{key}: expected F32, BF16 or F16, found {other}"))),
        };
        let matrix = MatrixView::new(rows, columns, elements);
        let mut numbers = vec![0.0; rows * columns];
        numbers.chunks_mut(columns).enumerate().for_each(|(row, numbers)| matrix.row(row, numbers));
        let empty = || LoraMatrices { module: module.to_owned(), rank, a: Vec::new(), b: Vec::new() };
        let entry = found.entry(module.to_owned()).or_insert_with(empty);
        *(if which == "A" { &mut entry.a } else { &mut entry.b }) = numbers;
    }
    if let Some(half) = found.values().find(|matrices| matrices.a.is_empty() || matrices.b.is_empty()) {
        return Err(broken(format!("{}: one of its two matrices is missing", half.module)));
    }
    Ok(found.into_values().collect())
}
