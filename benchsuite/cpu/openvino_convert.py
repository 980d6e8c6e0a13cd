#!/usr/bin/env python3
"""Writes the checkpoint as OpenVINO models, each precision in its own folder: OUT/{float,int8,int4}.

    PYTHONPATH=OPTIMUM python benchsuite/cpu/openvino_convert.py --checkpoint DIR --out OUT

The text model and the embedding are what optimum-intel exports (stateful: keys and values stay inside OpenVINO), with
logits of the last position only, as OpenVINO GenAI does it. The vision tower with connector is traced by itself, without
the mask for padding that a whole tile does not need. int8: NNCF's post-training quantisation of the vision tower
(activations too), int8 weights in the text model. int4: 4-bit weights in groups of 64 in the text model, the head in 8 bits.
"""

import argparse
import shutil
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from optimum.exporters.openvino import main_export
from transformers import AutoModelForImageTextToText

TEXT = "openvino_language_model.xml"
EMBEDDING = "openvino_text_embeddings_model.xml"
CALIBRATION_TILES = 8


class Vision(torch.nn.Module):
    """Whole tiles `[N, 3, S, S]` to image features: no patch is padding, so positions are constant."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.tower, self.connector = model.model.vision_model, model.model.connector
        size, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
        empty, everywhere = torch.zeros(1, 3, size, size), torch.ones(1, size // patch, size // patch, dtype=torch.bool)
        embeddings = self.tower.embeddings
        with torch.inference_mode():
            patches = embeddings.patch_embedding(empty).flatten(2).transpose(1, 2)
            positions = embeddings(pixel_values=empty, patch_attention_mask=everywhere) - patches
        self.register_buffer("positions", positions.clone())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        rows = self.tower.encoder(inputs_embeds=patches + self.positions).last_hidden_state
        return self.connector(self.tower.post_layernorm(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folders = {name: args.out / name for name in ("float", "int8", "int4")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    write_vision(args.checkpoint, folders)
    write_text(args.checkpoint, args.out / "exported", folders)
    shutil.rmtree(args.out / "exported")


def write_vision(checkpoint: Path, folders: dict[str, Path]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    size = model.config.vision_config.image_size
    with torch.inference_mode():
        vision = Vision(model)
        tiles = torch.rand(1, 3, size, size) * 2 - 1
        converted = ov.convert_model(vision, example_input=tiles, input=[1, 3, size, size])
        check_vision(converted, model, tiles)
    ov.save_model(converted, folders["float"] / "vision.xml", compress_to_fp16=False)
    samples = [tile(size, seed) for seed in range(CALIBRATION_TILES)]
    quantised = nncf.quantize(converted, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER,
                              subset_size=len(samples))
    ov.save_model(quantised, folders["int8"] / "vision.xml")


def check_vision(converted: ov.Model, model: torch.nn.Module, tiles: torch.Tensor) -> None:
    """What is timed must be the model: features close to the reference's own path."""
    wanted = model.model.get_image_features(tiles[None])
    wanted = getattr(wanted, "pooler_output", wanted).numpy()
    got = ov.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(tiles.numpy())[0]
    off = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
    print(f"vision: relative distance from the reference {off:.1e}")
    if not off < 1e-3:
        raise SystemExit("the traced vision tower computes something else than the reference")


def tile(size: int, seed: int) -> np.ndarray:
    """A smooth picture with some noise, in the range of the processor's pixels."""
    draw = np.random.default_rng(seed)
    coarse = draw.uniform(-1, 1, (1, 3, 8, 8)).repeat(size // 8, axis=2).repeat(size // 8, axis=3)
    return np.clip(coarse + draw.normal(0, 0.1, coarse.shape), -1, 1).astype(np.float32)


def write_text(checkpoint: Path, exported: Path, folders: dict[str, Path]) -> None:
    main_export(str(checkpoint), output=exported, task="image-text-to-text", stateful=True)
    core = ov.Core()
    int8 = nncf.CompressWeightsMode.INT8_ASYM
    plans = {
        "float": (lambda model: model, lambda model: model),
        "int8": (lambda model: nncf.compress_weights(model, mode=int8),) * 2,
        "int4": (lambda model: nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, ratio=1.0, group_size=64),
                 lambda model: nncf.compress_weights(model, mode=int8)),
    }
    for name, (compress_text, compress_embedding) in plans.items():
        text = core.read_model(exported / TEXT)
        keep_last_logits(text)
        ov.save_model(compress_text(text), folders[name] / "text.xml")
        ov.save_model(compress_embedding(core.read_model(exported / EMBEDDING)), folders[name] / "embedding.xml")


def keep_last_logits(model: ov.Model) -> None:
    """Cuts the rows before the head down to the last, as OpenVINO GenAI does it."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    number = lambda value: ops.constant(np.array([value], dtype=np.int64))
    last = ops.slice(node.input_value(0), number(-1), number(np.iinfo(np.int64).max), number(1), number(1))
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


if __name__ == "__main__":
    main()
