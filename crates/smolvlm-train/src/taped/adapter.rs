//! Low-rank adapters of a matrix: `scaling · B · A · dropout(x)` beside `W · x`.
//!
//! Matrices that are computed as one have their adapters computed as one: all `A` one below the other, and all `B` as blocks of
//! one matrix whose other numbers stay zero, since their gradients are masked.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use smolvlm::checkpoint::names::{EMBEDDING, EMBEDDINGS, HEAD};
use smolvlm_kernels::packed::Arrangement;
use smolvlm_kernels::training::{Dropout, LowRank, Rescale};
use smolvlm_kernels::{Activation, Elements, Format, LinearArgs, MatrixView, TrainBackend};

use super::Taped;
use super::linear::{Kept, Linear, Product, TapedNorm, product_backward};
use super::slots::Weight;
use crate::lora::{LoraMatrices, LoraOptions, first_matrix, module_of};
use crate::parameters::{Copy, Kind, Parameter, lock};

/// The adapters of one matrix of products.
pub(crate) struct Adapter<B: TrainBackend> {
    /// `[ranks, inputs]`.
    a: Arc<Weight<B>>,
    /// `[outputs, ranks]`.
    b: Arc<Weight<B>>,
    /// One where `b` has a block, else zero.
    mask: B::Floats,
    scaling: f32,
    dropout: f32,
    inputs: usize,
    ranks: usize,
    parts: Vec<Part>,
    magnitude: Option<Magnitude<B>>,
}

/// DoRA's: rows of the adapted weight are brought to learned lengths, `W + scaling · B · A` times `lengths / norms`. Rows of
/// tensors without an adapter keep theirs.
struct Magnitude<B: TrainBackend> {
    /// `[outputs]`.
    lengths: Arc<Parameter<B>>,
    /// One where a row has an adapter, else zero.
    mask: B::Floats,
    /// Of the adapted weight's rows; computed when they are first needed after `A` or `B` has changed.
    norms: Mutex<Option<Arc<B::Floats>>>,
}

/// One tensor of the checkpoint with an adapter.
struct Part {
    /// `model.text_model.layers.0.self_attn.q_proj`.
    module: String,
    /// Outputs of the matrix.
    rows: Range<usize>,
    ranks: Range<usize>,
}

impl<B: TrainBackend> Taped<B> {
    /// Refuses adapters on the embeddings that are being stored.
    pub(super) fn refuse_adapter(&self) {
        let Some(lora) = &self.lora else { return };
        if let Some((name, _)) = lock(&self.storing).iter().find(|(name, _)| lora.targets.pick(module_of(name))) {
            let why = || format!("{name}: adapters are for matrices of products, not for embeddings");
            lock(&self.refused).get_or_insert_with(why);
        }
    }

    /// The tensors of those that are being stored that options pick, and the rows of all.
    fn picked(&self, lora: &LoraOptions) -> (Vec<Part>, usize) {
        let (mut parts, mut outputs) = (Vec::<Part>::new(), 0);
        for (name, rows) in lock(&self.storing).iter() {
            // A table that is a matrix of products is a tied head.
            let module = module_of(if name == EMBEDDING { HEAD } else { name });
            if lora.targets.pick(module) {
                let ranks = parts.len() * lora.rank..(parts.len() + 1) * lora.rank;
                parts.push(Part { module: module.to_owned(), rows: outputs..outputs + rows, ranks });
            }
            outputs += rows;
        }
        (parts, outputs)
    }

    /// Adapters for the tensors that are being stored as `weight`, where options pick any.
    pub(super) fn adapter(&self, weight: &Weight<B>, inputs: usize, format: Format) -> Option<Arc<Adapter<B>>> {
        let lora = self.lora.as_ref()?;
        if lock(&self.storing).iter().any(|(name, _)| name.starts_with(EMBEDDINGS)) {
            self.refuse_adapter();
            return None;
        }
        let (parts, outputs) = self.picked(lora);
        let ranks = parts.len() * lora.rank;
        if ranks == 0 {
            return None;
        }
        let first: Vec<f32> = parts.iter().flat_map(|part| first_matrix(lora, &part.module, inputs)).collect();
        let mut mask = vec![0.0; outputs * ranks];
        for part in &parts {
            part.rows.clone().for_each(|row| mask[row * ranks..][part.ranks.clone()].fill(1.0));
        }
        let format = format.of_attention();
        let mut adapter = Adapter {
            a: self.low_rank(&parts, "A", ranks, &first, format),
            b: self.low_rank(&parts, "B", outputs, &vec![0.0; outputs * ranks], format),
            mask: self.inner.floats(&mask),
            scaling: lora.scaling() as f32,
            dropout: lora.dropout,
            inputs,
            ranks,
            parts,
            magnitude: None,
        };
        if lora.dora {
            adapter.magnitude = self.magnitude(&adapter, weight);
        }
        let adapter = Arc::new(adapter);
        for parameter in [&adapter.a.parameter, &adapter.b.parameter].into_iter().flatten() {
            parameter.add_copy(Copy::Norms(Arc::downgrade(&adapter)));
        }
        lock(&self.adapters).push(adapter.clone());
        Some(adapter)
    }

