//! Reading an adapter's folder, as PEFT or [`AdapterFile::write`] wrote it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Value, json};
use smolvlm_kernels::Elements;
use smolvlm_kernels::mapped::MappedFile;

use super::{A, AdapterFile, B, BaseCopy, CONFIG, LoraMatrices, LoraOptions, MAGNITUDE, PREFIX, Targets, WEIGHTS};
use crate::checkpoint::read_header;
use crate::{Error, Result};

const MAX_CONFIG: u64 = 1 << 20;

impl AdapterFile {
    /// Reads an adapter that PEFT, or [`write`](Self::write), made.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when files are missing or broken, or ask for something that is not computed here: names
    /// file and field.
    pub fn read(folder: &Path) -> Result<Self> {
        let (base, options) = read_config(&folder.join(CONFIG))?;
        let path = folder.join(WEIGHTS);
        let (matrices, copies) = read_weights(&path, &options).map_err(|error| error.at(path.display()))?;
        Ok(Self { base, options, matrices, copies })
    }
}

/// The name of the base model, and how the adapter is applied.
fn read_config(path: &Path) -> Result<(String, LoraOptions)> {
    let place = path.display();
    let wrong = |what: String| Error::input(format!("{place}: {what}"));
    let size = fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")).caused_by(error))?.len();
    if size > MAX_CONFIG {
        return Err(wrong(format!("expected at most {MAX_CONFIG} bytes, found {size}")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")).caused_by(error))?;
    let config: Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("not JSON: {error}")).caused_by(error))?;
    check_supported(&config).map_err(|error| error.at(&place))?;
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
        dora: config["use_dora"].as_bool().unwrap_or(false),
        targets,
        seed: 0,
    };
    options.check().map_err(|error| Error::input(error.to_string()).at(&place))?;
    Ok((config["base_model_name_or_path"].as_str().unwrap_or_default().to_owned(), options))
}

/// Refuses what `LoraConfig` of PEFT can ask for and is not computed here.
fn check_supported(config: &Value) -> Result<()> {
    let expect = |field: &str, allowed: &[Value]| {
        let found = &config[field];
        if allowed.contains(found) {
            Ok(())
        } else {
            Err(Error::input(format!("{field}: expected {}, found {found}", allowed[0])))
        }
    };
    expect("peft_type", &[json!("LORA")])?;
    expect("bias", &[json!("none"), Value::Null])?;
    for field in ["fan_in_fan_out", "lora_bias"] {
        expect(field, &[json!(false), Value::Null])?;
    }
    // Variants of LoRA, of which there are new ones all the time.
    let variants = config.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("use_"));
    let known = ["use_rslora", "use_dora"];
    if let Some((key, _)) =
        variants.into_iter().find(|(key, value)| !known.contains(&key.as_str()) && **value == json!(true))
    {
        return Err(Error::input(format!("{key}: expected false, found true")));
    }
    for field in ["rank_pattern", "alpha_pattern"] {
        expect(field, &[json!({}), Value::Null])?;
    }
    for field in ["modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters"] {
        expect(field, &[Value::Null, json!([])])?;
    }
    Ok(())
}

/// What a tensor of the file is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    A,
    B,
    Magnitude,
}

/// A tensor's module, and what it is there; nothing when it is none of an adapter's.
fn split(name: &str) -> Option<(&str, Kind)> {
    let bare = |end: &'static str, kind| Some((name.strip_suffix(end)?.strip_suffix('.')?, kind));
    let magnitude =
        || bare(MAGNITUDE, Kind::Magnitude).or_else(|| bare("lora_magnitude_vector.weight", Kind::Magnitude));
    bare(A, Kind::A).or_else(|| bare(B, Kind::B)).or_else(magnitude)
}

