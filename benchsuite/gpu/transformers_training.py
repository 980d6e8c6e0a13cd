#!/usr/bin/env python3
"""Steps of full fine-tuning by the Python reference on one GPU, as one line of JSON.

    python benchsuite/gpu/transformers_training.py --checkpoint DIR --samples 4 --tiles 17 --tokens 1388 [--recompute] [--masters f32]

Everything is on the GPU before a clock starts. A sample's tokens count from the middle on, as in ours. `--masters bf16`: parameters
and moments in bf16; `f32`: both in f32, computing in bf16 by autocast. AdamW is PyTorch's fused one.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForImageTextToText


def main() -> None:
    args = arguments()
    torch.manual_seed(1)
    narrow = args.masters == "bf16"
    dtype = torch.bfloat16 if narrow else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=dtype).cuda().train()
    if args.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batches = [batch(model.config, len(part), args) for part in torch.arange(args.samples).split(args.part)]
    torch.cuda.reset_peak_memory_stats()
    times = []
    for step in range(args.warm_up + args.steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for part in batches:
            with torch.autocast("cuda", torch.bfloat16, enabled=not narrow):
                loss = model(**part).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        if step >= args.warm_up:
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    print(json.dumps({"step_seconds": seconds, "samples_per_second": args.samples / seconds,
                      "memory_mib": torch.cuda.max_memory_allocated() / 2**20}))


def batch(config, samples: int, args: argparse.Namespace) -> dict:
    """So many tiles of image tokens, then words; pixels as the processor hands them over."""
    per_tile = (config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor) ** 2
    shown = args.tiles * per_tile
    ids = torch.full((samples, args.tokens), config.image_token_id, device="cuda")
    ids[:, shown:] = torch.arange(args.tokens - shown, device="cuda") * 37 % 200 + 17
    labels = ids.clone()
    labels[:, : args.tokens // 2 + 1] = -100
    size = config.vision_config.image_size
    pixels = torch.rand(samples, args.tiles, 3, size, size, device="cuda", dtype=torch.bfloat16) * 2 - 1
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--part", type=int, default=4, help="samples that go through the model together")
    parser.add_argument("--tiles", type=int, default=17)
    parser.add_argument("--tokens", type=int, default=1388)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--masters", choices=("bf16", "f32"), default="bf16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
