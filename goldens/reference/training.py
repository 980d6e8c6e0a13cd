"""Losses, gradients and optimizer steps of the reference model on batches of recorded conversations with answers."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import SmolVLMForConditionalGeneration

from .files import write_json, write_tensors
from .model import NORMALISED

ANSWER_TOKENS = 12
PROJECTIONS = 64
IGNORED = -100
STEPS = 10
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
DECAY = 0.01
CLIP = 1.0
ADAPTED_BATCH = "two_images"


@dataclass(frozen=True)
class Batch:
    """Recorded conversations that are learned from together, each with an answer of random tokens."""

    name: str
    members: tuple[str, ...]
    full: bool = False  # whether gradients are kept in full, or as projections


BATCHES = (
    Batch("image", ("image_square_48", "text_multi_turn"), full=True),
    Batch("two_images", ("two_images_interleaved", "image_wide_200x37")),
    Batch("video", ("video_short", "image_no_split")),
)


class Trainer:
    """One checkpoint, and what training makes of it."""

    def __init__(self, folder: Path):
        self.folder, self.checkpoint = folder, folder / "checkpoint"
        self.model = self._load(torch.float32)
        self.inputs = {batch.name: self._inputs(batch) for batch in BATCHES}

    def _load(self, dtype: torch.dtype):
        return SmolVLMForConditionalGeneration.from_pretrained(str(self.checkpoint), dtype=dtype).eval()

    def _inputs(self, batch: Batch) -> dict:
        rng = np.random.default_rng(sum(batch.name.encode()))
        rows, tiles = [], []
        for member in batch.members:
            tensors = load_file(self.folder / "cases" / f"{member}.safetensors")
            answer = torch.from_numpy(rng.integers(17, 300, ANSWER_TOKENS))
            rows.append((tensors["input_ids"], answer))
            tiles.append(NORMALISED[tensors["pixel_values_u8"].long()] if "pixel_values_u8" in tensors else None)
        size = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), size, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end], mask[row, :end] = torch.cat([prompt, answer]), 1
            labels[row, len(prompt): end] = answer
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        side = self.model.config.vision_config.image_size
        count = max(len(t) for t in tiles if t is not None)
        pixels = torch.zeros(len(rows), count, 3, side, side)
        for row, own in enumerate(tiles):
            if own is not None:
                pixels[row, : len(own)] = own
        return inputs | {"pixel_values": pixels}

    def gradients(self, batch: Batch, dtype: torch.dtype = torch.float32) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and every parameter's gradient."""
        model = self.model if dtype == torch.float32 else self._load(dtype)
        model.zero_grad(set_to_none=True)
        inputs = dict(self.inputs[batch.name])
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        return float(loss), {name: p.grad.float().clone() for name, p in model.named_parameters()}

    def steps(self) -> list[dict]:
        """AdamW over the batches in turn; norms, biases and embeddings do not decay."""
        model = self._load(torch.float32)
        embeddings = ("embed_tokens.weight", "position_embedding.weight")
        decays = [p for n, p in model.named_parameters() if p.dim() >= 2 and not n.endswith(embeddings)]
        kept = {id(p) for p in decays}
        groups = [{"params": decays, "weight_decay": DECAY},
                  {"params": [p for p in model.parameters() if id(p) not in kept], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, **ADAMW)
        taken = []
        for step in range(STEPS):
            batch = BATCHES[step % len(BATCHES)]
            optimizer.zero_grad(set_to_none=True)
            loss = model(**self.inputs[batch.name], use_cache=False).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            taken.append({"batch": batch.name, "loss": float(loss), "gradient_norm": float(norm)})
        return taken

    def record(self, batch: Batch) -> dict:
        """Writes one batch's two files and returns what went into the JSON."""
        loss, gradients = self.gradients(batch)
        half_loss, half = self.gradients(batch, torch.bfloat16)
        labels = self.inputs[batch.name]["labels"]
        info = {
            "name": batch.name, "members": batch.members, "answers": [row[row != IGNORED].tolist() for row in labels],
            "loss": loss, "bf16_loss": half_loss, "gradients": "full" if batch.full else "projected",
            "bf16_relative_l2": {group: _distance(half, gradients, group) for group in ("vision_model", "connector", "text_model", "")},
            "norms": {name: float(g.double().norm()) for name, g in gradients.items()},
        }
        kept = gradients if batch.full else {n: torch.from_numpy(project(g.numpy())) for n, g in gradients.items()}
        write_json(self.folder / "training" / f"{batch.name}.json", info)
        write_tensors(self.folder / "training" / f"{batch.name}.safetensors", kept)
        return info


def write_training(folder: Path) -> None:
    """Every batch, the optimizer's steps, and an adapter."""
    trainer = Trainer(folder)
    for batch in BATCHES:
        info = trainer.record(batch)
        print(f"  training {batch.name:12} loss {info['loss']:.5f}  bf16 gradients {info['bf16_relative_l2']['']:.4f} away")
    taken = trainer.steps()
    write_json(folder / "training" / "steps.json", {"adamw": ADAMW, "decay": DECAY, "clip": CLIP, "steps": taken})
    print("  training steps:", " ".join(f"{step['loss']:.4f}" for step in taken))


def write_adapter(folder: Path) -> None:
    """An adapter with random matrices as PEFT saves it, its loss and the gradients of both matrices."""
    from peft import LoraConfig, get_peft_model

    trainer = Trainer(folder)
    inputs = trainer.inputs[ADAPTED_BATCH]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj", "fc1", "proj"])
    model = get_peft_model(trainer.model, config)
    _draw_matrices(model, 7)
    _scale_adapters(model, config.lora_alpha / config.r**0.5)
    with torch.no_grad():
        stabilised = float(model(**inputs, use_cache=False).loss)
    _scale_adapters(model, config.lora_alpha / config.r)
    loss = model(**inputs, use_cache=False).loss
    loss.backward()
    _save_adapter(folder, "adapter", model)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    write_json(folder / "training" / "adapter.json",
               {"batch": ADAPTED_BATCH, "loss": float(loss), "rslora_loss": stabilised, "parameters": learned})
    print(f"  training adapter: loss {float(loss):.5f}, {learned} parameters")


def write_dora(folder: Path) -> None:
    """The same with DoRA's magnitudes, on the head too; beside it the logits where each answer begins."""
    from peft import LoraConfig, get_peft_model

    trainer = Trainer(folder)
    inputs = trainer.inputs[ADAPTED_BATCH]
    targets = ["q_proj", "v_proj", "gate_proj", "down_proj", "fc1", "proj", "lm_head"]
    model = get_peft_model(trainer.model, LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=targets))
    _draw_matrices(model, 8)
    outputs = model(**inputs, use_cache=False)
    outputs.loss.backward()
    _save_adapter(folder, "dora", model)
    begins = (inputs["labels"] != IGNORED).int().argmax(dim=1) - 1
    logits = outputs.logits[torch.arange(len(begins)), begins].detach()
    write_tensors(folder / "training" / "dora_logits.safetensors", {"logits": logits})
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    members = next(batch.members for batch in BATCHES if batch.name == ADAPTED_BATCH)
    write_json(folder / "training" / "dora.json",
               {"batch": ADAPTED_BATCH, "members": members, "loss": float(outputs.loss), "parameters": learned})
    print(f"  training dora: loss {float(outputs.loss):.5f}, {learned} parameters")


