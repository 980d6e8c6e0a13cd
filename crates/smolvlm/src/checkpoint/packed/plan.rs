//! Which matrices a packed checkpoint holds, made of which tensors.

use std::collections::HashMap;

use smolvlm_kernels::Format;
use smolvlm_kernels::packed::{Arrangement, PackedShape};

use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::names::{self, EMBEDDING, Expected, HEAD};

/// A matrix that is packed as one.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// Its name in the file, see [`stacked_name`].
    pub(crate) name: String,
    /// The tensors it is made of, each `[outputs, inputs …]`.
    pub(crate) parts: Vec<Expected>,
    pub(crate) arrangement: Arrangement,
    pub(crate) format: Format,
}

impl Planned {
    /// What the packed matrix is.
    pub(crate) fn shape(&self) -> PackedShape {
        PackedShape {
            rows: self.parts.iter().map(Expected::rows).sum(),
            inputs: self.parts[0].inputs(),
            arrangement: self.arrangement,
            format: self.format,
        }
    }

    /// Bytes of the packed matrix.
    pub(crate) fn bytes(&self) -> u64 {
        self.shape().bytes().map_or(u64::MAX, |bytes| bytes as u64)
    }
}

/// Everything a packed checkpoint holds, in the order of its files.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) matrices: Vec<Planned>,
    /// Norms, biases, position embeddings: stored as f32.
    pub(crate) vectors: Vec<Expected>,
}

impl Plan {
    /// The plan of a model packed as `dtype`. The head is packed by itself even if it is the embedding table: the two
    /// have different layouts.
    pub(crate) fn new(config: &ModelConfig, dtype: Format) -> Self {
        let mut expected = names::expected(config);
        if config.tie_embeddings {
            let table = expected.iter().find(|tensor| tensor.name == EMBEDDING).cloned();
            expected.extend(table.map(|table| Expected { name: HEAD.to_owned(), ..table }));
        }
        let by_name: HashMap<&str, &Expected> = expected.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
        for tensor in &expected {
            match role(tensor) {
                Role::Vector => vectors.push(tensor.clone()),
                Role::Later => {}
                Role::Matrix(arrangement, stems) => {
                    let parts: Vec<Expected> = siblings(tensor, stems, &by_name);
                    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
                    let name = stacked_name(&names);
                    matrices.push(Planned { format: storage_format(&name, dtype), name, parts, arrangement });
                }
            }
        }
        // Panels fill whole lines and tables need not: behind them, no matrix would be aligned.
        matrices.sort_by_key(|matrix| matrix.arrangement == Arrangement::Table);
        Self { matrices, vectors }
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        let vectors = self.vectors.iter().map(|vector| 4 * vector.elements());
        vectors.chain(self.matrices.iter().map(Planned::bytes)).fold(0, u64::saturating_add)
    }
}

/// What becomes of a tensor.
enum Role {
    Vector,
    /// Begins a matrix of the siblings with these stems; none: of itself alone.
    Matrix(Arrangement, &'static [&'static str]),
    /// Part of a matrix that an earlier tensor begins.
    Later,
}

fn role(tensor: &Expected) -> Role {
    let stem = tensor.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
    match stem {
        _ if tensor.shape.len() < 2 || stem == "position_embedding" => Role::Vector,
        "embed_tokens" => Role::Matrix(Arrangement::Table, &[]),
        "q_proj" => Role::Matrix(Arrangement::Stacked, &["q_proj", "k_proj", "v_proj"]),
        "gate_proj" => Role::Matrix(Arrangement::GateUp, &["gate_proj", "up_proj"]),
        "k_proj" | "v_proj" | "up_proj" => Role::Later,
        _ => Role::Matrix(Arrangement::Stacked, &[]),
    }
}

fn siblings(first: &Expected, stems: &[&str], by_name: &HashMap<&str, &Expected>) -> Vec<Expected> {
    let Some(own) = stems.first() else { return vec![first.clone()] };
    let named = |stem: &&str| by_name.get(first.name.replace(own, stem).as_str()).map(|tensor| (*tensor).clone());
    stems.iter().filter_map(named).collect()
}

/// The name of several tensors of one module that are packed as one: `a.q_proj.weight`, `a.k_proj.weight` →
/// `a.q_proj+k_proj.weight`.
pub(crate) fn stacked_name(parts: &[impl AsRef<str>]) -> String {
    let Some((first, others)) = parts.split_first() else { return String::new() };
    let module = first.as_ref().trim_end_matches(".weight");
    let stems = others.iter().map(|part| {
        let stem = part.as_ref().trim_end_matches(".weight");
        format!("+{}", stem.rsplit('.').next().unwrap_or(stem))
    });
    format!("{module}{}.weight", stems.collect::<String>())
}

/// How a matrix is stored in a model of `dtype`. Four bits are for the text layers, which decoding reads once a token;
/// the rest is better kept in eight.
pub(crate) fn storage_format(name: &str, dtype: Format) -> Format {
    match dtype {
        Format::Q4 if !name.starts_with("model.text_model.layers.") => Format::Q8,
        _ => dtype,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing;

    #[test]
    fn every_tensor_is_in_one_place_of_the_plan() {
        let config = testing::published("256m");
        let plan = Plan::new(&config, Format::Q4);
        let parts = plan.matrices.iter().flat_map(|matrix| &matrix.parts).chain(&plan.vectors);
        let mut found: Vec<&str> = parts.map(|tensor| tensor.name.as_str()).collect();
        let expected = names::expected(&config);
        let mut expected: Vec<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_of_one_input_are_stacked_and_four_bits_are_for_the_text_layers() {
        let plan = Plan::new(&testing::published("256m"), Format::Q4);
        let find = |name: &str| plan.matrices.iter().find(|matrix| matrix.name == name).expect(name);
        let qkv = find("model.text_model.layers.7.self_attn.q_proj+k_proj+v_proj.weight").shape();
        assert_eq!((qkv.rows, qkv.inputs, qkv.format), (576 + 2 * 192, 576, Format::Q4));
        let gated = find("model.text_model.layers.7.mlp.gate_proj+up_proj.weight").shape();
        assert_eq!((gated.rows, gated.arrangement), (2 * 1536, Arrangement::GateUp));
        let patches = find("model.vision_model.embeddings.patch_embedding.weight").shape();
        assert_eq!((patches.rows, patches.inputs, patches.format), (768, 3 * 16 * 16, Format::Q8));
        assert_eq!(find(HEAD).format, Format::Q8);
        assert_eq!(plan.matrices.last().map(|matrix| matrix.name.as_str()), Some(EMBEDDING));
        assert_eq!(plan.matrices.len(), 12 * 4 + 1 + 1 + 30 * 4 + 2);
    }

    #[test]
    fn a_tied_head_is_packed_too() {
        let mut config = testing::published("256m");
        let untied = Plan::new(&config, Format::Bf16);
        config.tie_embeddings = true;
        let tied = Plan::new(&config, Format::Bf16);
        assert_eq!(tied.bytes(), untied.bytes());
        assert_eq!(tied.matrices.iter().filter(|matrix| matrix.name == HEAD).count(), 1);
    }
}
