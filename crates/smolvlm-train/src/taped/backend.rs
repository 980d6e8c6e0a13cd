//! The seam: every operation of the wrapped backend, noted.

use std::ops::Range;
use std::sync::Arc;

use smolvlm_kernels::packed::{Arrangement, PackedMatrix};
use smolvlm_kernels::training::HeadCounts;
use smolvlm_kernels::{
    Appetite, Backend, BackendError, CacheShape, Ceilings, Format, LinearArgs, MatrixView, Norm, PatchArgs, RopeTable,
    TileBatch, TokenBatch, TrainBackend,
};

use super::linear::{Linear, TapedNorm};
use super::slots::{Positions, Slot, Table, Vector, Weight};
use super::tape::{CausalAttention, Op, PatchEmbed};
use super::{Held, Plan, Taped, Tensor};
use crate::parameters::{Copy, Kind, lock};

/// Keys and values for steps that are not noted. Those that are have whole sequences and need none.
pub struct Cache<B: TrainBackend> {
    shape: CacheShape,
    inner: B::Cache,
}

/// All numbers of some matrices, one below the other.
fn numbers(parts: &[MatrixView<'_>]) -> Vec<f32> {
    let cols = parts.first().map_or(0, MatrixView::cols);
    let mut values = vec![0.0; parts.iter().map(MatrixView::rows).sum::<usize>() * cols];
    let rows = parts.iter().flat_map(|part| (0..part.rows()).map(move |row| (part, row)));
    values.chunks_mut(cols.max(1)).zip(rows).for_each(|(values, (part, row))| part.row(row, values));
    values
}

fn norm_of<B: TrainBackend>(norm: Norm<'_, Taped<B>>) -> TapedNorm<B> {
    match norm {
        Norm::Rms { weight, eps } => TapedNorm { weight: weight.clone(), bias: None, eps },
        Norm::Layer { weight, bias, eps } => TapedNorm { weight: weight.clone(), bias: Some(bias.clone()), eps },
    }
}

impl<B: TrainBackend> Taped<B> {
    /// The plan to be filled: another one where a tape refers to this one.
    fn fresh<'a>(&self, plan: &'a mut Plan<B>) -> &'a mut B::Plan {
        if Arc::get_mut(&mut plan.0).is_none() {
            plan.0 = Arc::new(self.plans.lend(&self.inner));
        }
        Arc::get_mut(&mut plan.0).expect("a plan that nothing else refers to").plan_mut()
    }

    fn weight(
        &self,
        parts: &[MatrixView<'_>],
        arrangement: Arrangement,
        format: Format,
        weight: B::Weight,
    ) -> Arc<Weight<B>> {
        let parameter = self.parameter(!format.is_quantised(), Kind::Matrix, || numbers(parts));
        let outputs = parts.iter().map(MatrixView::rows).sum();
        let mut weight = Weight::new(weight, outputs, arrangement, parameter);
        weight.adapter = self.adapter(&weight, parts.first().map_or(0, MatrixView::cols), format);
        let weight = Arc::new(weight);
        if let Some(parameter) = &weight.parameter {
            parameter.add_copy(Copy::Weight(Arc::downgrade(&weight)));
        }
        weight
    }

    /// A matrix of a packed checkpoint does not learn: there is no master of it.
    fn frozen(&self) {
        self.parameter(false, Kind::Matrix, Vec::new);
    }
}

impl<B: TrainBackend> Backend for Taped<B> {
    type Tensor = Tensor<B>;
    type Weight = Arc<Weight<B>>;
    type Table = Arc<Table<B>>;
    type Vector = Arc<Vector<B>>;
    type Cache = Cache<B>;
    type Plan = Plan<B>;
    type Decoder = ();

    fn storing<T>(&self, parts: &[(&str, usize)], store: impl FnOnce() -> T) -> T {
        *lock(&self.storing) = parts.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect();
        let stored = self.inner.storing(parts, store);
        lock(&self.storing).clear();
        stored
    }

