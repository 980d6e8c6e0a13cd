//! What learns: master weights with their gradients, and the copies that the model computes with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smolvlm_kernels::TrainBackend;

use crate::taped::adapter::Adapter;
use crate::taped::slots::{Positions, Table, Vector, Weight};

/// A part of the model with a learning rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// The vision tower.
    Vision,
    /// Between the two.
    Connector,
    /// The text model, its embeddings and its head.
    Text,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 3] = [Self::Vision, Self::Connector, Self::Text];

    /// The group of a checkpoint's tensor.
    pub fn of(name: &str) -> Self {
        if name.starts_with("model.vision_model.") {
            Self::Vision
        } else if name.starts_with("model.connector.") {
            Self::Connector
        } else {
            Self::Text
        }
    }
}

/// Tensors of the checkpoint that are computed with as one (queries, keys and values; gate and up; or one alone): master
/// weights and their gradient, both f32.
pub struct Parameter<B: TrainBackend> {
    names: Vec<String>,
    len: usize,
    kind: Kind,
    pub(crate) master: Mutex<B::Floats>,
    pub(crate) gradient: Mutex<B::Floats>,
    copies: Mutex<Vec<Copy<B>>>,
}

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Matrices of products.
    Matrix,
    /// Norms, biases, embeddings.
    Other,
    /// Of an adapter: no tensors of the checkpoint.
    Adapter,
    /// The same: lengths of rows.
    Magnitude,
}

/// Where a parameter's numbers are used, as they are stored there.
pub(crate) enum Copy<B: TrainBackend> {
    Weight(Weak<Weight<B>>),
    Table(Weak<Table<B>>),
    Vector(Weak<Vector<B>>),
    Positions(Weak<Positions<B>>),
    /// Norms of rows, of an adapter with magnitudes.
    Norms(Weak<Adapter<B>>),
}

impl<B: TrainBackend> Parameter<B> {
    pub(crate) fn new(backend: &B, names: Vec<String>, values: &[f32], kind: Kind) -> Self {
        Self {
            names,
            len: values.len(),
            kind,
            master: Mutex::new(backend.floats(values)),
            gradient: Mutex::new(backend.zeros(values.len())),
            copies: Mutex::default(),
        }
    }

    /// The tensors it is made of, one after another.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether weight decay applies: to matrices of products and adapters, not to norms, biases, embeddings and magnitudes.
    pub fn decays(&self) -> bool {
        matches!(self.kind, Kind::Matrix | Kind::Adapter)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its group; tensors that are stacked are of one.
    pub fn group(&self) -> Group {
        Group::of(self.names.first().map_or("", String::as_str))
    }

    /// Master weights, on the host.
    pub fn master(&self, backend: &B) -> Vec<f32> {
        backend.read(&lock(&self.master))
    }

    /// Sum of the gradients since the last update, on the host.
    pub fn gradient(&self, backend: &B) -> Vec<f32> {
        backend.read(&lock(&self.gradient))
    }

    pub(crate) fn add_copy(&self, copy: Copy<B>) {
        lock(&self.copies).push(copy);
    }

    /// Brings every copy to the master's numbers.
    pub(crate) fn refresh(&self, backend: &B) {
        let master = lock(&self.master);
        for copy in lock(&self.copies).iter() {
            match copy {
                Copy::Weight(weight) => on(weight, |weight| weight.refresh(backend, &master)),
                Copy::Table(table) => {
                    on(table, |table| table.value.change(|value| backend.repack_table(value, &master)));
                }
                Copy::Vector(vector) => {
                    on(vector, |vector| vector.value.change(|value| backend.repack_vector(value, &master)));
                }
                Copy::Positions(positions) => {
                    on(positions, |positions| positions.value.change(|value| backend.repack_tensor(value, &master)));
                }
                Copy::Norms(adapter) => on(adapter, Adapter::forget_norms),
            }
        }
    }
}

/// A copy whose model is gone needs nothing.
fn on<T>(copy: &Weak<T>, refresh: impl FnOnce(&T)) {
    if let Some(copy) = copy.upgrade() {
        refresh(&copy);
    }
}

/// A parameter's gradient, if it learns.
pub(crate) fn gradient_of<B: TrainBackend>(parameter: Option<&Arc<Parameter<B>>>) -> Option<MutexGuard<'_, B::Floats>> {
    parameter.map(|parameter| lock(&parameter.gradient))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