def _draw_matrices(model, seed: int) -> None:
    """Random matrices; magnitudes that are up to a fifth away from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(0.8 + 0.4 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def _save_adapter(folder: Path, name: str, model) -> None:
    """The adapter as PEFT saves it, and the gradients of what it is made of."""
    place = folder / "training" / name
    model.save_pretrained(str(place), save_embedding_layers=False)
    (place / "README.md").unlink(missing_ok=True)
    saved = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(place / "adapter_config.json", saved | {"target_modules": sorted(saved["target_modules"])})  # a set, in any order
    gradients = {name.replace(".default", "").removeprefix("base_model.model."): p.grad
                 for name, p in model.named_parameters() if p.grad is not None}
    write_tensors(folder / "training" / f"{name}_gradients.safetensors", gradients)


def _scale_adapters(model, scaling: float) -> None:
    for layer in model.modules():
        if isinstance(getattr(layer, "scaling", None), dict):
            layer.scaling["default"] = scaling


def project(gradient: np.ndarray) -> np.ndarray:
    """f32 `[PROJECTIONS]`: sums with signs that are drawn by splitmix64 from (projection, place)."""
    values = gradient.reshape(-1).astype(np.float64)
    places = np.arange(values.size, dtype=np.uint64)
    out = [values @ np.where(_splitmix(places + (np.uint64(p) << np.uint64(40))) >> np.uint64(63), -1.0, 1.0)
           for p in range(PROJECTIONS)]
    return np.array(out, dtype=np.float32)


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _distance(found: dict, expected: dict, group: str) -> float:
    names = [name for name in expected if group in name]
    square = lambda pairs: sum(float(x.double().square().sum()) for x in pairs) ** 0.5  # noqa: E731
    return square(found[n] - expected[n] for n in names) / square(expected[n] for n in names)
