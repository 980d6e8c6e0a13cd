//! The demonstration model's folder, all but its weights: an ordinary SmolVLM2 checkpoint of small dimensions.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::files::{make_folder, write};
use crate::tokenizer::{END, FAKE, GLOBAL, IMAGE, TrainedTokenizer, VOCABULARY};

const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Side of a tile and of a patch, in pixels.
const TILE: usize = 128;
const PATCH: usize = 8;
/// Patches along each side of a square that becomes one token.
const SCALE: usize = 4;
/// The longer side of a picture before it is split: four tiles.
const LONGEST_EDGE: usize = 512;
const VISION_WIDTH: usize = 192;
const VISION_MLP: usize = 768;
const TEXT_WIDTH: usize = 256;
const TEXT_MLP: usize = 640;
const KEY_WIDTH: usize = 128;
/// Blocks of the vision tower, and of the text model.
const LAYERS: usize = 6;
/// Width of every head of both, as in the published models.
const HEAD: usize = 64;
const POSITIONS: usize = 4096;

/// Numbers in the weights; the head is the embedding table.
pub const PARAMETERS: usize = {
    let patches = (TILE / PATCH) * (TILE / PATCH);
    let embedding = VISION_WIDTH * (3 * PATCH * PATCH + 1) + patches * VISION_WIDTH;
    let attention = 4 * VISION_WIDTH * (VISION_WIDTH + 1);
    let mlp = VISION_MLP * (VISION_WIDTH + 1) + VISION_WIDTH * (VISION_MLP + 1);
    let vision = embedding + LAYERS * (attention + mlp + 4 * VISION_WIDTH) + 2 * VISION_WIDTH;
    let connector = VISION_WIDTH * SCALE * SCALE * TEXT_WIDTH;
    let block = TEXT_WIDTH * (2 * TEXT_WIDTH + 2 * KEY_WIDTH + 3 * TEXT_MLP + 2);
    vision + connector + VOCABULARY * TEXT_WIDTH + LAYERS * block + TEXT_WIDTH
};

/// The model is to be small enough to lie in the repository: 16 MiB in bf16.
const _: () = assert!(PARAMETERS <= 8_000_000 && 2 * PARAMETERS <= 16 << 20);

/// Image tokens of one tile.
const TOKENS_PER_TILE: usize = (TILE / PATCH / SCALE) * (TILE / PATCH / SCALE);

/// Writes `config.json`, `generation_config.json`, the processor's files, the chat template and the tokenizer's files into
/// `folder`, which is made if need be. Only the weights are missing.
///
/// # Errors
/// When a file cannot be written, or the tokenizer lacks a special token.
pub fn write_model_folder(tokenizer: &TrainedTokenizer, folder: &Path) -> Result<()> {
    make_folder(folder)?;
    let ids = tokenizer.special_ids()?;
    let files = [
        ("config.json", config(ids.image)),
        (
            "generation_config.json",
            json!({"bos_token_id": 0, "eos_token_id": ids.end_of_utterance, "pad_token_id": ids.pad}),
        ),
        ("preprocessor_config.json", preprocessor_config()),
        ("processor_config.json", json!({"image_seq_len": TOKENS_PER_TILE, "processor_class": "SmolVLMProcessor"})),
        ("chat_template.json", json!({"chat_template": CHAT_TEMPLATE})),
        ("special_tokens_map.json", special_tokens_map()),
        ("tokenizer_config.json", tokenizer_config(tokenizer)),
    ];
    tokenizer.write(&folder.join("tokenizer.json"))?;
    for (name, value) in files {
        write(&folder.join(name), format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}

fn config(image_id: u32) -> Value {
    json!({
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": image_id,
        "pad_token_id": 2,
        "scale_factor": SCALE,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": VOCABULARY,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": HEAD,
            "hidden_act": "silu",
            "hidden_size": TEXT_WIDTH,
            "initializer_range": 0.02,
            "intermediate_size": TEXT_MLP,
            "max_position_embeddings": POSITIONS,
            "mlp_bias": false,
            "num_attention_heads": TEXT_WIDTH / HEAD,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KEY_WIDTH / HEAD,
            "pad_token_id": 2,
            "pixel_shuffle_factor": SCALE,
            "qk_layer_norms": false,
            "rms_norm_eps": 1e-5,
            "rope_interleaved": false,
            "rope_theta": 10_000,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "use_resampler": false,
            "vocab_size": VOCABULARY,
        },
        "vision_config": {
            "model_type": "smolvlm_vision",
            "attention_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": VISION_WIDTH,
            "image_size": TILE,
            "initializer_range": 0.02,
            "intermediate_size": VISION_MLP,
            "layer_norm_eps": 1e-6,
            "max_image_size": {"longest_edge": TILE},
            "num_attention_heads": VISION_WIDTH / HEAD,
            "num_channels": 3,
            "num_hidden_layers": LAYERS,
            "patch_size": PATCH,
            "size": {"longest_edge": LONGEST_EDGE},
            "tie_word_embeddings": false,
        },
    })
}

fn preprocessor_config() -> Value {
    json!({
        "do_convert_rgb": true,
        "do_image_splitting": true,
        "do_normalize": true,
        "do_pad": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SmolVLMImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": TILE},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 0.003_921_568_627_450_98,
        "size": {"longest_edge": LONGEST_EDGE},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": TILE}},
    })
}

/// Tokens by the names under which the processor asks for them.
fn named_tokens() -> Map<String, Value> {
    let named = [
        ("end_of_utterance_token", END),
        ("fake_image_token", FAKE),
        ("global_image_token", GLOBAL),
        ("image_token", IMAGE),
    ];
    named.into_iter().map(|(name, token)| (name.to_owned(), json!(token))).collect()
}

const ROLES: [(&str, &str); 4] =
    [("bos_token", "<|im_start|>"), ("eos_token", END), ("pad_token", "<|im_end|>"), ("unk_token", "<|endoftext|>")];

/// How an added token is written down.
fn added_token(content: &str) -> Value {
    json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false})
}

fn special_tokens_map() -> Value {
    let mut map = Map::new();
    map.insert("additional_special_tokens".to_owned(), json!([FAKE, IMAGE, END]));
    map.extend(ROLES.map(|(role, token)| (role.to_owned(), added_token(token))));
    map.extend(named_tokens());
    Value::Object(map)
}

fn tokenizer_config(tokenizer: &TrainedTokenizer) -> Value {
    let decoder = tokenizer.specials().into_iter().map(|(id, content)| {
        let mut token = added_token(&content);
        token["special"] = json!(true);
        (id.to_string(), token)
    });
    let mut config = Map::new();
    config.insert("add_prefix_space".to_owned(), json!(false));
    config.insert("added_tokens_decoder".to_owned(), Value::Object(decoder.collect()));
    config.insert("additional_special_tokens".to_owned(), json!([FAKE, IMAGE, END]));
    config.extend(ROLES.map(|(role, token)| (role.to_owned(), json!(token))));
    config.insert("chat_template".to_owned(), json!(CHAT_TEMPLATE));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.extend(named_tokens());
    config.insert("extra_special_tokens".to_owned(), Value::Object(named_tokens()));
    config.insert("legacy".to_owned(), json!(false));
    config.insert("model_max_length".to_owned(), json!(POSITIONS));
    config.insert("processor_class".to_owned(), json!("SmolVLMProcessor"));
    config.insert("tokenizer_class".to_owned(), json!("GPT2Tokenizer"));
    config.insert("truncation_side".to_owned(), json!("left"));
    config.insert("vocab_size".to_owned(), json!(VOCABULARY));
    Value::Object(config)
}
