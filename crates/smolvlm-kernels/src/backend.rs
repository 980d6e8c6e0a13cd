//! The seam between a model and the machine that computes it.

use std::fmt;
use std::ops::Range;

use crate::choose::{Draw, drawn};
use crate::packed::PackedMatrix;
use crate::view::{Format, MatrixView};

/// Tokens in one page of the key-value cache, on every backend.
pub const PAGE_TOKENS: usize = 64;

/// What a backend computes with, and the operations a SmolVLM is made of.
///
/// Activations are matrices `[rows, width]`; the rows of every sequence (or tile) of a batch stand one after another
/// and no padding is ever computed. What changes from step to step (ids, positions, pages) lives in a
/// [`Plan`](Self::Plan): operations read it, never host values, so that a device may record a step once and replay it.
///
/// Operations panic on shapes that do not fit: a model that was validated when it was loaded never asks for them.
/// Failures of the machine surface in [`step`](Self::step).
pub trait Backend: Send + Sync + Sized + 'static {
    /// Activations `[rows, width]`.
    type Tensor: Send + Sync + 'static;
    /// A matrix `[outputs, inputs]` of a linear layer, packed in a storage format.
    type Weight: Send + Sync;
    /// A matrix of which single rows are read: embeddings.
    type Table: Send + Sync;
    /// A vector of f32: biases, norm weights.
    type Vector: Send + Sync;
    /// Keys and values of many sequences, in pages of [`PAGE_TOKENS`].
    type Cache: Send + Sync;
    /// What one step works on.
    type Plan: Send + Sync;
    /// A whole text model, for a backend that computes one token of one sequence at once.
    type Decoder: Send + Sync;

    /// Runs `store`, which stores what is made of tensors with these names and numbers of rows (a vector's numbers), one after
    /// another: for a backend that knows parameters by their names. Others just run it.
    fn storing<T>(&self, _parts: &[(&str, usize)], store: impl FnOnce() -> T) -> T {
        store()
    }
    /// Packs the rows of `parts`, stacked, as one matrix.
    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Self::Weight;
    /// Packs a gate and an up projection for [`Activation::SwiGlu`].
    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Self::Weight;
    /// Stores a matrix for [`embed`](Self::embed).
    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Self::Table;
    /// What [`pack`](Self::pack) or [`pack_gate_up`](Self::pack_gate_up) made of it, from a file: equal to the bit. A
    /// backend may use it where it lies, or [unpack](crate::packed::unpack) it into a layout of its own.
    fn packed(&self, matrix: PackedMatrix) -> Self::Weight;
    /// What [`table`](Self::table) made of it, from a file.
    fn packed_table(&self, table: PackedMatrix) -> Self::Table;
    /// Stores a vector.
    fn vector(&self, values: &[f32]) -> Self::Vector;
    /// Copies rows from the host: `values` is `[rows, width]`.
    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Self::Tensor;
    /// Copies activations to the host.
    fn download(&self, x: &Self::Tensor) -> Vec<f32> {
        let mut values = Vec::new();
        self.download_rows(x, 0..self.rows(x), &mut values);
        values
    }
    /// How many rows activations have.
    fn rows(&self, x: &Self::Tensor) -> usize;
    /// Replaces `values` by a copy of some rows of activations, in the memory that it has.
    fn download_rows(&self, x: &Self::Tensor, rows: Range<usize>, values: &mut Vec<f32>);

    /// A copy of a step's result in memory that outlasts steps, for a device whose activations do not; none where a copy on the host does as
    /// well, or when there is no room for more.
    fn keep(&self, _x: &Self::Tensor) -> Option<Self::Tensor> {
        None
    }
    /// Waits until everything that was started has ended.
    ///
    /// # Errors
    /// When something failed.
    fn wait(&self) -> Result<(), BackendError> {
        self.failure()
    }

    /// Replaces `choices` by the place of the largest number of each row of logits, the first of equals.
    fn largest_into(&self, x: &Self::Tensor, choices: &mut Vec<u32>);
    /// Replaces `choices` by a random token for each draw from rows of logits.
    fn draw_into(&self, x: &Self::Tensor, draws: &[Draw], choices: &mut Vec<u32>) {
        let mut logits = Vec::new();
        choices.clear();
        for Draw { row, rules, uniform } in draws {
            self.download_rows(x, *row..*row + 1, &mut logits);
            choices.push(drawn(&logits, rules, *uniform));
        }
    }
    /// What failed since this was last asked, outside of steps: packing, copying.
    ///
    /// # Errors
    /// When something did.
    fn failure(&self) -> Result<(), BackendError> {
        Ok(())
    }
    /// How much work at once it takes to keep the machine busy.
    fn appetite(&self) -> Appetite;
    /// What the machine can do at most with weights of a format, measured; takes about a second.
    fn measure_ceilings(&self, format: Format) -> Ceilings;
    /// Most bytes of a device's own memory that this backend ever held; none for a backend that computes in the
    /// machine's.
    fn most_memory(&self) -> Option<u64> {
        None
    }
    /// Bytes that a device has left of its own memory for weights, keys and values; none for a backend that computes in the
    /// machine's.
    fn memory_left(&self) -> Option<u64> {
        None
    }

    /// An empty cache that can hold `shape.pages` pages; pages take memory when they are first written.
    fn cache(&self, shape: CacheShape) -> Self::Cache;
    /// Gives back the memory of pages that no sequence uses any more.
    fn release_pages(&self, cache: &mut Self::Cache, pages: &[u32]);

    /// An empty plan.
    fn plan(&self) -> Self::Plan;
    /// Prepares a step over tokens, and room in `cache` for its pages.
    fn fill_tokens(&self, plan: &mut Self::Plan, cache: &mut Self::Cache, batch: &TokenBatch);
    /// Prepares a step over tiles.
    fn fill_tiles(&self, plan: &mut Self::Plan, batch: TileBatch<'_>);
    /// Runs `body`, which computes a step's result from the plan.
    ///
    /// # Errors
    /// When the machine fails: out of memory, a lost device.
    fn step(&self, plan: &Self::Plan, body: impl FnOnce() -> Self::Tensor + Send)
    -> Result<Self::Tensor, BackendError>;
    /// As [`step`](Self::step), for a body that is the same work whenever the plan has the same shape: a device may record
    /// it once and replay it, without calling `body` again.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn repeated_step(
        &self,
        plan: &Self::Plan,
        body: impl FnOnce() -> Self::Tensor + Send,
    ) -> Result<Self::Tensor, BackendError> {
        self.step(plan, body)
    }

    /// Prepares [`decode`](Self::decode) for a text model, whose weights must outlive what this returns. None where such a
    /// backend, or such a model, has no way of its own.
    fn decoder(&self, _text: &DecoderWeights<'_, Self>) -> Option<Self::Decoder> {
        None
    }
    /// The whole step of a plan with one token of one sequence: what the operations below compute, in another order of sums.
    /// None when the plan is of another kind.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn decode(
        &self,
        _plan: &Self::Plan,
        _decoder: &Self::Decoder,
        _cache: &mut Self::Cache,
    ) -> Option<Result<Self::Tensor, BackendError>> {
        None
    }

    /// Rows of `table` for the plan's ids: `[T, width]`.
    fn embed(&self, plan: &Self::Plan, table: &Self::Table) -> Self::Tensor;
    /// Replaces the plan's feature rows of `x` by rows of `sources` (image features into the token stream).
    fn scatter_features(&self, plan: &Self::Plan, x: Self::Tensor, sources: &[&Self::Tensor]) -> Self::Tensor;
    /// The plan's tiles cut into patches, projected, plus position embeddings: `[tiles × patches, width]`.
    fn patch_embed(&self, plan: &Self::Plan, args: PatchArgs<'_, Self>) -> Self::Tensor;
    /// `epilogue(norm(x) · Wᵀ)`, `[rows, outputs]`.
    fn linear(&self, args: LinearArgs<'_, Self>) -> Self::Tensor;
    /// `norm(x)`.
    fn norm(&self, x: &Self::Tensor, norm: Norm<'_, Self>) -> Self::Tensor;
    /// Full attention inside each group of `tile_rows` rows. `qkv` is `[rows, 3 × heads × d]`; scores are scaled by
    /// `d^-0.5`. Returns `[rows, heads × d]`.
    fn tile_attention(&self, qkv: &Self::Tensor, tile_rows: usize, heads: usize) -> Self::Tensor;
    /// Rotates the queries and keys of `qkv` (`[T, (heads + 2 × kv_heads) × d]`) to the plan's positions, appends keys
    /// and values to the plan's pages of `layer`, and attends causally over them. Returns `[T, heads × d]`.
    fn cached_attention(
        &self,
        plan: &Self::Plan,
        qkv: Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Self::Tensor;
    /// Each `scale × scale` block of a `side × side` grid of rows becomes one row (block row first):
    /// `[tiles × side², width]` → `[tiles × (side / scale)², scale² × width]`.
    fn pixel_shuffle(&self, x: &Self::Tensor, side: usize, scale: usize) -> Self::Tensor;
    /// The plan's output rows of `x`: logits are computed only where they are wanted.
    fn gather_outputs(&self, plan: &Self::Plan, x: &Self::Tensor) -> Self::Tensor;
}

/// What a machine can do at most, per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Operations of products with weights.
    pub matrices: f64,
    /// Operations of products in attention.
    pub attention: f64,
    /// Bytes moved to or from memory.
    pub memory: f64,
}

/// How much work at once keeps a machine busy; more only takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appetite {
    /// Tiles that go through the vision tower together.
    pub tiles: usize,
    /// Tiles of the first of several groups: fewer, where the others are copied while it is computed.
    pub first_tiles: usize,
    /// Most tokens of a step.
    pub tokens: usize,
}

/// A machine failure during a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendError {
    /// What failed, where.
    pub message: String,
    /// Whether less work at once, or less beside it, would have done.
    pub out_of_memory: bool,
}