    /// One of an adapter's matrices, with its parameter.
    fn low_rank(&self, parts: &[Part], which: &str, rows: usize, numbers: &[f32], format: Format) -> Arc<Weight<B>> {
        let names = parts.iter().map(|part| format!("{}.lora_{which}.weight", part.module)).collect();
        let parameter = Arc::new(Parameter::new(&self.inner, names, numbers, Kind::Adapter));
        let bytes: Vec<u8> = numbers.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = MatrixView::new(rows, numbers.len() / rows, Elements::F32(&bytes));
        let packed = self.inner.pack(&[view], format);
        let weight = Arc::new(Weight::new(packed, rows, Arrangement::Stacked, Some(parameter.clone())));
        parameter.add_copy(Copy::Weight(Arc::downgrade(&weight)));
        lock(&self.parameters).push(parameter);
        weight
    }

    /// Lengths of rows that begin as they are.
    fn magnitude(&self, adapter: &Adapter<B>, weight: &Weight<B>) -> Option<Magnitude<B>> {
        let names: Vec<String> =
            adapter.parts.iter().map(|part| format!("{}.lora_magnitude_vector", part.module)).collect();
        if weight.parameter.is_some() {
            let why = || format!("{}: beside a magnitude the weight itself cannot learn", names.join(", "));
            lock(&self.refused).get_or_insert_with(why);
            return None;
        }
        let norms = self.inner.read(&adapter.row_norms(&self.inner, weight));
        let mut mask = vec![0.0; norms.len()];
        adapter.parts.iter().for_each(|part| mask[part.rows.clone()].fill(1.0));
        let lengths = Arc::new(Parameter::new(&self.inner, names, &norms, Kind::Magnitude));
        lock(&self.parameters).push(lengths.clone());
        Some(Magnitude { lengths, mask: self.inner.floats(&mask), norms: Mutex::default() })
    }
}

impl<B: TrainBackend> Adapter<B> {
    /// `first`: rows before those that are computed.
    fn dropout(&self, seed: Option<u64>, first: usize) -> Option<Dropout> {
        let seed = seed.filter(|_| self.dropout > 0.0)?;
        Some(Dropout { rate: self.dropout, factor: 1.0, seed }.after((first * self.inputs) as u64))
    }

    fn row_norms(&self, backend: &B, weight: &Weight<B>) -> B::Floats {
        let masters = [&self.a, &self.b].map(|matrix| matrix.parameter.as_ref().expect("an adapter learns"));
        let [a, b] = masters.map(|parameter| lock(&parameter.master));
        let low = LowRank { a: &*a, b: &*b, scale: self.scaling };
        backend.row_norms(&weight.value.get(), weight.arrangement, low)
    }

    /// `A` or `B` has changed.
    pub(crate) fn forget_norms(&self) {
        if let Some(magnitude) = &self.magnitude {
            *lock(&magnitude.norms) = None;
        }
    }

    /// Whether rows are brought to learned lengths.
    pub(super) fn rescales(&self) -> bool {
        self.magnitude.is_some()
    }

