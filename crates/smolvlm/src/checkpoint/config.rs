//! `config.json`: the model's dimensions.

use serde_json::Value;

use super::fields::{Fields, brief};
use super::names;
use super::problems::Problems;
use super::tensor::StoredDtype;
use crate::Result;

/// Upper bounds far above any published model. Within them no product of dimensions overflows 64 bits.
const MAX_WIDTH: usize = 1 << 16;
const MAX_MLP: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 30;
/// Most numbers of a text head: kernels keep one on the stack.
const MAX_HEAD_DIM: usize = 256;
/// Numbers in the rotary table, which no weight file vouches for: 256 MiB of them, 128 times the published models'.
const MAX_ROTARY: usize = 1 << 26;
const MAX_IMAGE: usize = 1 << 14;
const MAX_SCALE: usize = 1 << 6;

/// The language model (Llama): transformers' `LlamaConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream (`hidden_size`).
    pub hidden: usize,
    /// Blocks (`num_hidden_layers`).
    pub layers: usize,
    /// Inner width of the MLP (`intermediate_size`).
    pub mlp: usize,
    /// Query heads (`num_attention_heads`).
    pub heads: usize,
    /// Key and value heads (`num_key_value_heads`); divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even, for the rotation's halves.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square in each RMS norm.
    pub rms_eps: f32,
    /// Tokens (`vocab_size`).
    pub vocab: usize,
    /// Longest sequence (`max_position_embeddings`).
    pub max_positions: usize,
}

/// The vision tower (SigLIP): transformers' `SmolVLMVisionConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream (`hidden_size`).
    pub hidden: usize,
    /// Blocks (`num_hidden_layers`).
    pub layers: usize,
    /// Inner width of the MLP (`intermediate_size`).
    pub mlp: usize,
    /// Heads (`num_attention_heads`); divides `hidden`.
    pub heads: usize,
    /// Side of a tile, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels. Pixels beyond the last whole patch are not seen.
    pub patch: usize,
    /// Colour planes of a tile; always 3.
    pub channels: usize,
    /// Added to the variance in each layer norm.
    pub layer_norm_eps: f32,
}

impl VisionConfig {
    /// Whole patches along one side of a tile.
    pub fn patches_per_side(&self) -> usize {
        self.image_size / self.patch
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// A SmolVLM2 model: transformers' `SmolVLMConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// How many patches along each side of a square the connector joins into one token.
    pub scale_factor: usize,
    /// The token whose embedding is replaced by an image token.
    pub image_token_id: u32,
    /// Whether the head is the embedding table.
    pub tie_embeddings: bool,
    /// The format the configuration says its weights are in; the reference computes in it unless told otherwise.
    pub stored_dtype: Option<StoredDtype>,
}

impl ModelConfig {
    /// Reads `config.json`, with the reference's defaults for what it omits and without minding what else it says.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] with every field that is of the wrong type or size, asks for something that
    /// this engine does not compute, or contradicts another.
    pub fn from_json(json: &Value) -> Result<Self> {
        let problems = Problems::default();
        let top = Fields::new("config.json: ", Some(json), &problems);
        check_model_type(&top);
        let text = text_config(&top, &problems);
        let vision = vision_config(&top, &problems);
        let scale_factor = top.count("scale_factor", 2, 1..=MAX_SCALE);
        let image_token_id = top.count("image_token_id", 128_257, 0..=u32::MAX as usize) as u32;
        let tie_embeddings = top.flag("tie_word_embeddings", false);
        let stored_dtype = stored_dtype(&top);
        let config = Self { text, vision, scale_factor, image_token_id, tie_embeddings, stored_dtype };
        config.check(&problems);
        problems.into_result("the configuration is not usable")?;
        Ok(config)
    }

    /// How many tokens one tile becomes.
    pub fn tokens_per_tile(&self) -> usize {
        (self.vision.patches_per_side() / self.scale_factor).pow(2)
    }

    /// How many numbers the model is made of; a tied head is not counted again.
    pub fn parameter_count(&self) -> u64 {
        names::expected(self).iter().map(names::Expected::elements).sum()
    }

