//! A backend that learns: it runs another one's operations, notes them, and goes through them backwards.
//!
//! A model over [`Taped<B>`] is the model over `B`: the same code, the same operations in the same order, the same bits. Between
//! [`begin`](Taped::begin) and [`backward`](Taped::backward) every operation that something learned depends on is noted; what
//! depends on nothing learned is computed and forgotten, and outside of the two nothing is noted at all.

pub(crate) mod adapter;
mod backend;
mod backward;
mod linear;
mod plans;
pub(crate) mod slots;
mod tape;

use std::sync::{Arc, Mutex};

use smolvlm_kernels::{BackendError, RopeTable, TrainBackend};

use crate::lora::LoraOptions;
use crate::parameters::{Kind, Parameter, lock};
use adapter::Adapter;
use plans::{Lent, Plans};
use slots::{Positions, Vector};
use tape::{Op, Operand, Tape};

pub use tape::Recompute;

/// Decides by its name whether a tensor of the checkpoint learns.
pub type Selection = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Backend `B` with a memory of what it did.
pub struct Taped<B: TrainBackend> {
    inner: B,
    selection: Selection,
    recompute: Recompute,
    lora: Option<LoraOptions>,
    /// Names and rows of the tensors that are being stored.
    storing: Mutex<Vec<(String, usize)>>,
    /// In the order in which they were loaded.
    parameters: Mutex<Vec<Arc<Parameter<B>>>>,
    adapters: Mutex<Vec<Arc<Adapter<B>>>>,
    /// What cannot learn although it was asked to.
    refused: Mutex<Option<String>>,
    mode: Mutex<Mode<B>>,
    /// Angles as the wrapped backend takes them, made when it first answers.
    rope: Mutex<Option<KnownRope<B>>>,
    plans: Arc<Plans<B>>,
}

/// Angles, and which ones they were made of.
struct KnownRope<B: TrainBackend> {
    cos: Arc<Vector<B>>,
    inner: Arc<RopeTable<B>>,
}

/// What a step is for.
enum Mode<B: TrainBackend> {
    /// Sequences over a cache, as in inference.
    Answering,
    /// Whole sequences, without a cache; nothing is noted.
    Evaluating,
    /// Whole sequences, noted.
    Learning(Tape<B>),
}

/// Activations, and the operation that they came from.
pub struct Tensor<B: TrainBackend> {
    held: Held<B>,
    node: Option<usize>,
}

enum Held<B: TrainBackend> {
    Value(Arc<B::Tensor>),
    Positions(Arc<Positions<B>>),
    /// Logits, computed where they are needed.
    Later,
}

/// The inputs of a step; a tape may still refer to them when they change.
pub struct Plan<B: TrainBackend>(Arc<Lent<B>>);

impl<B: TrainBackend> Taped<B> {
    /// A backend over which those tensors learn that `selection` picks when a model is loaded.
    pub fn new(inner: B, selection: Selection, recompute: Recompute) -> Self {
        Self {
            inner,
            selection,
            recompute,
            lora: None,
            storing: Mutex::default(),
            parameters: Mutex::default(),
            adapters: Mutex::default(),
            refused: Mutex::default(),
            mode: Mutex::new(Mode::Answering),
            rope: Mutex::default(),
            plans: Arc::default(),
        }
    }

    /// The same, with adapters on the matrices that their options pick.
    #[must_use]
    pub fn with_lora(mut self, lora: LoraOptions) -> Self {
        self.lora = Some(lora);
        self
    }

    /// How adapters are made, if there are any.
    pub fn lora(&self) -> Option<&LoraOptions> {
        self.lora.as_ref()
    }

    /// All adapters, in the order in which their matrices were loaded.
    pub(crate) fn adapters(&self) -> Vec<Arc<Adapter<B>>> {
        lock(&self.adapters).clone()
    }

    /// The backend that computes.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Everything that learns, in the order in which it was loaded.
    pub fn parameters(&self) -> Vec<Arc<Parameter<B>>> {
        lock(&self.parameters).clone()
    }

    /// Notes operations from here on. Steps are over whole sequences, and no cache is read or written. The same seed leaves out
    /// the same numbers where there is dropout.
    pub fn begin(&self, seed: u64) {
        *lock(&self.mode) = Mode::Learning(Tape::new(self.recompute, seed));
    }

    /// Takes whole sequences from here on, without a cache, and notes nothing.
    pub fn begin_evaluation(&self) {
        *lock(&self.mode) = Mode::Evaluating;
    }

    /// Forgets what was noted; steps are those of inference again.
    pub fn end(&self) {
        *lock(&self.mode) = Mode::Answering;
    }

    /// Sets all gradients to zero.
    pub fn clear_gradients(&self) {
        let parameters = lock(&self.parameters);
        let mut gradients: Vec<_> = parameters.iter().map(|parameter| lock(&parameter.gradient)).collect();
        self.inner.clear(&mut gradients.iter_mut().map(|gradient| &mut **gradient).collect::<Vec<_>>());
    }

