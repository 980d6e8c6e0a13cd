//! Tensors that are fetched, folded and rounded when they are written.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};
use smolvlm::checkpoint::{Checkpoint, StoredDtype, StoredTensor};
use smolvlm_kernels::TrainBackend;

use crate::lora::LoraMatrices;
use crate::parameters::Parameter;

/// A tensor that is fetched and rounded when it is written.
pub(super) struct Tensor<'a, B: TrainBackend> {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: StoredDtype,
    pub(super) numbers: Numbers<'a, B>,
    /// Told how many bytes were fetched.
    pub(super) fetched: &'a dyn Fn(usize),
}

/// Where a tensor's numbers come from.
pub(super) enum Numbers<'a, B: TrainBackend> {
    /// As they lie in the file they were loaded from.
    Bytes(StoredTensor<'a>),
    /// The same in another format, or with an adapter that the checkpoint was loaded with.
    Stored(&'a Checkpoint, &'a str),
    /// Part of a parameter, from this number on.
    Learned(&'a B, Arc<Parameter<B>>, usize),
    /// Any of these with an adapter, times its scaling, folded in.
    Merged(Box<Self>, &'a LoraMatrices, f64),
}

impl<B: TrainBackend> Numbers<'_, B> {
    fn to_f32(&self, count: usize) -> Vec<f32> {
        match self {
            Self::Bytes(tensor) => tensor.to_f32(),
            // It was there when it was looked up.
            Self::Stored(source, name) => source.numbers(name).unwrap_or_default(),
            Self::Learned(backend, parameter, first) => parameter.master(backend)[*first..first + count].to_vec(),
            Self::Merged(base, adapter, scaling) => {
                let mut numbers = base.to_f32(count);
                adapter.fold(&mut numbers, *scaling);
                numbers
            }
        }
    }
}

impl<B: TrainBackend> View for Tensor<'_, B> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::Bf16 => Dtype::BF16,
            StoredDtype::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.fetched)(self.data_len());
        match &self.numbers {
            Numbers::Bytes(tensor) => tensor.bytes.into(),
            numbers => rounded(&numbers.to_f32(self.shape.iter().product()), self.dtype).into(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

fn rounded(numbers: &[f32], dtype: StoredDtype) -> Vec<u8> {
    match dtype {
        StoredDtype::F32 => numbers.iter().flat_map(|value| value.to_le_bytes()).collect(),
        StoredDtype::Bf16 => numbers.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        StoredDtype::F16 => numbers.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
    }
}