impl BackendError {
    /// A failure that more memory would not mend.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), out_of_memory: false }
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BackendError {}

/// What follows a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `silu(gate) × up` for a weight packed by [`Backend::pack_gate_up`]; the result is half as wide.
    SwiGlu,
}

/// A normalisation of each row.
pub enum Norm<'a, B: Backend> {
    /// `w · x / √(mean(x²) + eps)`.
    Rms {
        /// `[width]`.
        weight: &'a B::Vector,
        /// Added to the mean square.
        eps: f32,
    },
    /// `w · (x − mean) / √(var + eps) + b`, biased variance.
    Layer {
        /// `[width]`.
        weight: &'a B::Vector,
        /// `[width]`.
        bias: &'a B::Vector,
        /// Added to the variance.
        eps: f32,
    },
}

/// Arguments of [`Backend::linear`].
pub struct LinearArgs<'a, B: Backend> {
    /// `[rows, inputs]`.
    pub x: &'a B::Tensor,
    /// Applied to `x` first.
    pub norm: Option<Norm<'a, B>>,
    /// `[outputs, inputs]`.
    pub weight: &'a B::Weight,
    /// `[outputs]`, added before the activation.
    pub bias: Option<&'a B::Vector>,
    /// Applied to the product.
    pub activation: Activation,
    /// `[rows, outputs]`, added last.
    pub residual: Option<&'a B::Tensor>,
    /// Whether the result enters products (of linear layers, of attention) and nothing else: it may then be stored as
    /// those round it.
    pub for_products: bool,
    /// Whether the result is what is reported (logits), and is therefore kept as exactly as it was summed.
    pub reported: bool,
}

