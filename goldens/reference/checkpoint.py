"""A random-weight checkpoint folder in the layout of the published SmolVLM2 repositories."""

import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .files import write_json
from .sizes import ADDED_TOKENS, Size

SHARD_BYTES = 5_000_000_000  # as the published 2.2B is cut
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

BASE_SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>",
    "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>",
    "<jupyter_output>", "<jupyter_script>", "<empty_output>",
]

CORPUS = [
    "You are provided the following series of eight frames from a 0:00:12 [H:MM:SS] video.",
    "Frame from 00:00: Frame from 00:01: Frame from 01:59:",
    "User: Can you describe this image? Assistant: The image shows a small red square next to a large blue circle.",
    "System: You are a helpful assistant that answers questions about pictures and videos.",
    "What is the difference between these two images? Please answer in one sentence.",
    "The quick brown fox jumps over the lazy dog while the patient cat watches from the window sill.",
    "It's 12:30 on 2024-05-17; we'll have 3.14159 pies and they're only $42.00 each, isn't that great?",
    "Describe the video in detail. How many people can you see? Which colour is the car on the left?",
    "def main():\n    for i in range(10):\n        print(i)\n\n    return None\n",
    "Straße, naïve café, Ωmega, 東京, 你好世界, emoji 🙂🚀, tab\tand  double  spaces.",
]


def write_checkpoint(folder: Path, size: Size, seed: int, dtype: str, tokenizer: Path | None = None) -> int:
    """Writes every file of the folder and returns the number of parameters.

    `tokenizer`: a tokenizer.json with the published vocabulary; without it a byte-level BPE is trained on `CORPUS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        _train_tokenizer(size).save(str(folder / "tokenizer.json"))
    else:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _write_tokenizer_config(folder, size)
    _write_configs(folder, size, dtype)
    parameters = _write_weights(folder, seed, dtype)
    if size.parameters not in (None, parameters):
        raise AssertionError(f"{parameters:,} parameters, the published model has {size.parameters:,}")
    return parameters


def _train_tokenizer(size: Size):
    """A byte-level BPE with the published pipeline and the published ids relative to the end of the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=min(size.base_vocab, 2000), special_tokens=BASE_SPECIALS, show_progress=False,
                                  initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer=trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for i in range(len(vocab), size.base_vocab):  # unreachable filler, so that the added ids are the published ones
        vocab[f"<|unused_{i}|>"] = i
    tokenizer = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ADDED_TOKENS])
    return tokenizer


def _write_tokenizer_config(folder: Path, size: Size) -> None:
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {t["content"]: t["id"] for t in state["added_tokens"]}
    wrong = {t: ids.get(t) for i, t in enumerate(ADDED_TOKENS) if ids.get(t) != size.base_vocab + i}
    if wrong:
        raise AssertionError(f"tokenizer.json gives these added tokens other ids than the model: {wrong}")
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False)
    named = {"end_of_utterance_token": "<end_of_utterance>", "fake_image_token": "<fake_token_around_image>",
             "global_image_token": "<global-img>", "image_token": "<image>"}
    core = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>"}
    extra = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    write_json(folder / "special_tokens_map.json", {
        "additional_special_tokens": extra, **{k: dict(content=v, **flags) for k, v in core.items()}, **named,
    })
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(t["id"]): dict(content=t["content"], special=t["special"], **flags) for t in state["added_tokens"]
        },
        "additional_special_tokens": extra, **core, "clean_up_tokenization_spaces": False, **named,
        "extra_special_tokens": named, "model_max_length": 8192, "processor_class": "SmolVLMProcessor",
        "tokenizer_class": "GPT2Tokenizer", "truncation_side": "left", "vocab_size": size.base_vocab,
    })


def _write_configs(folder: Path, size: Size, dtype: str) -> None:
    write_json(folder / "config.json", {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": size.base_vocab + ADDED_TOKENS.index("<image>"),
        "model_type": "smolvlm",
        "pad_token_id": 128002,  # sic: outside the vocabulary, as published
        "scale_factor": size.scale_factor,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"], "is_llama_config": True, "model_type": "llama",
            "neftune_noise_alpha": 0.0, "pad_token_id": 2, "pixel_shuffle_factor": size.scale_factor,
            "qk_layer_norms": False, "rms_norm_eps": 1e-05, "rope_interleaved": False, "torch_dtype": "bfloat16",
            "use_resampler": False, "vocab_size": size.vocab, **size.text,
        },
        "tie_word_embeddings": False,
        "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
        "transformers_version": "4.47.1",
        "use_cache": False,
        "use_reentrant_checkpointing": False,
        "vision_config": {
            "max_image_size": {"longest_edge": size.tile}, "model_type": "smolvlm_vision",
            "size": {"longest_edge": size.longest_edge}, "tie_word_embeddings": False, "use_base_siglip": False,
            **size.vision,
        },
        "vocab_size": size.vocab,
    })
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 0, "eos_token_id": size.vocab - 1, "pad_token_id": 2,
        "transformers_version": "4.47.1",
    })
    write_json(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SmolVLMImageProcessor",
        "image_std": [0.5, 0.5, 0.5], "max_image_size": {"longest_edge": size.tile}, "processor_class": "SmolVLMProcessor",
        "resample": 1, "rescale_factor": 0.00392156862745098, "size": {"longest_edge": size.longest_edge},
        "video_sampling": {"fps": 1, "max_frames": size.max_frames, "video_size": {"longest_edge": size.tile}},
    })
    write_json(folder / "processor_config.json", {
        "image_seq_len": size.image_seq_len, "processor_class": "SmolVLMProcessor",
    })
    write_json(folder / "chat_template.json", {"chat_template": published_chat_template()})


def published_chat_template() -> str:
    """The published template: the library's default one without its `video` branch."""
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as template

    start = template.index("{% elif line['type'] == 'video' %}")
    return template[:start] + template[template.index("{% endif %}", start):]


def _draw(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values that depend on (seed, name) only, scaled so that logits are well separated."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.standard_normal(size=shape, dtype=np.float32)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if "norm" in name and name.endswith("weight"):
        return torch.from_numpy(values * np.float32(0.1) + np.float32(1.0))
    if name.endswith("bias"):
        scale = 0.1
    elif name.endswith("embed_tokens.weight"):
        scale = 1.0
    elif name.endswith("position_embedding.weight"):
        scale = 0.5
    elif name.endswith(("q_proj.weight", "k_proj.weight")):
        scale = 1.5 / math.sqrt(fan_in)
    elif name == "lm_head.weight":
        scale = 4.0 / math.sqrt(fan_in)
    else:
        scale = 1.0 / math.sqrt(fan_in)
    values *= np.float32(scale)
    return torch.from_numpy(values)


def _write_weights(folder: Path, seed: int, dtype: str) -> int:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    with torch.device("meta"):
        model = SmolVLMForConditionalGeneration(SmolVLMConfig.from_pretrained(str(folder)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shards, bytes_in_last = [[]], 0
    for name, shape in shapes.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        if shards[-1] and bytes_in_last + size > SHARD_BYTES:
            shards.append([])
            bytes_in_last = 0
        shards[-1].append(name)
        bytes_in_last += size
    weight_map = {}
    for i, names in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _draw(name, shapes[name], seed).to(DTYPES[dtype]) for name in names}, str(folder / file),
                  metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {
            "metadata": {"total_size": parameters * DTYPES[dtype].itemsize}, "weight_map": dict(sorted(weight_map.items())),
        })
    return parameters