    /// Notes fields that contradict each other.
    fn check(&self, problems: &Problems) {
        let (text, vision) = (&self.text, &self.vision);
        let require = |holds: bool, fault: String| {
            if !holds {
                problems.add(format!("config.json: {fault}"));
            }
        };
        let (heads, kv_heads) = (text.heads, text.kv_heads);
        require(
            heads.is_multiple_of(kv_heads),
            format!("text_config.num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"),
        );
        require(
            text.hidden.is_multiple_of(heads),
            format!("text_config.hidden_size {} is not a multiple of num_attention_heads {heads}", text.hidden),
        );
        require(
            text.head_dim.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(&text.head_dim),
            format!(
                "text_config.head_dim is {}, expected an even number (rotary halves) of at most {MAX_HEAD_DIM}",
                text.head_dim
            ),
        );
        let rotary = text.max_positions.saturating_mul(text.head_dim);
        require(
            rotary <= MAX_ROTARY,
            format!(
                "text_config.max_position_embeddings {} × head_dim {} is {rotary}, expected at most {MAX_ROTARY}",
                text.max_positions, text.head_dim
            ),
        );
        require(
            vision.hidden.is_multiple_of(vision.heads),
            format!(
                "vision_config.hidden_size {} is not a multiple of num_attention_heads {}",
                vision.hidden, vision.heads
            ),
        );
        let (side, scale) = (vision.patches_per_side(), self.scale_factor);
        require(
            side > 0 && side.is_multiple_of(scale),
            format!(
                "vision_config.image_size {} / patch_size {} gives {side} patches a side, expected a multiple of \
                 scale_factor {scale}",
                vision.image_size, vision.patch
            ),
        );
        require(
            (self.image_token_id as usize) < text.vocab,
            format!("image_token_id {} is outside text_config.vocab_size {}", self.image_token_id, text.vocab),
        );
    }
}

/// The other members of the family share the architecture but not the processor.
fn check_model_type(top: &Fields<'_>) {
    top.must_be_one_of("model_type", &["smolvlm"]);
    if let Some(quantization) = top.get("quantization_config") {
        top.wrong("quantization_config", "none (weights in f32, bf16 or f16)", &brief(Some(quantization)));
    }
}

fn text_config(top: &Fields<'_>, problems: &Problems) -> TextConfig {
    let json = top.get("text_config");
    let fields = Fields::new("config.json: text_config.", json, problems);
    fields.must_be_one_of("model_type", &["llama"]);
    fields.must_be_one_of("hidden_act", &["silu"]);
    fields.must_be_off(&["attention_bias", "mlp_bias", "qk_layer_norms", "rope_interleaved", "use_resampler"]);
    // SmolVLMConfig.sub_configs_defaults sets 1e-5 only when there is no text_config at all.
    let default_eps = if json.is_some() { 1e-6 } else { 1e-5 };
    let hidden = fields.count("hidden_size", 4096, 1..=MAX_WIDTH);
    let heads = fields.count("num_attention_heads", 32, 1..=MAX_HEADS);
    TextConfig {
        hidden,
        heads,
        layers: fields.count("num_hidden_layers", 32, 1..=MAX_LAYERS),
        mlp: fields.count("intermediate_size", 11_008, 1..=MAX_MLP),
        kv_heads: fields.count("num_key_value_heads", heads, 1..=MAX_HEADS),
        head_dim: fields.count("head_dim", hidden / heads, 1..=MAX_HEADS),
        rope_theta: rope_theta(&fields, problems),
        rms_eps: fields.number("rms_norm_eps", default_eps, 0.0..=1.0),
        vocab: fields.count("vocab_size", 32_000, 1..=MAX_VOCAB),
        max_positions: fields.count("max_position_embeddings", 2048, 1..=MAX_POSITIONS),
    }
}

/// The rotary base: beside the other fields (`rope_theta`, written by transformers 4) or inside `rope_parameters`
/// (written by 5). Scaled rotations, of either spelling, are refused: no published model has them.
fn rope_theta(text: &Fields<'_>, problems: &Problems) -> f32 {
    const LIMITS: std::ops::RangeInclusive<f64> = 1.0..=1e12;
    let outer = text.optional_number("rope_theta", LIMITS);
    let mut inner = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let place = format!("config.json: text_config.{key}.");
        let rope = Fields::new(&place, text.get(key), problems);
        rope.must_be_one_of("rope_type", &["default"]);
        rope.must_be_one_of("type", &["default"]);
        if rope.optional_number("partial_rotary_factor", 0.0..=1.0).is_some_and(|share| share != 1.0) {
            rope.wrong("partial_rotary_factor", "1 (nothing else is implemented)", "less");
        }
        inner = rope.optional_number("rope_theta", LIMITS).or(inner);
    }
    if let (Some(outer), Some(inner)) = (outer, inner)
        && outer != inner
    {
        text.wrong("rope_theta", &format!("{inner} as in rope_parameters"), &outer.to_string());
    }
    inner.or(outer).unwrap_or(10_000.0)
}

fn vision_config(top: &Fields<'_>, problems: &Problems) -> VisionConfig {
    let fields = Fields::new("config.json: vision_config.", top.get("vision_config"), problems);
    fields.must_be_one_of("hidden_act", &["gelu_pytorch_tanh"]);
    VisionConfig {
        hidden: fields.count("hidden_size", 1152, 1..=MAX_WIDTH),
        layers: fields.count("num_hidden_layers", 12, 1..=MAX_LAYERS),
        mlp: fields.count("intermediate_size", 3072, 1..=MAX_MLP),
        heads: fields.count("num_attention_heads", 16, 1..=MAX_HEADS),
        image_size: fields.count("image_size", 224, 1..=MAX_IMAGE),
        patch: fields.count("patch_size", 32, 1..=MAX_IMAGE),
        channels: fields.count("num_channels", 3, 3..=3),
        layer_norm_eps: fields.number("layer_norm_eps", 1e-6, 0.0..=1.0),
    }
}

/// The top level decides (`dtype` in transformers 5, `torch_dtype` before); `text_config`'s own is a relic of training
/// that the reference passes over too.
fn stored_dtype(top: &Fields<'_>) -> Option<StoredDtype> {
    let (key, value) = ["dtype", "torch_dtype"].into_iter().find_map(|key| Some((key, top.get(key)?)))?;
    let dtype = value.as_str().and_then(StoredDtype::from_config);
    if dtype.is_none() {
        top.wrong(key, "\"float32\", \"bfloat16\" or \"float16\"", &brief(Some(value)));
    }
    dtype
}

#[cfg(test)]
#[path = "tests/config.rs"]
mod tests;