impl<'a, B: Backend> LinearArgs<'a, B> {
    /// `x · Wᵀ` and nothing else.
    pub fn new(x: &'a B::Tensor, weight: &'a B::Weight) -> Self {
        Self {
            x,
            norm: None,
            weight,
            bias: None,
            activation: Activation::Identity,
            residual: None,
            for_products: false,
            reported: false,
        }
    }
}

/// Arguments of [`Backend::patch_embed`].
pub struct PatchArgs<'a, B: Backend> {
    /// `[width, 3 × patch × patch]`, inputs ordered (channel, row, column).
    pub weight: &'a B::Weight,
    /// `[width]`.
    pub bias: &'a B::Vector,
    /// `[patches, width]`: the same for every tile.
    pub positions: &'a B::Tensor,
    /// Pixels on a patch's side.
    pub patch: usize,
}

/// The weights of a text model, as its layers use them.
pub struct DecoderWeights<'a, B: Backend> {
    /// `[vocab, hidden]`.
    pub embeddings: &'a B::Table,
    /// First to last.
    pub layers: Vec<DecoderLayer<'a, B>>,
    /// Before the head.
    pub norm: &'a B::Vector,
    /// `[vocab, hidden]`.
    pub head: &'a B::Weight,
    /// Of all norms.
    pub eps: f32,
    /// Of queries and keys.
    pub rope: &'a RopeTable<B>,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
}

