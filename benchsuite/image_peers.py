#!/usr/bin/env python3
"""Reading a picture beside the reference's two image processors, in turns, in one run: a JPEG file to tiles.

    python benchsuite/image_peers.py PICTURE --repeat 5 > runs/DATE-MACHINE/image.json

Needs torch, torchvision, torchcodec, Pillow and transformers, and `cargo build --release -p smolvlm --example read_image`.
Everybody has two threads, or with `--threads 1` one, which a busy machine distorts less. The processors return normalised f32 tensors; ours are tiles of 8 bits, which the vision tower
normalises as it reads them. The digest tells that the torchvision processor's tiles are ours. `--make` writes the picture: a
stand-in for a photograph, 1920×1080, of gradients, edges, texture and noise, at quality 90 and 4:2:0.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

OURS = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parent.parent / "target")) / "release/examples/read_image"
PROCESSOR = dict(do_convert_rgb=True, do_resize=True, do_rescale=True, do_normalize=True, do_pad=True, do_image_splitting=True,
                 resample=1, image_mean=[0.5] * 3, image_std=[0.5] * 3, max_image_size={"longest_edge": 512},
                 size={"longest_edge": 2048}, rescale_factor=1 / 255)


def make(path, height=1080, width=1920):
    rng = np.random.default_rng(20261124)
    y, x = np.mgrid[0:height, 0:width]
    waves = [120 + 90 * np.sin(x / 311 + y / 503), 110 + 80 * np.cos(x / 407 - y / 290), 140 + 70 * np.sin((x + y) / 607)]
    scene = np.stack(waves, -1)
    for _ in range(160):
        center, radius = (rng.integers(0, width), rng.integers(0, height)), rng.integers(10, 180)
        inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 * rng.uniform(0.4, 2.5) < radius * radius
        scene[inside] = scene[inside] * 0.35 + rng.integers(0, 256, 3) * 0.65

    def smooth(across):
        noise = rng.normal(0, 1, (max(2, across * height // width), across)).astype(np.float32)
        return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))

    for across, weight in [(6, 18), (24, 14), (96, 10), (384, 8)]:
        scene += weight * smooth(across)[..., None]
    texture = rng.normal(0, 1, (height, width)) * np.where(smooth(16) > 0.2, 11, 2.2)
    scene += texture[..., None] + rng.normal(0, 1.2, (height, width, 3))
    Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8)).save(path, quality=90, subsampling="4:2:0")


def ours(path, repetitions=9):
    # Its threads are as many as the cores that this process may use.
    out = subprocess.run([OURS, path, str(repetitions)], check=True, capture_output=True, text=True).stdout
    times = {name: float(median) for name, median in re.findall(r"^(.+): ([\d.]+) ms", out, re.MULTILINE)}
    return times, re.search(r"digest (\w+)", out).group(1)


def reference(processor, path):
    start = time.perf_counter()
    images = processor.fetch_images([path])
    decoded = time.perf_counter()
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    done = time.perf_counter()
    return {"decode": (decoded - start) * 1e3, "file to tiles": (done - start) * 1e3}, pixels


def digest(pixels):
    """FNV-1a over the tiles' bytes, as `read_image` prints it."""
    tiles = torch.round(pixels[0] * 127.5 + 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    value = 0xCBF29CE484222325
    for byte in tiles.tobytes():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def summary(runs):
    names = runs[0].keys()
    columns = {name: [run[name] for run in runs] for name in names}
    return {name: {"median": round(statistics.median(ms), 2), "min": round(min(ms), 2), "max": round(max(ms), 2)}
            for name, ms in columns.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("picture")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.picture)
    torch.set_num_threads(arguments.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:arguments.threads])
    torchvision_processor, pil_processor = SmolVLMImageProcessor(**PROCESSOR), SmolVLMImageProcessorPil(**PROCESSOR)
    _, found = ours(arguments.picture, 1)
    _, pixels = reference(torchvision_processor, arguments.picture)
    reference(pil_processor, arguments.picture)
    same = found == digest(pixels)
    runs = {"ours": [], "torchvision": [], "PIL": []}
    for _ in range(arguments.repeat):
        for _ in range(2):
            runs["ours"].append(ours(arguments.picture)[0])
            runs["torchvision"].append(reference(torchvision_processor, arguments.picture)[0])
        runs["PIL"].append(reference(pil_processor, arguments.picture)[0])
    result = {name: summary(of) for name, of in runs.items()}
    total = {name: of["file to tiles"]["median"] for name, of in result.items()}
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__,
                "Pillow": PIL.__version__}
    print(json.dumps({"machine": platform.processor() or platform.machine(), "versions": versions,
                      "threads": arguments.threads, "load": os.getloadavg()[0], "tiles equal the torchvision processor's": same,
                      "ratio to torchvision": round(total["torchvision"] / total["ours"], 2),
                      "ratio to PIL": round(total["PIL"] / total["ours"], 2), "milliseconds": result}, indent=1))


if __name__ == "__main__":
    main()
