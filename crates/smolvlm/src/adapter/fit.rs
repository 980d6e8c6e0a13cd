//! Whether an adapter belongs to a checkpoint.

use super::{AdapterFile, BaseCopy, LoraMatrices};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::{EMBEDDING, EMBEDDINGS};
use crate::{Error, Result};

impl AdapterFile {
    /// Compares every module with the checkpoint's tensors.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input): names the tensor, the shape of the checkpoint's and the adapter's;
    /// [`Usage`](crate::ErrorKind::Usage) when the checkpoint's weights are packed.
    pub fn check_fits(&self, checkpoint: &Checkpoint) -> Result<()> {
        if let Some(packed) = checkpoint.packed_as() {
            let (place, packed) = (checkpoint.dir().display(), packed.name());
            return Err(Error::usage(format!(
                "{place}: its weights are packed as {packed}, and an adapter is folded in before they are; give the original \
                 checkpoint (any --dtype), or pack it with the adapter (quantize --adapter)"
            )));
        }
        if self.matrices.is_empty() {
            return Err(Error::input("the adapter has no matrices"));
        }
        self.matrices.iter().try_for_each(|matrices| check(matrices, checkpoint))?;
        self.copies.iter().try_for_each(|copy| check_copy(copy, checkpoint))
    }
}

fn check(matrices: &LoraMatrices, checkpoint: &Checkpoint) -> Result<()> {
    let name = format!("{}.weight", matrices.module);
    let shape = matrices.shape();
    if name == EMBEDDING || name.starts_with(EMBEDDINGS) {
        return Err(Error::input(format!("{name}: adapters of embeddings are not computed here")));
    }
    let Ok(tensor) = checkpoint.tensor(&name) else {
        let place = checkpoint.dir().display();
        return Err(Error::input(format!("{name}: the adapter is for {shape:?}, {place} has no such tensor")));
    };
    if tensor.shape != shape {
        let (place, expected) = (checkpoint.dir().display(), tensor.shape);
        return Err(Error::input(format!(
            "{name}: expected an adapter for {expected:?} of {place}, found one for {shape:?}"
        )));
    }
    Ok(())
}

/// A copy that says something new would be a change of the base that is not applied.
fn check_copy(copy: &BaseCopy, checkpoint: &Checkpoint) -> Result<()> {
    let BaseCopy { name, numbers } = copy;
    if checkpoint.tensor(name).is_ok_and(|tensor| tensor.to_f32() == *numbers) {
        return Ok(());
    }
    Err(Error::input(format!(
        "{name}: the adapter brings a tensor that is not the checkpoint's; only low-rank changes are applied"
    )))
}