/// One layer of it.
pub struct DecoderLayer<'a, B: Backend> {
    /// Before attention.
    pub norm1: &'a B::Vector,
    /// Queries, keys and values.
    pub qkv: &'a B::Weight,
    /// `[hidden, heads × d]`.
    pub out: &'a B::Weight,
    /// Before the MLP.
    pub norm2: &'a B::Vector,
    /// Packed by [`Backend::pack_gate_up`].
    pub gate_up: &'a B::Weight,
    /// `[hidden, mlp]`.
    pub down: &'a B::Weight,
}

/// Cosines and sines of every position, `[positions, d / 2]` each.
pub struct RopeTable<B: Backend> {
    /// Cosines.
    pub cos: B::Vector,
    /// Sines.
    pub sin: B::Vector,
}

/// Square RGB tiles of one size.
#[derive(Debug, Clone, Copy)]
pub struct TileBatch<'a> {
    /// Pixels on a side.
    pub size: usize,
    /// `[size, size, 3]` each.
    pub tiles: &'a [&'a [u8]],
    /// What each value of each channel means to the model.
    pub pixel_values: &'a [[f32; 256]; 3],
}

/// Consecutive rows of a step that belong to one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the step.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence; all earlier positions are in the cache.
    pub start: usize,
    /// Where the batch names the sequence's pages, first to last, enough for `start + rows.len()` tokens.
    pub pages: Range<usize>,
}

/// A row of a step that is replaced by an image feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureRow {
    /// Row of the step.
    pub row: u32,
    /// Which of the step's feature matrices.
    pub source: u32,
    /// Row of that matrix.
    pub index: u32,
}

/// The inputs of one step over tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[T]`.
    pub ids: Vec<u32>,
    /// Sequences, in row order, covering every row.
    pub segments: Vec<Segment>,
    /// Pages of all segments.
    pub pages: Vec<u32>,
    /// Rows that show an image rather than a token.
    pub features: Vec<FeatureRow>,
    /// Rows whose logits are wanted.
    pub outputs: Vec<u32>,
}

impl TokenBatch {
    /// The pages of a segment.
    pub fn pages_of(&self, segment: &Segment) -> &[u32] {
        &self.pages[segment.pages.clone()]
    }

    /// Empties it; its memory stays.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.segments.clear();
        self.pages.clear();
        self.features.clear();
        self.outputs.clear();
    }

    /// Becomes a copy of `other` in its own memory.
    pub fn copy_from(&mut self, other: &Self) {
        self.ids.clone_from(&other.ids);
        self.segments.clone_from(&other.segments);
        self.pages.clear();
        // As much room as the other has, since it knows how many there will be.
        self.pages.reserve(other.pages.capacity());
        self.pages.extend_from_slice(&other.pages);
        self.features.clone_from(&other.features);
        self.outputs.clone_from(&other.outputs);
    }
}

/// How large a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Most pages in use at once.
    pub pages: usize,
    /// How keys and values are stored.
    pub format: Format,
}