    fn pack(&self, parts: &[MatrixView<'_>], format: Format) -> Arc<Weight<B>> {
        self.weight(parts, Arrangement::Stacked, format, self.inner.pack(parts, format))
    }

    fn pack_gate_up(&self, gate: MatrixView<'_>, up: MatrixView<'_>, format: Format) -> Arc<Weight<B>> {
        self.weight(&[gate, up], Arrangement::GateUp, format, self.inner.pack_gate_up(gate, up, format))
    }

    fn table(&self, matrix: MatrixView<'_>, format: Format) -> Arc<Table<B>> {
        self.refuse_adapter();
        let parameter = self.parameter(!format.is_quantised(), Kind::Other, || numbers(&[matrix]));
        let table = Arc::new(Table { value: Slot::new(self.inner.table(matrix, format)), parameter });
        if let Some(parameter) = &table.parameter {
            parameter.add_copy(Copy::Table(Arc::downgrade(&table)));
        }
        table
    }

    fn packed(&self, matrix: PackedMatrix) -> Arc<Weight<B>> {
        self.frozen();
        let shape = matrix.shape();
        let mut weight = Weight::new(self.inner.packed(matrix), shape.rows, shape.arrangement, None);
        weight.adapter = self.adapter(&weight, shape.inputs, shape.format);
        Arc::new(weight)
    }

    fn packed_table(&self, table: PackedMatrix) -> Arc<Table<B>> {
        self.frozen();
        self.refuse_adapter();
        Arc::new(Table { value: Slot::new(self.inner.packed_table(table)), parameter: None })
    }

    fn vector(&self, values: &[f32]) -> Arc<Vector<B>> {
        let parameter = self.parameter(true, Kind::Other, || values.to_vec());
        let constant = if lock(&self.storing).is_empty() { values.to_vec() } else { Vec::new() };
        let vector = Arc::new(Vector { value: Slot::new(self.inner.vector(values)), parameter, constant });
        if let Some(parameter) = &vector.parameter {
            parameter.add_copy(Copy::Vector(Arc::downgrade(&vector)));
        }
        vector
    }

    fn upload(&self, rows: usize, width: usize, values: &[f32]) -> Tensor<B> {
        self.refuse_adapter();
        let tensor = self.inner.upload(rows, width, values);
        let Some(parameter) = self.parameter(true, Kind::Other, || values.to_vec()) else {
            return Tensor { held: Held::Value(Arc::new(tensor)), node: None };
        };
        let positions = Arc::new(Positions { value: Slot::new(tensor), parameter });
        positions.parameter.add_copy(Copy::Positions(Arc::downgrade(&positions)));
        Tensor { held: Held::Positions(positions), node: None }
    }

    fn rows(&self, x: &Tensor<B>) -> usize {
        self.inner.rows(&self.value(x))
    }

    fn download_rows(&self, x: &Tensor<B>, rows: Range<usize>, values: &mut Vec<f32>) {
        self.inner.download_rows(&self.value(x), rows, values);
    }

    fn largest_into(&self, x: &Tensor<B>, choices: &mut Vec<u32>) {
        self.inner.largest_into(&self.value(x), choices);
    }

    fn failure(&self) -> Result<(), BackendError> {
        self.inner.failure()?;
        lock(&self.refused).take().map_or(Ok(()), |message| Err(BackendError::new(message)))
    }

    fn appetite(&self) -> Appetite {
        self.inner.appetite()
    }

    fn measure_ceilings(&self, format: Format) -> Ceilings {
        self.inner.measure_ceilings(format)
    }

    fn most_memory(&self) -> Option<u64> {
        self.inner.most_memory()
    }

    fn memory_left(&self) -> Option<u64> {
        self.inner.memory_left()
    }

    fn cache(&self, shape: CacheShape) -> Cache<B> {
        Cache { shape, inner: self.inner.cache(shape) }
    }

    fn release_pages(&self, cache: &mut Cache<B>, pages: &[u32]) {
        self.inner.release_pages(&mut cache.inner, pages);
    }

    fn plan(&self) -> Plan<B> {
        Plan(Arc::new(self.plans.lend(&self.inner)))
    }

    fn fill_tokens(&self, plan: &mut Plan<B>, cache: &mut Cache<B>, batch: &TokenBatch) {
        let plan = self.fresh(plan);
        if self.answers() {
            self.inner.fill_tokens(plan, &mut cache.inner, batch);
        } else {
            self.inner.fill_sequences(plan, batch);
        }
    }

    fn fill_tiles(&self, plan: &mut Plan<B>, batch: TileBatch<'_>) {
        self.inner.fill_tiles(self.fresh(plan), batch);
    }

    /// Not the wrapped backend's: what a tape refers to must outlive the step.
    fn step(&self, _: &Plan<B>, body: impl FnOnce() -> Tensor<B> + Send) -> Result<Tensor<B>, BackendError> {
        let out = body();
        self.inner.failure()?;
        Ok(out)
    }

    fn embed(&self, plan: &Plan<B>, table: &Arc<Table<B>>) -> Tensor<B> {
        self.run(Op::Embed { plan: plan.0.clone(), table: table.clone() }, vec![])
    }

    fn scatter_features(&self, plan: &Plan<B>, x: Tensor<B>, sources: &[&Tensor<B>]) -> Tensor<B> {
        let values: Vec<Arc<B::Tensor>> = sources.iter().map(|source| self.value(source)).collect();
        let op = Op::Scatter {
            plan: plan.0.clone(),
            x: self.operand(&x),
            sources: sources.iter().map(|source| self.operand(source)).collect(),
            source_rows: values.iter().map(|source| self.inner.rows(source)).collect(),
        };
        let first = self.value(&x);
        drop(x);
        self.run(op, std::iter::once(first).chain(values).collect())
    }

    fn patch_embed(&self, plan: &Plan<B>, args: PatchArgs<'_, Self>) -> Tensor<B> {
        let positions = match &args.positions.held {
            Held::Positions(positions) => Ok(positions.clone()),
            _ => Err(self.value(args.positions)),
        };
        let (weight, bias) = (args.weight.clone(), args.bias.clone());
        self.run(
            Op::PatchEmbed(PatchEmbed { plan: plan.0.clone(), weight, bias, positions, patch: args.patch }),
            vec![],
        )
    }

    fn linear(&self, args: LinearArgs<'_, Self>) -> Tensor<B> {
        let inputs = std::iter::once(args.x).chain(args.residual).map(|x| self.value(x)).collect();
        let linear = Linear {
            x: self.operand(args.x),
            norm: args.norm.map(norm_of),
            weight: args.weight.clone(),
            bias: args.bias.cloned(),
            activation: args.activation,
            residual: args.residual.map(|residual| self.operand(residual)),
            for_products: args.for_products,
            reported: args.reported,
            seed: self.next_seed(),
        };
        self.run(Op::Linear(linear), inputs)
    }

    fn norm(&self, x: &Tensor<B>, norm: Norm<'_, Self>) -> Tensor<B> {
        self.run(Op::Norm { x: self.operand(x), norm: norm_of(norm) }, vec![self.value(x)])
    }

    fn tile_attention(&self, qkv: &Tensor<B>, tile_rows: usize, heads: usize) -> Tensor<B> {
        self.run(Op::TileAttention { qkv: self.operand(qkv), tile_rows, heads }, vec![self.value(qkv)])
    }

    fn cached_attention(
        &self,
        plan: &Plan<B>,
        qkv: Tensor<B>,
        cache: &mut Cache<B>,
        layer: usize,
        rope: &RopeTable<Self>,
    ) -> Tensor<B> {
        let (value, CacheShape { kv_heads, head_dim, format, .. }) = (self.value(&qkv), cache.shape);
        if self.answers() {
            drop(qkv);
            let value = Arc::try_unwrap(value).unwrap_or_else(|shared| self.inner.copy(&shared));
            let rope = self.inner_rope(rope);
            let out = self.inner.cached_attention(&plan.0, value, &mut cache.inner, layer, &rope);
            return Tensor { held: Held::Value(Arc::new(out)), node: None };
        }
        let attention = CausalAttention {
            plan: plan.0.clone(),
            qkv: self.operand(&qkv),
            heads: HeadCounts { queries: self.inner.width(&value) / head_dim - 2 * kv_heads, keys: kv_heads },
            cos: rope.cos.clone(),
            sin: rope.sin.clone(),
            format,
        };
        self.run(Op::CausalAttention(attention), vec![value])
    }

    fn pixel_shuffle(&self, x: &Tensor<B>, side: usize, scale: usize) -> Tensor<B> {
        self.run(Op::PixelShuffle { x: self.operand(x), side, scale }, vec![self.value(x)])
    }

    fn gather_outputs(&self, plan: &Plan<B>, x: &Tensor<B>) -> Tensor<B> {
        let value = self.value(x);
        let op = Op::Gather { plan: plan.0.clone(), x: self.operand(x), rows: self.inner.rows(&value) };
        self.run(op, vec![value])
    }
}
