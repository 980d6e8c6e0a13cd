//! A place in a checkpoint, from which layers take their weights by the names published checkpoints use, whether they
//! are packed already or not.

use smolvlm_kernels::packed::{Arrangement, PackedMatrix, PackedShape};
use smolvlm_kernels::{Backend, Format, MatrixView};

use crate::checkpoint::packed::plan::{stacked_name, storage_format};
use crate::checkpoint::{Checkpoint, StoredDtype, StoredTensor};
use crate::{Error, Result};

/// The tensors whose names begin with a prefix.
pub(super) struct WeightsAt<'a, B: Backend> {
    backend: &'a B,
    checkpoint: &'a Checkpoint,
    format: Format,
    prefix: String,
}

impl<'a, B: Backend> WeightsAt<'a, B> {
    pub(super) fn root(backend: &'a B, checkpoint: &'a Checkpoint, format: Format) -> Self {
        Self { backend, checkpoint, format, prefix: String::new() }
    }

    /// The tensors below `name`.
    pub(super) fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = format!("{}{name}.", self.prefix);
        Self { backend: self.backend, checkpoint: self.checkpoint, format: self.format, prefix }
    }

    pub(super) fn backend(&self) -> &'a B {
        self.backend
    }

    /// A vector of `len` numbers.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<B::Vector> {
        self.vectors(&[name], len)
    }

    /// Several vectors one after another.
    pub(super) fn vectors(&self, names: &[&str], len: usize) -> Result<B::Vector> {
        let parts: Vec<Vec<f32>> = names.iter().map(|name| self.numbers(name, &[len])).collect::<Result<_>>()?;
        let lengths: Vec<(&str, usize)> = names.iter().map(|name| (*name, len)).collect();
        Ok(self.storing(&lengths, || self.backend.vector(&parts.concat())))
    }

    /// Some rows of a small matrix `[rows, width]`, as activations; known by the matrix's name if they are all of it, in order.
    pub(super) fn rows(&self, name: &str, rows: &[usize], width: usize) -> Result<B::Tensor> {
        let table = self.numbers(name, &[rows.len(), width])?;
        let picked: Vec<f32> = rows.iter().flat_map(|row| &table[row * width..][..width]).copied().collect();
        let whole = rows.iter().enumerate().all(|(i, row)| i == *row);
        let parts: &[(&str, usize)] = if whole { &[(name, rows.len())] } else { &[] };
        Ok(self.storing(parts, || self.backend.upload(rows.len(), width, &picked)))
    }

    /// All numbers of a small tensor.
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.checkpoint.tensor(&name)?;
        check_shape(&tensor, shape)?;
        let numbers = tensor.to_f32();
        self.checkpoint.release(&name);
        Ok(numbers)
    }

    /// The matrix `[outputs, inputs]` of one linear layer.
    pub(super) fn matrix(&self, name: &str, outputs: usize, inputs: usize) -> Result<B::Weight> {
        self.stacked(&[(name, outputs)], inputs)
    }

    /// Several matrices of one width as one, their outputs one after another.
    pub(super) fn stacked(&self, parts: &[(&str, usize)], inputs: usize) -> Result<B::Weight> {
        match self.stored(parts, inputs, Arrangement::Stacked)? {
            Stored::Packed(matrix) => Ok(self.storing(parts, || self.backend.packed(matrix))),
            Stored::Published(format) => self.pack(parts, inputs, |views| self.backend.pack(views, format)),
        }
    }

    /// A gate and an up projection, `[outputs, inputs]` each.
    pub(super) fn gate_up(&self, gate: &str, up: &str, outputs: usize, inputs: usize) -> Result<B::Weight> {
        let parts = [(gate, outputs), (up, outputs)];
        match self.stored(&parts, inputs, Arrangement::GateUp)? {
            Stored::Packed(matrix) => Ok(self.storing(&parts, || self.backend.packed(matrix))),
            Stored::Published(format) => {
                self.pack(&parts, inputs, |views| self.backend.pack_gate_up(views[0], views[1], format))
            }
        }
    }

    /// A table of `rows` rows.
    pub(super) fn table(&self, name: &str, rows: usize, width: usize) -> Result<B::Table> {
        let parts = [(name, rows)];
        match self.stored(&parts, width, Arrangement::Table)? {
            Stored::Packed(matrix) => Ok(self.storing(&parts, || self.backend.packed_table(matrix))),
            Stored::Published(format) => self.pack(&parts, width, |views| self.backend.table(views[0], format)),
        }
    }

    /// How the checkpoint holds what the named matrices make.
    fn stored(&self, parts: &[(&str, usize)], inputs: usize, arrangement: Arrangement) -> Result<Stored> {
        let name = stacked_name(&self.full_names(parts));
        let format = storage_format(&name, self.format);
        if self.checkpoint.packed_as().is_none() {
            return Ok(Stored::Published(format));
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape = PackedShape { rows, inputs, arrangement, format };
        self.checkpoint.packed(&name, shape).map(Stored::Packed)
    }

    /// Stores what is made of parts below this place.
    fn storing<T>(&self, parts: &[(&str, usize)], store: impl FnOnce() -> T) -> T {
        let names = self.full_names(parts);
        let parts: Vec<(&str, usize)> =
            names.iter().zip(parts).map(|(name, (_, rows))| (name.as_str(), *rows)).collect();
        self.backend.storing(&parts, store)
    }

    fn full_names(&self, parts: &[(&str, usize)]) -> Vec<String> {
        parts.iter().map(|(name, _)| format!("{}{name}", self.prefix)).collect()
    }

    /// Hands views of the named matrices to `pack`, an adapter folded in, and their pages back to the system afterwards.
    fn pack<T>(&self, parts: &[(&str, usize)], inputs: usize, pack: impl FnOnce(&[MatrixView<'_>]) -> T) -> Result<T> {
        let names = self.full_names(parts);
        let folded: Vec<Option<Vec<u8>>> = names.iter().map(|name| self.folded(name)).collect::<Result<_>>()?;
        let tensors: Vec<StoredTensor<'_>> =
            names.iter().zip(&folded).map(|(name, folded)| self.tensor(name, folded)).collect::<Result<_>>()?;
        let views: Vec<MatrixView<'_>> = tensors
            .iter()
            .zip(parts)
            .map(|(tensor, (_, outputs))| view(*tensor, *outputs, inputs))
            .collect::<Result<_>>()?;
        // A tied head goes by its table's name.
        let stored: Vec<(&str, usize)> =
            tensors.iter().zip(parts).map(|(tensor, (_, outputs))| (tensor.name, *outputs)).collect();
        let packed = self.backend.storing(&stored, || pack(&views));
        names.iter().for_each(|name| self.checkpoint.release(name));
        Ok(packed)
    }

    /// The numbers of a tensor that an adapter changes, as bytes.
    fn folded(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if !self.checkpoint.is_adapted(name) {
            return Ok(None);
        }
        let numbers = self.checkpoint.numbers(name)?;
        Ok(Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()))
    }

    /// A tensor as it lies in its file, or with other numbers.
    fn tensor<'t>(&'t self, name: &'t str, folded: &'t Option<Vec<u8>>) -> Result<StoredTensor<'t>> {
        let tensor = self.checkpoint.tensor(name)?;
        Ok(match folded {
            Some(bytes) => StoredTensor { name, dtype: StoredDtype::F32, bytes, ..tensor },
            None => tensor,
        })
    }
}

/// How a checkpoint holds a matrix.
enum Stored {
    /// Packed, in the file.
    Packed(PackedMatrix),
    /// As published; to be packed in this format.
    Published(Format),
}

/// A tensor as a matrix; dimensions after the first are flattened (a convolution's kernel is one row per output).
fn view<'a>(tensor: StoredTensor<'a>, rows: usize, cols: usize) -> Result<MatrixView<'a>> {
    let flat: usize = tensor.shape.iter().skip(1).product();
    if tensor.shape.first() != Some(&rows) || flat != cols {
        return Err(wrong_shape(&tensor, &[rows, cols]));
    }
    Ok(MatrixView::new(rows, cols, tensor.elements()))
}

fn check_shape(tensor: &StoredTensor<'_>, shape: &[usize]) -> Result<()> {
    if tensor.shape == shape { Ok(()) } else { Err(wrong_shape(tensor, shape)) }
}

fn wrong_shape(tensor: &StoredTensor<'_>, expected: &[usize]) -> Error {
    Error::checkpoint(format!("{}: expected shape {expected:?}, found {:?}", tensor.name, tensor.shape))
}