    /// Calls `body` with the lengths and norms of rows, if it has any.
    pub(super) fn with_rescale<R>(
        &self,
        backend: &B,
        weight: &Weight<B>,
        body: impl FnOnce(Rescale<'_, B>) -> R,
    ) -> Option<R> {
        let magnitude = self.magnitude.as_ref()?;
        let fresh = || Arc::new(self.row_norms(backend, weight));
        let norms = lock(&magnitude.norms).get_or_insert_with(fresh).clone();
        let lengths = lock(&magnitude.lengths.master);
        Some(body(Rescale { lengths: &lengths, norms: &norms }))
    }

    /// Adds to the gradient of the lengths, and returns that of the product before they were applied; nothing without lengths.
    pub(super) fn rescale_backward(
        &self,
        backend: &B,
        weight: &Weight<B>,
        kept: &Kept<B>,
        dy: &B::Tensor,
    ) -> Option<B::Tensor> {
        let (magnitude, product) = (self.magnitude.as_ref()?, kept.product.as_ref()?);
        self.with_rescale(backend, weight, |rescale| {
            let mut gradient = lock(&magnitude.lengths.gradient);
            let dproduct = backend.rescale_backward(product, dy, rescale, &mut gradient);
            backend.multiply(&mut gradient, &magnitude.mask);
            dproduct
        })
    }

    fn scale(&self) -> Dropout {
        Dropout { rate: 0.0, factor: self.scaling, seed: 0 }
    }

    /// What is between the two matrices, scaled, and what comes of both.
    pub(super) fn run(
        &self,
        backend: &B,
        x: &B::Tensor,
        norm: Option<&TapedNorm<B>>,
        (seed, first): (Option<u64>, usize),
    ) -> (B::Tensor, B::Tensor) {
        let (a, b) = (self.a.value.get(), self.b.value.get());
        let low = match self.dropout(seed, first) {
            Some(dropout) => backend.linear(LinearArgs::new(&self.input(backend, x, norm, dropout), &*a)),
            None => TapedNorm::with_any(norm, |norm| backend.linear(LinearArgs { norm, ..LinearArgs::new(x, &*a) })),
        };
        let low = backend.dropout(low, self.scale());
        let addend = backend.linear(LinearArgs::new(&low, &*b));
        (low, addend)
    }

    /// The normalised input with some numbers left out.
    fn input(&self, backend: &B, x: &B::Tensor, norm: Option<&TapedNorm<B>>, dropout: Dropout) -> B::Tensor {
        let normed = norm.map_or_else(|| backend.copy(x), |norm| norm.with(|norm| backend.norm(x, norm)));
        backend.dropout(normed, dropout)
    }

    /// Adds to the gradients of both matrices, and of the norm, and returns that of `x`: `onto` plus what passes through here.
    pub(super) fn backward(
        &self,
        backend: &B,
        linear: &Linear<B>,
        x: &B::Tensor,
        kept: &Kept<B>,
        dy: &B::Tensor,
        onto: Option<B::Tensor>,
    ) -> Option<B::Tensor> {
        // What was kept is not looked at where there is no activation.
        let plain = |x, weight: &Weight<B>, dy, passes: bool, norm, onto| {
            let transposed = passes.then(|| weight.transposed(backend));
            let activation = Activation::Identity;
            let product = Product { x, activation, saved: &kept.saved, dy, onto, bias: None };
            product_backward(backend, weight, transposed.as_deref(), norm, product)
        };
        let dlow = plain(kept.low.as_ref()?, &self.b, dy, true, None, None)?;
        if let Some(parameter) = &self.b.parameter {
            backend.multiply(&mut lock(&parameter.gradient), &self.mask);
        }
        let dlow = backend.dropout(dlow, self.scale());
        let (norm, passes) = (linear.norm.as_ref(), linear.passes());
        let Some(dropout) = self.dropout(linear.seed, kept.first) else {
            return plain(x, &self.a, &dlow, passes, norm, onto);
        };
        let input = self.input(backend, x, norm, dropout);
        let Some(dinput) = plain(&input, &self.a, &dlow, passes, None, None) else { return onto };
        let dinput = backend.dropout(dinput, dropout);
        Some(match (norm, onto) {
            (Some(norm), onto) => norm.backward(backend, x, &dinput, onto),
            (None, Some(onto)) => backend.add(onto, &dinput),
            (None, None) => dinput,
        })
    }

    /// Both matrices of each of its tensors, on the host.
    pub(crate) fn matrices(&self, backend: &B) -> Vec<LoraMatrices> {
        let master =
            |weight: &Weight<B>| weight.parameter.as_ref().map_or_else(Vec::new, |known| known.master(backend));
        let (a, b) = (master(&self.a), master(&self.b));
        let lengths = self.magnitude.as_ref().map(|magnitude| magnitude.lengths.master(backend));
        let of = |part: &Part| {
            let columns = |row: usize| &b[row * self.ranks..][part.ranks.clone()];
            LoraMatrices {
                module: part.module.clone(),
                rank: part.ranks.len(),
                a: a[part.ranks.start * self.inputs..part.ranks.end * self.inputs].to_vec(),
                b: part.rows.clone().flat_map(columns).copied().collect(),
                magnitude: lengths.as_ref().map(|lengths| lengths[part.rows.clone()].to_vec()),
            }
        };
        self.parts.iter().map(of).collect()
    }

    /// Takes the matrices of each of its tensors from `find`; those that it does not have stay as they are.
    pub(crate) fn set_matrices<'f>(&self, backend: &B, find: impl Fn(&str) -> Option<&'f LoraMatrices>) {
        let [Some(first), Some(second)] = [&self.a.parameter, &self.b.parameter] else { return };
        let (mut a, mut b) = (first.master(backend), second.master(backend));
        for part in &self.parts {
            let Some(found) = find(&part.module) else { continue };
            a[part.ranks.start * self.inputs..part.ranks.end * self.inputs].copy_from_slice(&found.a);
            for (row, numbers) in part.rows.clone().zip(found.b.chunks(found.rank)) {
                b[row * self.ranks..][part.ranks.clone()].copy_from_slice(numbers);
            }
        }
        for (parameter, numbers) in [(first, a), (second, b)] {
            *lock(&parameter.master) = backend.floats(&numbers);
            parameter.refresh(backend);
        }
        let Some(Magnitude { lengths: parameter, .. }) = &self.magnitude else { return };
        let mut lengths = parameter.master(backend);
        for part in &self.parts {
            if let Some(found) = find(&part.module).and_then(|known| known.magnitude.as_ref()) {
                lengths[part.rows.clone()].copy_from_slice(found);
            }
        }
        *lock(&parameter.master) = backend.floats(&lengths);
    }

    /// Its tensors' modules, with outputs and inputs.
    pub(crate) fn modules(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        self.parts.iter().map(|part| (part.module.as_str(), part.rows.len(), self.inputs))
    }
}
