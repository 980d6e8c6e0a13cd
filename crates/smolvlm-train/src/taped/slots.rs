//! What a model over [`Taped`](super::Taped) holds in place of weights: the wrapped backend's, which change from step to step,
//! and the parameters that they are made of.

use std::sync::{Arc, Mutex};

use smolvlm_kernels::TrainBackend;
use smolvlm_kernels::packed::Arrangement;

use super::adapter::Adapter;
use crate::parameters::{Parameter, lock};

/// A value that changes between steps only.
pub(crate) struct Slot<T>(Mutex<Arc<T>>);

impl<T> Slot<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    pub(super) fn get(&self) -> Arc<T> {
        lock(&self.0).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        let mut value = lock(&self.0);
        change(Arc::get_mut(&mut value).expect("weights change between steps, when nothing computes with them"));
    }
}

/// A matrix of products.
pub struct Weight<B: TrainBackend> {
    pub(super) value: Slot<B::Weight>,
    /// Rows of the matrix.
    pub(super) outputs: usize,
    pub(super) arrangement: Arrangement,
    /// Made when a gradient first has to pass.
    transposed: Mutex<Option<Arc<B::Transposed>>>,
    pub(super) parameter: Option<Arc<Parameter<B>>>,
    pub(super) adapter: Option<Arc<Adapter<B>>>,
}

impl<B: TrainBackend> Weight<B> {
    pub(super) fn new(
        weight: B::Weight,
        outputs: usize,
        arrangement: Arrangement,
        parameter: Option<Arc<Parameter<B>>>,
    ) -> Self {
        Self { value: Slot::new(weight), outputs, arrangement, transposed: Mutex::default(), parameter, adapter: None }
    }

    /// Whether anything in it learns.
    pub(super) fn learns(&self) -> bool {
        self.parameter.is_some() || self.adapter.is_some()
    }

    pub(super) fn transposed(&self, backend: &B) -> Arc<B::Transposed> {
        let make = || Arc::new(backend.transposed(&self.value.get(), self.arrangement));
        lock(&self.transposed).get_or_insert_with(make).clone()
    }

    pub(crate) fn refresh(&self, backend: &B, master: &B::Floats) {
        let mut transposed = lock(&self.transposed);
        let transposed = transposed.as_mut().map(|transposed| {
            Arc::get_mut(transposed).expect("weights change between steps, when nothing computes with them")
        });
        self.value.change(|weight| backend.repack(weight, transposed, self.arrangement, master));
    }
}

/// An embedding table.
pub struct Table<B: TrainBackend> {
    pub(crate) value: Slot<B::Table>,
    pub(super) parameter: Option<Arc<Parameter<B>>>,
}

/// A vector: a bias, a norm's numbers, angles.
pub struct Vector<B: TrainBackend> {
    pub(crate) value: Slot<B::Vector>,
    pub(super) parameter: Option<Arc<Parameter<B>>>,
    /// Its numbers, if no checkpoint has them.
    pub(super) constant: Vec<f32>,
}

/// Activations that are a parameter: position embeddings.
pub(crate) struct Positions<B: TrainBackend> {
    pub(crate) value: Slot<B::Tensor>,
    pub(super) parameter: Arc<Parameter<B>>,
}
