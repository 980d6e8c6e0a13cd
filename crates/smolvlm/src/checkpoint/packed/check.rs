//! Whether packed weights are those that the configuration asks for.

use std::collections::HashSet;

use safetensors::Dtype;
use serde_json::Value;
use smolvlm_kernels::packed::ALIGNMENT;

use super::metadata::{Packing, describe};
use super::plan::{Plan, Planned};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::Expected;
use crate::checkpoint::problems::{Problems, quoted};
use crate::checkpoint::shards::Location;

/// Compares every stored matrix and vector, and what the files say about them, with what `config.json` asks for.
pub(in crate::checkpoint) fn check(checkpoint: &Checkpoint, packing: &Packing, problems: &Problems) {
    let plan = Plan::new(&checkpoint.config, packing.dtype);
    let mut known = HashSet::new();
    for matrix in &plan.matrices {
        known.insert(matrix.name.as_str());
        check_matrix(checkpoint, packing, matrix, problems);
    }
    for vector in &plan.vectors {
        known.insert(vector.name.as_str());
        check_vector(checkpoint, vector, problems);
    }
    for (name, location) in &checkpoint.weights.tensors {
        if !known.contains(name.as_str()) {
            problems.add(format!("{}: unexpected, in {}", quoted(name), file_of(checkpoint, location)));
        }
    }
}

fn file_of<'a>(checkpoint: &'a Checkpoint, location: &Location) -> &'a str {
    &checkpoint.weights.shards[location.shard].file
}

fn check_matrix(checkpoint: &Checkpoint, packing: &Packing, matrix: &Planned, problems: &Problems) {
    let (name, expected) = (&matrix.name, describe(matrix));
    let Some(location) = checkpoint.weights.tensors.get(name) else {
        return problems.add(format!("{name}: missing, expected {expected}"));
    };
    let file = file_of(checkpoint, location);
    let described = packing.matrices.get(name).unwrap_or(&Value::Null);
    if *described != expected {
        let found = quoted(&described.to_string());
        problems.add(format!("{name}: expected {expected} by config.json, {file} says {found}"));
    }
    let (bytes, found) = (matrix.bytes(), location.range.len());
    if found as u64 != bytes || location.dtype != Dtype::U8 {
        let dtype = location.dtype;
        problems.add(format!("{name}: expected {bytes} packed bytes (U8), found {found} ({dtype}) in {file}"));
    }
    let start = location.range.start;
    if !start.is_multiple_of(ALIGNMENT) {
        problems
            .add(format!("{name}: expected to begin at a multiple of {ALIGNMENT} bytes, begins at {start} in {file}"));
    }
}

fn check_vector(checkpoint: &Checkpoint, vector: &Expected, problems: &Problems) {
    let name = &vector.name;
    let Some(location) = checkpoint.weights.tensors.get(name) else {
        return problems.add(format!("{name}: missing, expected {}", vector.describe()));
    };
    if !vector.fits(&location.shape) || location.dtype != Dtype::F32 {
        let (expected, file) = (vector.describe(), file_of(checkpoint, location));
        let (dtype, shape) = (location.dtype, &location.shape);
        problems.add(format!("{name}: expected F32 {expected} by config.json, found {dtype} {shape:?} in {file}"));
    }
}