fn read_weights(path: &Path, options: &LoraOptions) -> Result<(Vec<LoraMatrices>, Vec<BaseCopy>)> {
    if fs::metadata(path).map_err(|error| broken(format!("cannot be read: {error}")).caused_by(error))?.len() == 0 {
        return Err(broken("it is empty"));
    }
    let file = MappedFile::open(path).map_err(|error| broken(format!("cannot be read: {error}")).caused_by(error))?;
    let (data, header) = read_header(file.bytes()).map_err(|error| broken(error.to_string()))?;
    let (mut found, mut copies) = (BTreeMap::<String, LoraMatrices>::new(), Vec::new());
    for (key, info) in header.tensors() {
        let (start, end) = info.data_offsets;
        let numbers = numbers(info, &file.bytes()[data + start..data + end]).map_err(|error| error.at(&key))?;
        let name = key.strip_prefix(PREFIX).unwrap_or(&key);
        let Some((module, kind)) = split(name) else {
            copies.push(BaseCopy { name: base_name(name).map_err(|error| error.at(&key))?, numbers });
            continue;
        };
        check_shape(&info.shape, kind, options).map_err(|error| error.at(&key))?;
        let (module, rank) = (module.to_owned(), options.rank);
        let empty = LoraMatrices { module: module.clone(), rank, a: Vec::new(), b: Vec::new(), magnitude: None };
        let entry = found.entry(module).or_insert(empty);
        match kind {
            Kind::A => entry.a = numbers,
            Kind::B => entry.b = numbers,
            Kind::Magnitude => entry.magnitude = Some(numbers),
        }
    }
    let matrices: Vec<LoraMatrices> = found.into_values().collect();
    matrices.iter().try_for_each(|matrices| check_whole(matrices, options.dora))?;
    Ok((matrices, copies))
}

fn broken(what: impl Into<String>) -> Error {
    Error::input(what)
}

fn numbers(info: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>> {
    let elements = match info.dtype {
        Dtype::F32 => Elements::F32(bytes),
        Dtype::BF16 => Elements::Bf16(bytes),
        Dtype::F16 => Elements::F16(bytes),
        other => return Err(broken(format!("expected F32, BF16 or F16, found {other}"))),
    };
    let mut numbers = vec![0.0; elements.len()];
    elements.widen(0, &mut numbers);
    Ok(numbers)
}

/// What a checkpoint calls a tensor of the base model that lies beside an adapter.
fn base_name(name: &str) -> Result<String> {
    if name.contains("lora_embedding_") {
        return Err(broken("adapters of embeddings are not computed here; make one without embed_tokens"));
    }
    if name.contains(".lora_") || !name.ends_with(".weight") {
        return Err(broken(format!("expected names that end with {A}, {B} or {MAGNITUDE}")));
    }
    Ok(name.replace(".base_layer.", "."))
}

fn check_shape(shape: &[usize], kind: Kind, options: &LoraOptions) -> Result<()> {
    let rank = options.rank;
    let (fits, expected) = match (kind, shape) {
        (Kind::A, [rows, columns]) => (*rows == rank && *columns > 0, format!("a matrix of rank {rank}")),
        (Kind::B, [rows, columns]) => (*rows > 0 && *columns == rank, format!("a matrix of rank {rank}")),
        (Kind::Magnitude, [_]) => (options.dora, "no magnitude where use_dora is false".to_owned()),
        (Kind::Magnitude, _) => (false, "a vector".to_owned()),
        _ => (false, "a matrix".to_owned()),
    };
    if fits { Ok(()) } else { Err(broken(format!("expected {expected}, found shape {shape:?}"))) }
}

/// Whether a module has all that belongs to it.
fn check_whole(matrices: &LoraMatrices, dora: bool) -> Result<()> {
    let module = &matrices.module;
    if matrices.a.is_empty() || matrices.b.is_empty() {
        return Err(broken(format!("{module}: one of its two matrices is missing")));
    }
    match (&matrices.magnitude, matrices.shape()) {
        (None, _) if dora => Err(broken(format!("{module}: expected {MAGNITUDE}, found none (use_dora is true)"))),
        (Some(magnitude), [outputs, _]) if magnitude.len() != outputs => {
            let found = magnitude.len();
            Err(broken(format!("{module}.{MAGNITUDE}: expected {outputs} numbers, found {found}")))
        }
        _ => Ok(()),
    }
}
