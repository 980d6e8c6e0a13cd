//! Whether the weights are those that the configuration asks for.

use std::collections::HashSet;

use super::Checkpoint;
use super::names::{self, Expected, HEAD};
use super::packed;
use super::problems::{Problems, quoted};
use super::tensor::StoredDtype;
use crate::Result;

/// Compares every stored tensor with what `config.json` asks for.
pub(super) fn validate(checkpoint: &Checkpoint) -> Result<()> {
    let problems = Problems::default();
    for fault in &checkpoint.weights.faults {
        problems.add(fault);
    }
    if let Some(packing) = &checkpoint.weights.packing {
        packed::check::check(checkpoint, packing, &problems);
    } else {
        check_published(checkpoint, &problems);
    }
    problems.into_result(&format!("{}: the weights do not fit config.json", checkpoint.dir.display()))
}

fn check_published(checkpoint: &Checkpoint, problems: &Problems) {
    let expected = names::expected(&checkpoint.config);
    for tensor in &expected {
        check(checkpoint, tensor, problems);
    }
    let mut known: HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    // A tied head may be stored too; it then counts (transformers' `tie_weights`).
    known.insert(HEAD);
    for (name, location) in &checkpoint.weights.tensors {
        if !known.contains(name.as_str()) {
            let file = &checkpoint.weights.shards[location.shard].file;
            problems.add(format!("{}: unexpected, in {file}", quoted(&location.stored)));
        }
    }
}

fn check(checkpoint: &Checkpoint, expected: &Expected, problems: &Problems) {
    let Some(location) = checkpoint.locate(&expected.name) else {
        let hint = if expected.name == HEAD { " (and tie_word_embeddings is false)" } else { "" };
        problems.add(format!("{}: missing{hint}, expected {}", expected.name, expected.describe()));
        return;
    };
    let file = &checkpoint.weights.shards[location.shard].file;
    if !expected.fits(&location.shape) {
        let (name, shape) = (quoted(&location.stored), &location.shape);
        problems
            .add(format!("{name}: expected shape {} by config.json, found {shape:?} in {file}", expected.describe()));
    }
    if StoredDtype::from_safetensors(location.dtype).is_none() {
        let (name, dtype) = (quoted(&location.stored), location.dtype);
        problems.add(format!("{name}: expected f32, bf16 or f16, found {dtype} in {file}"));
    }
}
