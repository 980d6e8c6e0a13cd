//! What the reference recorded of training (`goldens/reference/training.py` says how).

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use smolvlm::TileRun;
use smolvlm::checkpoint::Checkpoint;
use smolvlm::preprocess::Tile;
use smolvlm_kernels::{CpuBackend, TrainBackend};
use smolvlm_train::{Example, Learner, LearnerOptions};

/// Sums with random signs that stand for a gradient.
pub(crate) const PROJECTIONS: u64 = 64;

/// The batches, in the order in which steps take them.
pub(crate) const BATCHES: [&str; 3] = ["image", "two_images", "video"];

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny")
}

pub(crate) fn checkpoint() -> Checkpoint {
    let checkpoint = Checkpoint::open(&folder().join("checkpoint")).expect("the reference checkpoint");
    checkpoint.validate().expect("a valid checkpoint");
    checkpoint
}

pub(crate) fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(path)).expect("a golden file");
    serde_json::from_str(&text).expect("JSON")
}

/// A batch with what is known of it.
pub(crate) struct Batch {
    pub(crate) json: Value,
    pub(crate) examples: Vec<Example>,
    tensors: Vec<u8>,
}

impl Batch {
    pub(crate) fn read(name: &str) -> Self {
        let json = json(&format!("training/{name}.json"));
        let members =
            json["members"].as_array().expect("members").iter().zip(json["answers"].as_array().expect("answers"));
        let examples = members.map(|(member, answer)| example(member.as_str().expect("a name"), answer)).collect();
        let tensors = std::fs::read(folder().join(format!("training/{name}.safetensors"))).expect("tensors");
        Self { json, examples, tensors }
    }

    pub(crate) fn loss(&self) -> f64 {
        self.json["loss"].as_f64().expect("a loss")
    }

    pub(crate) fn norm(&self, tensor: &str) -> f64 {
        self.json["norms"][tensor].as_f64().unwrap_or_else(|| panic!("a norm of {tensor}"))
    }

    /// The gradient of a tensor, or its projections.
    pub(crate) fn kept(&self, tensor: &str) -> Vec<f32> {
        f32s(&SafeTensors::deserialize(&self.tensors).expect("safetensors"), tensor)
    }

    /// ‖found − expected‖, exactly or estimated from projections.
    pub(crate) fn distance(&self, tensor: &str, found: &[f32]) -> f64 {
        let expected = self.kept(tensor);
        if self.json["gradients"] == "full" {
            assert_eq!(expected.len(), found.len(), "{tensor}");
            return norm(found.iter().zip(&expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        }
        let projected = (0..PROJECTIONS).map(|p| project(p, found));
        norm(projected.zip(&expected).map(|(a, b)| a - f64::from(*b))) / (PROJECTIONS as f64).sqrt()
    }
}

pub(crate) fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("a tensor {name}"));
    tensor.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// A recorded conversation with an answer, whose tokens count.
fn example(case: &str, answer: &Value) -> Example {
    let bytes = std::fs::read(folder().join(format!("cases/{case}.safetensors"))).expect("a case");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let prompt = file.tensor("input_ids").expect("ids");
    let prompt = prompt.data().as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word) as u32);
    let mut ids: Vec<u32> = prompt.collect();
    let mut weights = vec![0.0; ids.len()];
    ids.extend(answer.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32));
    weights.resize(ids.len(), 1.0);
    let tiles = file.tensor("pixel_values_u8").ok().map(|pixels| {
        let side = pixels.shape()[2];
        let plane = side * side;
        let tile =
            |planes: &[u8]| Tile { size: side, rgb: (0..3 * plane).map(|i| planes[i % 3 * plane + i / 3]).collect() };
        let value = |value: usize| (value as f32 - 127.5) / 127.5;
        TileRun {
            pixel_values: [std::array::from_fn(value); 3],
            tiles: pixels.data().chunks(3 * plane).map(tile).collect(),
        }
    });
    Example { ids, weights, tiles: tiles.into_iter().collect() }
}

/// A sum with signs drawn by splitmix64 from (projection, place).
fn project(projection: u64, values: &[f32]) -> f64 {
    let sign = |place: usize| {
        let mut x = (place as u64).wrapping_add(projection << 40).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        if (x ^ (x >> 31)) >> 63 == 1 { -1.0 } else { 1.0 }
    };
    values.iter().enumerate().map(|(place, value)| f64::from(*value) * sign(place)).sum()
}

pub(crate) fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

pub(crate) fn learner(threads: usize, options: LearnerOptions) -> Learner<CpuBackend> {
    Learner::load(CpuBackend::new(threads).expect("threads"), &checkpoint(), options).expect("a model that learns")
}

/// The gradient of every learned tensor of the checkpoint.
pub(crate) fn gradients<B: TrainBackend>(learner: &Learner<B>) -> Vec<(String, Vec<f32>)> {
    gradients_of(learner, &checkpoint())
}

/// The same of another checkpoint.
pub(crate) fn gradients_of<B: TrainBackend>(learner: &Learner<B>, checkpoint: &Checkpoint) -> Vec<(String, Vec<f32>)> {
    let mut found = Vec::new();
    for parameter in learner.taped().parameters() {
        let gradient = parameter.gradient(learner.taped().inner());
        let mut rest = gradient.as_slice();
        for name in parameter.names() {
            let len = checkpoint.tensor(name).expect("a tensor").shape.iter().product();
            let (own, later) = rest.split_at(len);
            found.push((name.clone(), own.to_vec()));
            rest = later;
        }
        assert!(rest.is_empty(), "{:?}", parameter.names());
    }
    found
}
