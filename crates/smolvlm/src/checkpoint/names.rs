//! What the tensors of a checkpoint are called and which shape each must have.

use super::config::{ModelConfig, TextConfig, VisionConfig};

/// The token embedding, `[vocab, hidden]`.
pub const EMBEDDING: &str = "model.text_model.embed_tokens.weight";
/// Before the names of the vision tower's embeddings.
pub const EMBEDDINGS: &str = "model.vision_model.embeddings.";
/// The output head, `[vocab, hidden]`.
pub const HEAD: &str = "lm_head.weight";

/// Every spelling of a module's prefix that is read, and the one that this engine uses: that of
/// `SmolVLMForConditionalGeneration`, which all releases of transformers since 4.50 write. The first match counts.
const LAYOUTS: &[(&str, &str)] = &[
    ("model.text_model.", "model.text_model."),
    ("model.vision_model.", "model.vision_model."),
    ("model.connector.", "model.connector."),
    ("lm_head.", "lm_head."),
    // SmolVLMModel, the class without a head, saved by itself.
    ("text_model.", "model.text_model."),
    ("vision_model.", "model.vision_model."),
    ("connector.", "model.connector."),
    // The training code's VLlama3ForCausalLM (transformers' convert_idefics3_weights_to_hf.py translates it).
    ("model.embed_tokens.", "model.text_model.embed_tokens."),
    ("model.layers.", "model.text_model.layers."),
    ("model.norm.", "model.text_model.norm."),
    ("model.modality_projection.", "model.connector.modality_projection."),
    // A language model with its own head inside, as transformers before 4.52 nested it in other vision-language
    // models, and re-exports of Idefics3 still do; then the same tower as later releases call it.
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.text_model."),
    ("model.language_model.", "model.text_model."),
    ("language_model.", "model.text_model."),
];

/// Buffers that old releases saved along, and SigLIP's pooling head, which the conversion drops: never read.
fn is_unused(name: &str) -> bool {
    name.ends_with(".inv_freq")
        || name == "model.vision_model.embeddings.position_ids"
        || name.starts_with("model.vision_model.head.")
}

/// This engine's name for what a file calls `stored`; nothing for a tensor that is never read.
///
/// A name of no known layout is handed back as it is, and will be reported as unexpected.
pub(super) fn canonical(stored: &str) -> Option<String> {
    let known = LAYOUTS.iter().find_map(|(prefix, ours)| Some(format!("{ours}{}", stored.strip_prefix(prefix)?)));
    let name = known.unwrap_or_else(|| stored.to_owned());
    (!is_unused(&name)).then_some(name)
}

/// A size and the configuration field that sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dim {
    pub(crate) size: usize,
    pub(crate) field: &'static str,
}

/// A tensor that the configuration asks for.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) shape: Vec<Dim>,
}

impl Expected {
    /// Whether `shape` is what the configuration asks for.
    pub(super) fn fits(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(|(dim, size)| dim.size == *size)
    }

    /// The shape with the fields that set it: `[vocab_size 49280, hidden_size 576]`.
    pub(super) fn describe(&self) -> String {
        let dims: Vec<String> = self.shape.iter().map(|dim| format!("{} {}", dim.field, dim.size)).collect();
        format!("[{}]", dims.join(", "))
    }

    /// How many numbers it holds.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().map(|dim| dim.size as u64).product()
    }

    /// Its first dimension: a matrix's outputs.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().map_or(0, |dim| dim.size)
    }

    /// All its other dimensions: a matrix's inputs (a convolution's kernel is one row per output).
    pub(crate) fn inputs(&self) -> usize {
        self.shape.iter().skip(1).map(|dim| dim.size).product()
    }
}

/// Every tensor of the model, in the order in which it is used; the head is left out when it is tied.
pub(crate) fn expected(config: &ModelConfig) -> Vec<Expected> {
    let mut list = List::default();
    vision_tower(&mut list, &config.vision);
    connector(&mut list, config);
    text_tower(&mut list, &config.text);
    if !config.tie_embeddings {
        list.add(HEAD, &[dim(config.text.vocab, "vocab_size"), dim(config.text.hidden, "hidden_size")]);
    }
    list.0
}

#[derive(Default)]
struct List(Vec<Expected>);

impl List {
    fn add(&mut self, name: impl Into<String>, shape: &[Dim]) {
        self.0.push(Expected { name: name.into(), shape: shape.to_vec() });
    }

