//! The CPU backend: packed weights, paged keys and values, results that do not depend on batch or threads.

mod attention;
mod cache;
mod isa;
pub mod lanes;
mod linear;
pub mod matmul;
mod patch;
mod peak;
mod rows;
mod scratch;
mod shared;
mod tensor;
mod weight;

use rayon::{ThreadPool, ThreadPoolBuilder};

pub use cache::Cache;
pub use isa::InstructionSet;
pub use peak::Peak;
pub use tensor::Tensor;
pub use weight::{Table, Weight};

use crate::backend::{
    Backend, BackendError, CacheShape, LinearArgs, Norm, PatchArgs, RopeTable, TileBatch, TokenBatch,
};
use crate::view::{Format, MatrixView};
use tensor::Buffers;

/// Computes on the processor's cores.
pub struct CpuBackend {
    threads: ThreadPool,
    isa: InstructionSet,
    buffers: Buffers,
}

/// The inputs of one step.
#[derive(Default)]
pub struct Plan {
    tokens: TokenBatch,
    tiles: Tiles,
}

/// Tiles copied from the caller, and the meaning of their values.
#[derive(Default)]
struct Tiles {
    size: usize,
    count: usize,
    pixels: Vec<u8>,
    pixel_values: Vec<[f32; 256]>,
}

impl CpuBackend {
    /// A backend with `threads` threads (0: as many as the machine has cores) and the best instruction set it has.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        Self::with_instruction_set(threads, InstructionSet::best())
    }

    /// A backend held to one instruction set, for comparing them.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub fn with_instruction_set(threads: usize, isa: InstructionSet) -> Result<Self, BackendError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("smolvlm-{i}"))
            .build()
            .map_err(|error| BackendError { message: format!("cannot start compute threads: {error}") })?;
        Ok(Self { threads, isa, buffers: Buffers::default() })
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// The instruction set in use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.isa
    }

    fn tensor(&self, rows: usize, width: usize) -> Tensor {
        Tensor::new(&self.buffers.f32, rows, width)
    }
}

impl Backend for CpuBackend {
    type Tensor = Tensor;
    type Weight = Weight;
    type Table = Table;
    type Vector = Vec<f32>;
    type Cache = Cache;
    type Plan = Plan;

    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Weight {
        self.threads.install(|| Weight::stacked(parts, format))
    }

    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Weight {
        self.threads.install(|| Weight::gate_up(gate, up, format))
    }

    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Table {
        Table::new(matrix, format)
    }

    fn vector(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Tensor {
        assert_eq!(values.len(), rows * width, "an upload of {rows} × {width}");
        let mut tensor = self.tensor(rows, width);
        tensor.data_mut().copy_from_slice(values);
        tensor
    }

    fn download(&self, x: &Tensor) -> Vec<f32> {
        x.data().to_vec()
    }

    fn cache(&self, shape: CacheShape) -> Cache {
        Cache::new(shape)
    }

    fn release_pages(&self, cache: &mut Cache, pages: &[u32]) {
        cache.release(pages);
    }

    fn plan(&self) -> Plan {
        Plan::default()
    }

    fn fill_tokens(&self, plan: &mut Plan, batch: &TokenBatch) {
        plan.tokens.clone_from(batch);
    }

    fn fill_tiles(&self, plan: &mut Plan, batch: TileBatch<'_>) {
        plan.tiles.fill(batch);
    }

    fn step(&self, _plan: &Plan, body: impl FnOnce() -> Tensor + Send) -> Result<Tensor, BackendError> {
        Ok(self.threads.install(body))
    }

    fn embed(&self, plan: &Plan, table: &Table) -> Tensor {
        let mut out = self.tensor(plan.tokens.ids.len(), table.width());
        rows::embed(&plan.tokens.ids, table, &mut out);
        out
    }

    fn scatter_features(&self, plan: &Plan, mut x: Tensor, sources: &[&Tensor]) -> Tensor {
        rows::scatter(&plan.tokens.features, sources, &mut x);
        x
    }

    fn patch_embed(&self, plan: &Plan, args: PatchArgs<'_, Self>) -> Tensor {
        let patches = patch::unfold(self, &plan.tiles, args.patch);
        let epilogue = linear::Epilogue { bias: Some(args.bias), repeated: Some(args.positions), ..Default::default() };
        linear::linear(self, &patches, None, args.weight, epilogue)
    }

    fn linear(&self, args: LinearArgs<'_, Self>) -> Tensor {
        let epilogue = linear::Epilogue {
            bias: args.bias,
            activation: args.activation,
            residual: args.residual,
            ..Default::default()
        };
        linear::linear(self, args.x, args.norm, args.weight, epilogue)
    }

    fn norm(&self, x: &Tensor, norm: Norm<'_, Self>) -> Tensor {
        let mut out = self.tensor(x.rows(), x.width());
        linear::norm_rows(self.isa.rows, x, &norm, &mut out);
        out
    }

    fn tile_attention(&self, qkv: &Tensor, tile_rows: usize, heads: usize) -> Tensor {
        attention::tiles(self, qkv, tile_rows, heads)
    }

    fn cached_attention(
        &self,
        plan: &Plan,
        mut qkv: Tensor,
        cache: &mut Cache,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Tensor {
        cache.append(&plan.tokens.segments, &mut qkv, layer, &rope.cos, &rope.sin);
        attention::paged(self, &plan.tokens.segments, &qkv, cache, layer)
    }

    fn pixel_shuffle(&self, x: &Tensor, side: usize, scale: usize) -> Tensor {
        let mut out = self.tensor(x.rows() / (scale * scale), x.width() * scale * scale);
        rows::pixel_shuffle(x, side, scale, &mut out);
        out
    }

    fn gather_outputs(&self, plan: &Plan, x: &Tensor) -> Tensor {
        let mut out = self.tensor(plan.tokens.outputs.len(), x.width());
        rows::gather(&plan.tokens.outputs, x, &mut out);
        out
    }
}
