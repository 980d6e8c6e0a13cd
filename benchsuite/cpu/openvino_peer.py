#!/usr/bin/env python3
"""One sample of OpenVINO's figures, as one line of JSON. No torch at run time: Pillow, numpy, tokenizers, OpenVINO.

    python benchsuite/cpu/openvino_peer.py --work DIR --dtype f32|bf16|q8|q4 --threads 2 stages|answer ...

`stages` times vision, prefill and decode in this process. `answer FILE` is what a user would run: file to tokens.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import openvino as ov

from samples import context_of, median_of, timed, token_ids

FOLDERS = {"f32": "float", "bf16": "float", "q8": "int8", "q4": "int4"}
# The vision tower has no 4-bit form that computes faster than the 8-bit one.
VISION_FOLDERS = FOLDERS | {"q4": "int8"}


class Model:
    """The compiled parts; compiled models are cached in the work folder, as a user with many pictures would do."""

    def __init__(self, work: Path, dtype: str, threads: int) -> None:
        self.models = work / "openvino"
        self.dtype = dtype
        self.core = ov.Core()
        self.config = {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32" if dtype == "f32" else "bf16",
            "CACHE_DIR": str(work / "openvino" / "cache" / dtype), "CACHE_MODE": "OPTIMIZE_SPEED",
        }

    def load_vision(self) -> None:
        self.vision = self.compile(VISION_FOLDERS, "vision").create_infer_request()

    def load_text(self) -> None:
        self.embedding = self.compile(FOLDERS, "embedding").create_infer_request()
        self.text = self.compile(FOLDERS, "text").create_infer_request()

    def compile(self, folders: dict[str, str], part: str) -> ov.CompiledModel:
        return self.core.compile_model(self.models / folders[self.dtype] / f"{part}.xml", "CPU", self.config)

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """Features `[1, 64, 576]` of one tile `[1, 3, 512, 512]`."""
        return self.vision.infer({0: tile}, share_inputs=True)[0].copy()

    def embed(self, ids: list[int]) -> np.ndarray:
        return self.embedding.infer({0: np.array([ids])}, share_inputs=True)[0]

    def forget(self) -> None:
        self.text.reset_state()
        self.position = 0

    def step(self, embeddings: np.ndarray) -> int:
        """Appends the rows and returns the likeliest next token."""
        count = embeddings.shape[1]
        end = self.position + count
        logits = self.text.infer({
            "inputs_embeds": embeddings,
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(self.position, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }, share_inputs=True, share_outputs=True)
        self.position = end
        return int(logits[0][0, -1].argmax())

    def decode(self, token: int, count: int) -> list[int]:
        tokens = [token]
        for _ in range(count):
            tokens.append(self.step(self.embed(tokens[-1:])))
        return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dtype", choices=FOLDERS, required=True)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(dest="command", required=True)
    stages_parser = commands.add_parser("stages")
    stages_parser.add_argument("--only", default="vision,prefill,decode")
    stages_parser.add_argument("--tiles", type=int, default=4)
    stages_parser.add_argument("--prompts", default="1100,2200")
    stages_parser.add_argument("--contexts", default="0,1100,2200")
    stages_parser.add_argument("--decode-tokens", type=int, default=32)
    answer_parser = commands.add_parser("answer")
    answer_parser.add_argument("file", type=Path)
    answer_parser.add_argument("--new-tokens", type=int, default=1)
    args = parser.parse_args()
    model = Model(args.work, args.dtype, args.threads)
    print(json.dumps(stages(model, args) if args.command == "stages" else answer(model, args)))


def stages(model: Model, args: argparse.Namespace) -> dict[str, float]:
    only = args.only.split(",")
    figures = {}
    if "vision" in only:
        model.load_vision()
        tiles = np.random.default_rng(1).uniform(-1, 1, (args.tiles, 1, 3, 512, 512)).astype(np.float32)
        model.encode(tiles[0])
        figures["vision"] = 1e3 * median_of(timed(lambda: model.encode(tile)) for tile in tiles)
    if {"prefill", "decode"} & set(only):
        model.load_text()
    if "prefill" in only:
        for count in map(int, args.prompts.split(",")):
            prefill(model, count)
            figures[f"prefill-{count}"] = count / median_of(prefill(model, count) for _ in range(3))
    if "decode" in only:
        for context in map(int, args.contexts.split(",")):
            prefill(model, context_of(context))
            model.decode(1, 4)
            figures[f"decode-{context}"] = args.decode_tokens / timed(lambda: model.decode(1, args.decode_tokens))
    return figures


def prefill(model: Model, count: int) -> float:
    ids = token_ids(count)
    model.forget()
    return timed(lambda: model.step(model.embed(ids)))


def answer(model: Model, args: argparse.Namespace) -> dict[str, object]:
    """A file of a picture or a video to tokens, everything included."""
    from lean_processor import prompt_of

    started = time.perf_counter()
    tiles, ids, image_token = prompt_of(args.file, args.work / "checkpoint")
    read = time.perf_counter()
    model.load_vision()
    features = np.concatenate([model.encode(tile[None]) for tile in tiles])
    encoded = time.perf_counter()
    model.load_text()
    embeddings = model.embed(ids).copy()
    embeddings[0, np.array(ids) == image_token] = features.reshape(-1, embeddings.shape[-1])
    model.forget()
    first = model.step(embeddings)
    prefilled = time.perf_counter()
    tokens = model.decode(first, args.new_tokens - 1)
    return {"tiles": len(tiles), "prompt_tokens": len(ids), "new_tokens": len(tokens), "read_s": read - started,
            "vision_s": encoded - read, "prefill_s": prefilled - encoded}


if __name__ == "__main__":
    main()
