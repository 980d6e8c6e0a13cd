//! Small checkpoints made on the spot.

use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::config::ModelConfig;
use super::names;
use super::tensor::StoredDtype;

/// A tensor about to be written.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A checkpoint about to be written: change what a test is about, then [`Tiny::write`].
#[derive(Debug, Clone)]
pub(crate) struct Tiny {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Raw>,
}

impl Tiny {
    /// A valid model of 5.5 thousand parameters, stored in `dtype`.
    pub(crate) fn new(dtype: StoredDtype) -> Self {
        Self::of(tiny_config(), dtype)
    }

    /// A model of whatever dimensions `config` says.
    pub(crate) fn of(config: Value, dtype: StoredDtype) -> Self {
        let parsed = ModelConfig::from_json(&config).expect("a valid configuration");
        let tensors = names::expected(&parsed).into_iter().map(|expected| {
            let shape: Vec<usize> = expected.shape.iter().map(|dim| dim.size).collect();
            raw(&expected.name, &shape, dtype)
        });
        Self { tensors: tensors.collect(), config }
    }

    /// The tensor called `name`.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Raw {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of that name")
    }

    /// Writes `config.json`, `tokenizer.json` (a stand-in) and `model.safetensors`.
    pub(crate) fn write(&self, dir: &Path) {
        self.write_config(dir);
        std::fs::write(dir.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }

    /// Writes the same with the tensors dealt out to `count` files and an index.
    pub(crate) fn write_sharded(&self, dir: &Path, count: usize) {
        self.write_config(dir);
        let mut weight_map = serde_json::Map::new();
        for (i, shard) in self.tensors.chunks(self.tensors.len().div_ceil(count)).enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
            std::fs::write(dir.join(&file), safetensors(shard)).unwrap();
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn write_config(&self, dir: &Path) {
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    }
}

/// Values between -1 and 1 that depend on the name and the position only.
pub(crate) fn values(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(17_u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..count as u32)
        .map(|i| (seed.wrapping_add(i).wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0)
        .collect()
}

/// A tensor of [`values`].
pub(crate) fn raw(name: &str, shape: &[usize], dtype: StoredDtype) -> Raw {
    let values = values(name, shape.iter().product());
    let (dtype, bytes) = match dtype {
        StoredDtype::F32 => ("F32", values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        StoredDtype::Bf16 => ("BF16", values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()),
        StoredDtype::F16 => ("F16", values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
    };
    Raw { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

/// A file of `tensors`.
pub(crate) fn safetensors(tensors: &[Raw]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for tensor in tensors {
        let offsets = [data.len(), data.len() + tensor.bytes.len()];
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets});
        header.insert(tensor.name.clone(), entry);
        data.extend(&tensor.bytes);
    }
    with_header(Value::Object(header).to_string(), &data)
}

/// A file of any header and data.
pub(crate) fn with_header(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Every dimension differs from every other that it could be mistaken for.
pub(crate) fn tiny_config() -> Value {
    json!({
        "model_type": "smolvlm", "image_token_id": 30, "scale_factor": 2, "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 20,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-5,
            "rope_theta": 100_000, "vocab_size": 32, "max_position_embeddings": 64, "eos_token_id": 31
        },
        "vision_config": {
            "hidden_size": 10, "num_hidden_layers": 1, "intermediate_size": 14, "num_attention_heads": 2,
            "image_size": 9, "patch_size": 2
        }
    })
}

/// The configuration of a published size, leaving out the same keys as the files on the hub.
pub(crate) fn published_json(size: &str) -> Value {
    let (scale, text, vision) = match size {
        "256m" => (4, [576, 30, 1536], json!({"hidden_size": 768, "num_attention_heads": 12})),
        "500m" => (4, [960, 32, 2560], json!({"hidden_size": 768, "num_attention_heads": 12})),
        "2.2b" => {
            (3, [2048, 24, 8192], json!({"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}))
        }
        other => panic!("no published size {other}"),
    };
    let mut json = json!({
        "model_type": "smolvlm", "image_token_id": 49190, "pad_token_id": 128_002, "scale_factor": scale,
        "tie_word_embeddings": false, "torch_dtype": "float32", "use_cache": false, "vocab_size": 49280,
        "perceiver_config": {"anything": [1, 2, 3]},
        "text_config": {
            "model_type": "llama", "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": text[0],
            "num_hidden_layers": text[1], "intermediate_size": text[2], "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_interleaved": false, "rope_theta": 100_000,
            "torch_dtype": "bfloat16", "vocab_size": 49280
        },
        "vision_config": vision
    });
    let (image, patch) = if size == "2.2b" { (384, 14) } else { (512, 16) };
    json["vision_config"]["image_size"] = json!(image);
    json["vision_config"]["patch_size"] = json!(patch);
    match size {
        "256m" => {
            (json["text_config"]["num_attention_heads"], json["text_config"]["num_key_value_heads"]) =
                (json!(9), json!(3))
        }
        "500m" => {
            (json["text_config"]["num_attention_heads"], json["text_config"]["num_key_value_heads"]) =
                (json!(15), json!(5))
        }
        _ => json["text_config"]["rope_theta"] = json!(130_000),
    }
    json
}

/// [`published_json`], read.
pub(crate) fn published(size: &str) -> ModelConfig {
    ModelConfig::from_json(&published_json(size)).expect("a valid configuration")
}
