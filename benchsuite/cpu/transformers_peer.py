#!/usr/bin/env python3
"""One sample of the Python reference's figures, as one line of JSON.

    python benchsuite/cpu/transformers_peer.py --work DIR --dtype f32|bf16 --threads 2 stages|answer|processor ...

`stages` times vision, prefill and decode in this process. `answer FILE` is what a user would run: file to tokens.
`processor FILE` times the image processor alone, on torchvision's and on Pillow's side.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from samples import QUESTION, context_of, median_of, timed, token_ids

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(dest="command", required=True)
    stages_parser = commands.add_parser("stages")
    stages_parser.add_argument("--only", default="vision,prefill,decode")
    stages_parser.add_argument("--tiles", type=int, default=4)
    stages_parser.add_argument("--prompts", default="1100,2200")
    stages_parser.add_argument("--contexts", default="0,1100,2200")
    stages_parser.add_argument("--decode-tokens", type=int, default=32)
    for name in ("answer", "processor"):
        file_parser = commands.add_parser(name)
        file_parser.add_argument("file", type=Path)
        file_parser.add_argument("--new-tokens", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        print(json.dumps({"stages": stages, "answer": answer, "processor": processor}[args.command](args)))


def load(args: argparse.Namespace) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(args.work / "checkpoint", dtype=DTYPES[args.dtype]).eval()


def stages(args: argparse.Namespace) -> dict[str, float]:
    model, only, figures = load(args), args.only.split(","), {}
    if "vision" in only:
        figures["vision"] = vision(model, args)
    if "prefill" in only:
        for count in map(int, args.prompts.split(",")):
            prefill(model, count)
            figures[f"prefill-{count}"] = count / median_of(timed(lambda: prefill(model, count)) for _ in range(3))
    if "decode" in only:
        for context in map(int, args.contexts.split(",")):
            cache = prefill(model, context_of(context))
            decode(model, cache, 4)
            figures[f"decode-{context}"] = args.decode_tokens / timed(lambda: decode(model, cache, args.decode_tokens))
    return figures


def vision(model: torch.nn.Module, args: argparse.Namespace) -> float:
    """Milliseconds a tile, the tiles as one batch or one at a time, whichever is faster."""
    size = model.config.vision_config.image_size
    pixels = (torch.rand((1, args.tiles, 3, size, size)) * 2 - 1).to(DTYPES[args.dtype])
    features = model.model.get_image_features
    features(pixels)
    together = timed(lambda: features(pixels)) / args.tiles
    alone = median_of(timed(lambda: features(pixels[:, i:i + 1])) for i in range(args.tiles))
    return 1e3 * min(together, alone)


def prefill(model: torch.nn.Module, count: int) -> object:
    return model(input_ids=torch.tensor([token_ids(count)]), use_cache=True, logits_to_keep=1).past_key_values


def decode(model: torch.nn.Module, cache: object, count: int) -> None:
    token = torch.tensor([[1]])
    for _ in range(count):
        token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)


def answer(args: argparse.Namespace) -> dict[str, object]:
    """A file of a picture or a video to tokens, everything included."""
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    started = time.perf_counter()
    reader = AutoProcessor.from_pretrained(args.work / "checkpoint")
    model = load(args)
    loaded = time.perf_counter()
    kind = "video" if args.file.suffix == ".mp4" else "image"
    messages = [{"role": "user", "content": [{"type": kind, "path": str(args.file)}, {"type": "text", "text": QUESTION}]}]
    template = {"chat_template": DEFAULT_CHAT_TEMPLATE} if kind == "video" else {}
    inputs = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True,
                                        return_tensors="pt", **template).to(DTYPES[args.dtype])
    read = time.perf_counter()
    out = model.generate(**inputs, do_sample=False, min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens)
    prompt = inputs["input_ids"].shape[1]
    return {"tiles": inputs["pixel_values"].shape[1], "prompt_tokens": prompt, "new_tokens": out.shape[1] - prompt,
            "load_s": loaded - started, "read_s": read - loaded, "model_s": time.perf_counter() - read}


def processor(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from the file's path to tensors."""
    from transformers import AutoImageProcessor
    from transformers.image_utils import load_image
    from torchvision.io import ImageReadMode, decode_image

    figures = {}
    for name, backend, read in (("torchvision", "torchvision", lambda: decode_image(str(args.file), ImageReadMode.RGB)),
                                ("pil", "pil", lambda: load_image(str(args.file)))):
        reader = AutoImageProcessor.from_pretrained(args.work / "checkpoint", backend=backend)
        work = lambda: reader(images=[[read()]], return_tensors="pt")
        work()
        figures[f"processor-{name}"] = 1e3 * median_of(timed(work) for _ in range(5))
    return figures


if __name__ == "__main__":
    main()
