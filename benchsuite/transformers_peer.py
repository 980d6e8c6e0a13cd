#!/usr/bin/env python3
"""Times the Python reference at the stages `smolvlm bench` times, on the same checkpoint, as JSON.

    python benchsuite/transformers_peer.py --checkpoint DIR [--dtype bf16] [--threads 2] [--prompt-tokens 1100] [--repeat 3]

Run it in turn with `smolvlm bench` (ours, peer, ours, peer): only ratios from one stretch of time mean anything on a
machine that others use too. Pixels and ids are arbitrary; speed does not depend on them.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForImageTextToText
from transformers import __version__ as transformers_version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=1100)
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=dtype).eval()
    with torch.inference_mode():
        print(json.dumps({
            "transformers": transformers_version,
            "torch": torch.__version__,
            "dtype": args.dtype,
            "threads": args.threads,
            "vision_ms_per_tile": vision(model, args, dtype),
            **text(model, args),
        }, indent=1))


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def vision(model, args: argparse.Namespace, dtype: torch.dtype) -> dict[str, float]:
    """Vision tower and connector, milliseconds per tile."""
    size = model.config.vision_config.image_size
    pixels = torch.rand((1, args.tiles, 3, size, size), dtype=torch.float32).mul(2).sub(1).to(dtype)
    times = []
    for _ in range(args.repeat + 1):
        start = time.perf_counter()
        model.model.get_image_features(pixels)
        times.append((time.perf_counter() - start) / args.tiles * 1e3)
    return summary(times[1:])


def text(model, args: argparse.Namespace) -> dict[str, object]:
    """Prefill and decode, tokens per second."""
    ids = torch.arange(args.prompt_tokens).mul(7919).remainder(40000).add(1).unsqueeze(0)
    prefill, decode = [], []
    for _ in range(args.repeat + 1):
        start = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        prefill.append(args.prompt_tokens / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in range(args.decode_tokens):
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        decode.append(args.decode_tokens / (time.perf_counter() - start))
    return {
        "prompt_tokens": args.prompt_tokens,
        "prefill_tokens_per_second": summary(prefill[1:]),
        "decode_tokens_per_second": summary(decode[1:]),
    }


if __name__ == "__main__":
    main()