    /// Adds the gradients of `Σ weightᵢ · cross-entropy(logitsᵢ, targetᵢ)` to the parameters', forgets the tape, and returns
    /// the sum. Logits are computed here, as many rows at a time as take [`LOGITS_BYTES`].
    ///
    /// # Errors
    /// When the machine fails.
    ///
    /// # Panics
    /// When `logits` are not what the model returned since [`begin`](Self::begin), or have another number of rows.
    pub fn backward(&self, logits: &Tensor<B>, targets: &[u32], weights: &[f32]) -> Result<f64, BackendError> {
        let mode = std::mem::replace(&mut *lock(&self.mode), Mode::Answering);
        let Mode::Learning(mut tape) = mode else { panic!("a backward follows a begin") };
        let loss = match (&logits.held, logits.node) {
            (Held::Later, Some(node)) => backward::backward(&self.inner, &mut tape, node, targets, weights),
            // Nothing learns.
            _ => self.inner.cross_entropy_loss(&self.value(logits), targets, weights),
        };
        self.inner.failure()?;
        Ok(loss)
    }

    /// `Σ weightᵢ · cross-entropy(logitsᵢ, targetᵢ)` alone, of logits that were computed while nothing was noted.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn loss(&self, logits: &Tensor<B>, targets: &[u32], weights: &[f32]) -> Result<f64, BackendError> {
        let loss = self.inner.cross_entropy_loss(&self.value(logits), targets, weights);
        self.inner.failure()?;
        Ok(loss)
    }

    /// What a tensor holds; logits are computed.
    fn value(&self, x: &Tensor<B>) -> Arc<B::Tensor> {
        match (&x.held, x.node) {
            (Held::Value(value), _) => value.clone(),
            (Held::Positions(positions), _) => positions.value.get(),
            (Held::Later, node) => {
                let mut mode = lock(&self.mode);
                let (Mode::Learning(tape), Some(node)) = (&mut *mode, node) else {
                    panic!("logits are looked at before their step ends")
                };
                tape.value(&self.inner, Operand::Node(node))
            }
        }
    }

    fn operand(&self, x: &Tensor<B>) -> Operand<B> {
        match x.node {
            Some(node) => Operand::Node(node),
            None => Operand::Constant(self.value(x)),
        }
    }

    /// Runs an operation on the values of its inputs, and notes it if there is anything to learn.
    fn run(&self, op: Op<B>, inputs: Vec<Arc<B::Tensor>>) -> Tensor<B> {
        let mut mode = lock(&self.mode);
        let tape = match &mut *mode {
            Mode::Learning(tape) if op.learns() => tape,
            _ => {
                let (value, _) = op.run(&self.inner, inputs, false);
                return Tensor { held: Held::Value(Arc::new(value)), node: None };
            }
        };
        if matches!(&op, Op::Linear(linear) if linear.reported) {
            return Tensor { held: Held::Later, node: Some(tape.push(op, None, None)) };
        }
        let (value, saved) = op.run(&self.inner, inputs, true);
        let value = Arc::new(value);
        let node = tape.push(op, Some(value.clone()), saved);
        Tensor { held: Held::Value(value), node: Some(node) }
    }

    /// What the next operation's dropout is drawn by; nothing is left out in steps that do not learn.
    fn next_seed(&self) -> Option<u64> {
        match &*lock(&self.mode) {
            Mode::Learning(tape) => Some(tape.next_seed()),
            _ => None,
        }
    }

    fn answers(&self) -> bool {
        matches!(*lock(&self.mode), Mode::Answering)
    }

    /// Angles, which do not learn, as the wrapped backend takes them.
    fn inner_rope(&self, rope: &RopeTable<Self>) -> Arc<RopeTable<B>> {
        let mut known = lock(&self.rope);
        if let Some(known) = known.as_ref().filter(|known| Arc::ptr_eq(&known.cos, &rope.cos)) {
            return known.inner.clone();
        }
        let again = |vector: &Vector<B>| self.inner.vector(&vector.constant);
        let inner = Arc::new(RopeTable { cos: again(&rope.cos), sin: again(&rope.sin) });
        *known = Some(KnownRope { cos: rope.cos.clone(), inner: inner.clone() });
        inner
    }

    /// The parameter of the tensors that are being stored, if they learn; `values` are their numbers.
    fn parameter(&self, learnable: bool, kind: Kind, values: impl FnOnce() -> Vec<f32>) -> Option<Arc<Parameter<B>>> {
        let names: Vec<String> = lock(&self.storing).iter().map(|(name, _)| name.clone()).collect();
        let chosen = names.iter().filter(|name| (self.selection)(name)).count();
        if chosen == 0 {
            return None;
        }
        if chosen < names.len() || !learnable {
            let why = if learnable {
                "are computed as one, so all or none of them learn"
            } else {
                "are quantised and cannot learn"
            };
            lock(&self.refused).get_or_insert_with(|| format!("{} {why}", names.join(", ")));
            return None;
        }
        let mut parameters = lock(&self.parameters);
        if let Some(known) = parameters.iter().find(|known| known.names() == names) {
            return Some(known.clone());
        }
        let parameter = Arc::new(Parameter::new(&self.inner, names, &values(), kind));
        parameters.push(parameter.clone());
        Some(parameter)
    }
}

/// Bytes of logits that exist at a time.
pub const LOGITS_BYTES: usize = 64 << 20;
