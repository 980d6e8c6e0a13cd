//! The CPU backend: packed weights, paged keys and values, results that do not depend on batch or threads.

mod attention;
mod cache;
mod isa;
pub mod lanes;
mod linear;
pub mod matmul;
mod panel;
mod patch;
mod peak;
mod prefetch;
mod rows;
mod scratch;
mod shared;
mod table;
mod tensor;
mod threads;
pub mod training;
mod weight;

use std::ops::Range;
use std::sync::Arc;

pub use cache::Cache;
pub use isa::InstructionSet;
pub use peak::Peak;
pub use table::Table;
pub use tensor::Tensor;
pub use weight::Weight;

use crate::backend::{
    Appetite, Backend, BackendError, CacheShape, Ceilings, LinearArgs, Norm, PatchArgs, RopeTable, TileBatch,
    TokenBatch,
};
use crate::choose::largest;
use crate::packed::PackedMatrix;
use crate::view::{Format, MatrixView};
use tensor::{Pool, Stored};
use threads::Threads;

/// Computes on the processor's cores.
pub struct CpuBackend {
    threads: Threads,
    isa: InstructionSet,
    buffers: Arc<Pool>,
    /// Of one core's second-level cache.
    cache_bytes: usize,
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
        let threads = Threads::new(threads)
            .map_err(|error| BackendError::new(format!("cannot start compute threads: {error}")))?;
        Ok(Self { threads, isa, buffers: Arc::default(), cache_bytes: second_level_cache() })
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The instruction set in use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.isa
    }

    fn tensor(&self, rows: usize, width: usize, stored: Stored) -> Tensor {
        Tensor::new(&self.buffers, rows, width, stored)
    }
}

/// Bytes of a core's second-level cache; where the system does not tell, what most have.
fn second_level_cache() -> usize {
    let told = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
    let kibibytes = told.and_then(|text| text.trim().strip_suffix('K')?.parse::<usize>().ok());
    kibibytes.map_or(1 << 20, |kibibytes| kibibytes.clamp(128, 1 << 16) << 10)
}

impl Backend for CpuBackend {
    type Tensor = Tensor;
    type Weight = Weight;
    type Table = Table;
    type Vector = Vec<f32>;
    type Cache = Cache;
    type Plan = Plan;
    type Decoder = ();

    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Weight {
        Weight::stacked(&self.threads, parts, format)
    }

    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Weight {
        Weight::gate_up(&self.threads, gate, up, format)
    }

    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Table {
        Table::new(matrix, format)
    }

    fn packed(&self, matrix: PackedMatrix) -> Weight {
        Weight::mapped(matrix)
    }

    fn packed_table(&self, table: PackedMatrix) -> Table {
        Table::mapped(table)
    }

    fn vector(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Tensor {
        assert_eq!(values.len(), rows * width, "an upload of {rows} × {width}");
        let mut tensor = self.tensor(rows, width, Stored::F32);
        for (row, values) in values.chunks(width).enumerate() {
            tensor.row_mut(row).copy_from_slice(values);
        }
        tensor
    }

    fn appetite(&self) -> Appetite {
        Appetite { tiles: 2, first_tiles: 2, tokens: 512 }
    }

    fn measure_ceilings(&self, format: Format) -> Ceilings {
        self.measure_peak().ceilings(format)
    }

    fn rows(&self, x: &Tensor) -> usize {
        x.rows()
    }

    fn download_rows(&self, x: &Tensor, rows: Range<usize>, values: &mut Vec<f32>) {
        values.clear();
        values.reserve(rows.len() * x.width());
        for row in rows {
            match x.stored() {
                Stored::F32 => values.extend_from_slice(x.row(row)),
                _ => {
                    let first = values.len();
                    values.resize(first + x.width(), 0.0);
                    x.widen_row(row, &mut values[first..]);
                }
            }
        }
    }

    fn largest_into(&self, x: &Tensor, choices: &mut Vec<u32>) {
        choices.clear();
        choices.extend((0..x.rows()).map(|row| largest(x.row(row))));
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

    fn fill_tokens(&self, plan: &mut Plan, _cache: &mut Cache, batch: &TokenBatch) {
        plan.tokens.copy_from(batch);
    }

    fn fill_tiles(&self, plan: &mut Plan, batch: TileBatch<'_>) {
        plan.tiles.fill(batch);
    }

    fn step(&self, _plan: &Plan, body: impl FnOnce() -> Tensor + Send) -> Result<Tensor, BackendError> {
        Ok(body())
    }

    fn embed(&self, plan: &Plan, table: &Table) -> Tensor {
        let mut out = self.tensor(plan.tokens.ids.len(), table.width(), Stored::F32);
        rows::embed(&plan.tokens.ids, table, &mut out);
        out
    }

    fn scatter_features(&self, plan: &Plan, mut x: Tensor, sources: &[&Tensor]) -> Tensor {
        rows::scatter(&plan.tokens.features, sources, &mut x);
        x
    }

    fn patch_embed(&self, plan: &Plan, args: PatchArgs<'_, Self>) -> Tensor {
        let patches = patch::unfold(self, &plan.tiles, args.patch);
        let epilogue = linear::Epilogue { bias: Some(args.bias), residual: Some(args.positions), ..Default::default() };
        linear::linear(self, &patches, None, args.weight, epilogue)
    }

    fn linear(&self, args: LinearArgs<'_, Self>) -> Tensor {
        let epilogue = linear::Epilogue {
            bias: args.bias,
            activation: args.activation,
            residual: args.residual,
            for_products: args.for_products,
        };
        linear::linear(self, args.x, args.norm, args.weight, epilogue)
    }

    fn norm(&self, x: &Tensor, norm: Norm<'_, Self>) -> Tensor {
        let mut out = self.tensor(x.rows(), x.width(), Stored::F32);
        linear::prepare_rows(self, x, Some(&norm), &mut out, &mut []);
        out
    }

    fn tile_attention(&self, qkv: &Tensor, tile_rows: usize, heads: usize) -> Tensor {
        attention::tiles(self, qkv, tile_rows, heads)
    }

    fn cached_attention(
        &self,
        plan: &Plan,
        qkv: Tensor,
        cache: &mut Cache,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Tensor {
        let angles = (rope.cos.as_slice(), rope.sin.as_slice());
        cache.append(self, &plan.tokens, &qkv, layer, angles);
        attention::paged(self, &plan.tokens, &qkv, cache, layer, angles)
    }

    fn pixel_shuffle(&self, x: &Tensor, side: usize, scale: usize) -> Tensor {
        rows::pixel_shuffle(self, x, side, scale)
    }

    fn gather_outputs(&self, plan: &Plan, x: &Tensor) -> Tensor {
        let mut out = self.tensor(plan.tokens.outputs.len(), x.width(), Stored::F32);
        rows::gather(&plan.tokens.outputs, x, &mut out);
        out
    }
}