    /// `name.weight` of `shape` and `name.bias` of its first dimension.
    fn with_bias(&mut self, name: &str, shape: &[Dim]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }
}

fn dim(size: usize, field: &'static str) -> Dim {
    Dim { size, field }
}

fn vision_tower(list: &mut List, config: &VisionConfig) {
    let (width, mlp) = (dim(config.hidden, "hidden_size"), dim(config.mlp, "intermediate_size"));
    let patch = dim(config.patch, "patch_size");
    let patches = dim(config.patches_per_side().pow(2), "(image_size / patch_size)²");
    let at = "model.vision_model";
    list.with_bias(
        &format!("{at}.embeddings.patch_embedding"),
        &[width, dim(config.channels, "num_channels"), patch, patch],
    );
    list.add(format!("{at}.embeddings.position_embedding.weight"), &[patches, width]);
    for layer in 0..config.layers {
        let at = format!("{at}.encoder.layers.{layer}");
        list.with_bias(&format!("{at}.layer_norm1"), &[width]);
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.with_bias(&format!("{at}.self_attn.{projection}"), &[width, width]);
        }
        list.with_bias(&format!("{at}.layer_norm2"), &[width]);
        list.with_bias(&format!("{at}.mlp.fc1"), &[mlp, width]);
        list.with_bias(&format!("{at}.mlp.fc2"), &[width, mlp]);
    }
    list.with_bias(&format!("{at}.post_layernorm"), &[width]);
}

fn connector(list: &mut List, config: &ModelConfig) {
    let shuffled = dim(config.vision.hidden * config.scale_factor.pow(2), "vision hidden_size × scale_factor²");
    list.add(
        "model.connector.modality_projection.proj.weight",
        &[dim(config.text.hidden, "text hidden_size"), shuffled],
    );
}

fn text_tower(list: &mut List, config: &TextConfig) {
    let (width, mlp) = (dim(config.hidden, "hidden_size"), dim(config.mlp, "intermediate_size"));
    let queries = dim(config.heads * config.head_dim, "num_attention_heads × head_dim");
    let keys = dim(config.kv_heads * config.head_dim, "num_key_value_heads × head_dim");
    list.add(EMBEDDING, &[dim(config.vocab, "vocab_size"), width]);
    for layer in 0..config.layers {
        let at = format!("model.text_model.layers.{layer}");
        list.add(format!("{at}.input_layernorm.weight"), &[width]);
        list.add(format!("{at}.self_attn.q_proj.weight"), &[queries, width]);
        list.add(format!("{at}.self_attn.k_proj.weight"), &[keys, width]);
        list.add(format!("{at}.self_attn.v_proj.weight"), &[keys, width]);
        list.add(format!("{at}.self_attn.o_proj.weight"), &[width, queries]);
        list.add(format!("{at}.post_attention_layernorm.weight"), &[width]);
        list.add(format!("{at}.mlp.gate_proj.weight"), &[mlp, width]);
        list.add(format!("{at}.mlp.up_proj.weight"), &[mlp, width]);
        list.add(format!("{at}.mlp.down_proj.weight"), &[width, mlp]);
    }
    list.add("model.text_model.norm.weight", &[width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_leads_to_one_name() {
        for (stored, ours) in [
            ("model.text_model.layers.3.mlp.up_proj.weight", "model.text_model.layers.3.mlp.up_proj.weight"),
            ("text_model.layers.3.mlp.up_proj.weight", "model.text_model.layers.3.mlp.up_proj.weight"),
            ("model.layers.3.mlp.up_proj.weight", "model.text_model.layers.3.mlp.up_proj.weight"),
            ("language_model.model.norm.weight", "model.text_model.norm.weight"),
            ("model.language_model.norm.weight", "model.text_model.norm.weight"),
            ("language_model.norm.weight", "model.text_model.norm.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("vision_model.post_layernorm.bias", "model.vision_model.post_layernorm.bias"),
            ("model.modality_projection.proj.weight", "model.connector.modality_projection.proj.weight"),
            ("something.else", "something.else"),
        ] {
            assert_eq!(canonical(stored).as_deref(), Some(ours), "{stored}");
        }
    }

    #[test]
    fn buffers_of_old_releases_are_passed_over() {
        assert_eq!(canonical("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
        assert_eq!(canonical("vision_model.embeddings.position_ids"), None);
        assert_eq!(canonical("model.vision_model.head.attention.in_proj_weight"), None);
    }
}
