//! Operations that move rows: embeddings, features, patches, the connector's shuffle, rows that are asked for.

use smolvlm_kernels::training::{Dropout, PatchGradients};
use smolvlm_kernels::{Backend, FeatureRow, Format, PatchArgs, TileBatch, TokenBatch, TrainBackend};

use crate::case::{Case, Named, bytes, check_by_differences, check_on_the_processor, gpu, numbers, of, rng, view};

/// The token side in one: embed, show features, take the rows that are asked for.
struct Tokens {
    batch: TokenBatch,
    vocab: usize,
    width: usize,
    sources: [usize; 2],
}

impl Tokens {
    fn new(vocab: usize, width: usize) -> Self {
        let feature = |row, source, index| FeatureRow { row, source, index };
        let batch = TokenBatch {
            ids: vec![1, 0, 3, 1, 2, 1, 0],
            features: vec![feature(1, 0, 2), feature(4, 1, 0), feature(5, 0, 0)],
            outputs: vec![6, 4, 3, 4],
            ..TokenBatch::default()
        };
        Self { batch, vocab, width, sources: [3, 2] }
    }

    fn plan<B: TrainBackend>(&self, backend: &B) -> B::Plan {
        let mut plan = backend.plan();
        backend.fill_sequences(&mut plan, &self.batch);
        plan
    }
}

impl Case for Tokens {
    fn inputs(&self) -> Named {
        let mut rng = rng(11);
        vec![
            ("table", numbers(&mut rng, self.vocab * self.width)),
            ("first", numbers(&mut rng, self.sources[0] * self.width)),
            ("second", numbers(&mut rng, self.sources[1] * self.width)),
        ]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let plan = self.plan(backend);
        let table = backend.table(view(self.vocab, &bytes(of(inputs, "table"))), Format::F32);
        let source = |i: usize| backend.upload(self.sources[i], self.width, &inputs[1 + i].1);
        let x = backend.scatter_features(&plan, backend.embed(&plan, &table), &[&source(0), &source(1)]);
        backend.download(&backend.gather_outputs(&plan, &x))
    }

    fn backward<B: TrainBackend>(&self, backend: &B, _: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let plan = self.plan(backend);
        let dy = backend.upload(self.batch.outputs.len(), self.width, dy);
        let dx = backend.gather_outputs_backward(&plan, &dy, self.batch.ids.len());
        let (dx, sources) = backend.scatter_features_backward(&plan, dx, &self.sources);
        let mut table = backend.zeros(self.vocab * self.width);
        backend.embed_backward(&plan, &dx, &mut table);
        vec![backend.read(&table), backend.download(&sources[0]), backend.download(&sources[1])]
    }
}

#[test]
fn token_rows_agree_with_differences_and_on_the_processor_with_the_reference() {
    check_by_differences("tokens", &Tokens::new(4, 3));
    check_on_the_processor("tokens", &Tokens::new(5, 70));
}

struct Patches {
    size: usize,
    patch: usize,
    width: usize,
    tiles: usize,
}

impl Patches {
    fn per_tile(&self) -> usize {
        (self.size / self.patch).pow(2)
    }

    fn plan<B: TrainBackend>(&self, backend: &B) -> B::Plan {
        let pixels: Vec<Vec<u8>> = (0..self.tiles)
            .map(|tile| (0..self.size * self.size * 3).map(|i| (i * 37 + tile * 11) as u8).collect())
            .collect();
        let tiles: Vec<&[u8]> = pixels.iter().map(Vec::as_slice).collect();
        let values = [0, 1, 2].map(|c| std::array::from_fn(|value| (value as f32 - 120.0 - c as f32) / 128.0));
        let mut plan = backend.plan();
        backend.fill_tiles(&mut plan, TileBatch { size: self.size, tiles: &tiles, pixel_values: &values });
        plan
    }
}

impl Case for Patches {
    fn inputs(&self) -> Named {
        let mut rng = rng(12);
        vec![
            ("weight", numbers(&mut rng, self.width * 3 * self.patch * self.patch)),
            ("bias", numbers(&mut rng, self.width)),
            ("positions", numbers(&mut rng, self.per_tile() * self.width)),
        ]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let weight = backend.pack(&[view(self.width, &bytes(of(inputs, "weight")))], Format::F32);
        let bias = backend.vector(of(inputs, "bias"));
        let positions = backend.upload(self.per_tile(), self.width, of(inputs, "positions"));
        let args = PatchArgs { weight: &weight, bias: &bias, positions: &positions, patch: self.patch };
        backend.download(&backend.patch_embed(&self.plan(backend), args))
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let weight = backend.pack(&[view(self.width, &bytes(of(inputs, "weight")))], Format::F32);
        let mut gradients: Vec<B::Floats> = inputs.iter().map(|(_, numbers)| backend.zeros(numbers.len())).collect();
        let mut each = gradients.iter_mut();
        let into = PatchGradients { weight: each.next(), bias: each.next(), positions: each.next() };
        let dy = backend.upload(self.tiles * self.per_tile(), self.width, dy);
        backend.patch_embed_backward(&self.plan(backend), &weight, self.patch, &dy, into);
        gradients.iter().map(|gradient| backend.read(gradient)).collect()
    }
}

#[test]
fn patches_agree_with_differences_and_on_the_processor_with_the_reference() {
    check_by_differences("patches", &Patches { size: 4, patch: 2, width: 3, tiles: 2 });
    check_on_the_processor("patches", &Patches { size: 24, patch: 4, width: 48, tiles: 3 });
}

struct Shuffle {
    side: usize,
    scale: usize,
    width: usize,
    tiles: usize,
}

impl Case for Shuffle {
    fn inputs(&self) -> Named {
        vec![("x", numbers(&mut rng(13), self.tiles * self.side * self.side * self.width))]
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let x = backend.upload(self.tiles * self.side * self.side, self.width, of(inputs, "x"));
        backend.download(&Backend::pixel_shuffle(backend, &x, self.side, self.scale))
    }

    fn backward<B: TrainBackend>(&self, backend: &B, _: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let rows = self.tiles * (self.side / self.scale).pow(2);
        let dy = backend.upload(rows, self.width * self.scale * self.scale, dy);
        vec![backend.download(&backend.pixel_shuffle_backward(&dy, self.side, self.scale))]
    }
}

#[test]
fn shuffled_patches_find_their_places_again() {
    check_by_differences("shuffle", &Shuffle { side: 4, scale: 2, width: 2, tiles: 2 });
    check_on_the_processor("shuffle", &Shuffle { side: 6, scale: 3, width: 50, tiles: 2 });
}

#[test]
fn rows_are_copied_stacked_and_added() {
    fn check<B: TrainBackend>(backend: &B) {
        let x = backend.upload(3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let parts = [backend.copy_rows(&x, 2..3), backend.copy(&x), backend.copy_rows(&x, 0..0)];
        let stacked = backend.stack(&parts);
        assert_eq!(backend.download(&stacked), [5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let sum = backend.add(backend.copy(&x), &x);
        assert_eq!(backend.download(&sum), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    }
    check(&smolvlm_kernels::ReferenceBackend);
    check(&smolvlm_kernels::CpuBackend::new(2).expect("threads"));
    if let Some(gpu) = gpu() {
        check(&*gpu);
    }
}

#[test]
fn dropout_leaves_out_its_share_by_its_seed_on_every_backend() {
    fn dropped<B: TrainBackend>(backend: &B, rate: f32, seed: u64) -> Vec<f32> {
        let x = backend.upload(100, 70, &[1.0; 7000]);
        backend.download(&backend.dropout(x, Dropout { rate, factor: 2.0, seed }))
    }
    let expected = dropped(&smolvlm_kernels::ReferenceBackend, 0.25, 9);
    let left_out = expected.iter().filter(|x| **x == 0.0).count();
    assert!((1600..1900).contains(&left_out), "{left_out} of 7000");
    assert!(expected.iter().all(|x| *x == 0.0 || (x - 2.0 / 0.75).abs() < 1e-6));
    let cpu = smolvlm_kernels::CpuBackend::new(2).expect("threads");
    assert!(dropped(&cpu, 0.25, 9) == expected && dropped(&cpu, 0.25, 10) != expected);
    assert!(dropped(&cpu, 0.0, 9).iter().all(|x| *x == 2.0));
    if let Some(gpu) = gpu() {
        assert!(dropped(&*gpu, 0.25, 9) == expected);
    }
}

#[test]
fn rows_that_are_computed_apart_lose_what_they_lose_together() {
    let backend = smolvlm_kernels::CpuBackend::new(1).expect("threads");
    let dropout = Dropout { rate: 0.5, factor: 1.0, seed: 3 };
    let of = |rows: usize, dropout| {
        let x = backend.upload(rows, 30, &vec![1.0; rows * 30]);
        backend.download(&backend.dropout(x, dropout))
    };
    let (together, first, later) = (of(9, dropout), of(4, dropout), of(5, dropout.after(4 * 30)));
    assert_eq!(together, [first, later].concat());
}

#[test]
fn numbers_are_multiplied() {
    fn check<B: TrainBackend>(backend: &B) {
        let (mut to, by) = (backend.floats(&[1.0, 2.0, 3.0]), backend.floats(&[0.0, 1.0, -2.0]));
        backend.multiply(&mut to, &by);
        assert_eq!(backend.read(&to), [0.0, 2.0, -6.0]);
    }
    check(&smolvlm_kernels::ReferenceBackend);
    check(&smolvlm_kernels::CpuBackend::new(2).expect("threads"));
    if let Some(gpu) = gpu() {
        check(&*gpu);
    }
}
