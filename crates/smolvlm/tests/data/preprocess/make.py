#!/usr/bin/env python3
"""Writes the tables beside this script from the Python reference.

    python make.py      (transformers 5.23.0, torch 2.15, torchvision 0.29, pillow 13.0)

Pictures are not stored: `picture` here and in tests/preprocess.rs compute them from a seed. Of the results only the
CRC-32 of the 8-bit pixels [height, width, 3] is kept.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.models.smolvlm import image_processing_smolvlm as images
from transformers.models.smolvlm import video_processing_smolvlm as videos
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.video_utils import VideoMetadata

HERE = Path(__file__).parent


def picture(width, height, seed):
    """Noise for even seeds, slopes with edges for odd ones."""
    index = np.arange(width * height * 3, dtype=np.uint64)
    if seed % 2 == 0:
        v = (index * 2654435761 + seed * 40503) & 0xFFFFFFFF
        v ^= v >> 15
        v = (v * 2246822519) & 0xFFFFFFFF
        v ^= v >> 13
    else:
        x, y, c = index // 3 % width, index // 3 // width, index % 3
        v = (x * 3 + y * 5 + c * 50 + seed) ^ ((x * y) >> 6)
    return (v & 255).astype(np.uint8).reshape(height, width, 3)


def crc(pixels):
    return zlib.crc32(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes())


def to_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def to_pixels(values):
    """Tiles [N, 3, S, S] before normalisation, as [N, S, S, 3]."""
    return torch.round(values.double() * 127.5 + 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def geometry(rng):
    rows = []
    sizes = [(640, 480), (1920, 1080), (1080, 1920), (512, 512), (513, 511), (1, 1), (5000, 1), (1, 5000), (2048, 2047),
             (1000, 333), (333, 1000), (4032, 3024), (61, 97), (97, 61), (1366, 768)]
    sizes += [tuple(int(v) for v in rng.integers(1, 4500, 2)) for _ in range(60)]
    for edge, tile in ((2048, 512), (1536, 384), (512, 512), (96, 24), (5000, 700)):
        processor = images.SmolVLMImageProcessor(size={"longest_edge": edge}, max_image_size={"longest_edge": tile})
        for w, h in sizes:
            blank = torch.zeros((1, 1, 1, 1), dtype=torch.uint8)
            h1, w1 = images.get_resize_output_image_size(blank.expand(1, 1, h, w), edge)
            seen = {}
            processor.resize = lambda image, size, resample=None, **_: seen.update(size=size) or image
            processor.resize_for_vision_encoder(blank.expand(1, 1, h1, w1), tile)
            h2, w2 = seen["size"].height, seen["size"].width
            hf, wf = videos.get_resize_output_image_size(blank.expand(1, 1, h, w), edge)
            rows.append([edge, tile, w, h, w1, h1, w2, h2, wf, hf])
    return rows


def sampling(rng):
    rows = []
    combos = [(50, 10.0), (96, 8.0), (300, 30.0), (3000, 29.97), (10, 30.0), (1, 25.0), (7200, 23.976), (66 * 30, 30.0),
              (66 * 30 + 1, 30.0), (45, 30.0), (15, 30.0), (75, 30.0), (105, 30.0)]
    combos += [(int(a), float(np.round(b, 3))) for a, b in zip(rng.integers(1, 9000, 20), rng.uniform(1, 60, 20))]
    for total, fps in combos:
        for most, target, skip in ((64, 1, 1), (8, 1, 1), (8, 2, 0), (32, 0.5, 2), (24, 4, 1)):
            metadata = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
            processor = videos.SmolVLMVideoProcessor()
            indices = processor.sample_frames(metadata=metadata, num_frames=most, fps=target, skip_secs=skip)
            rows.append([total, fps, total / fps, most, target, skip, indices.tolist()])
    return rows


def resample():
    rows = []
    cases = [(53, 37, 48, 64), (80, 60, 27, 33), (24, 24, 48, 48), (97, 61, 96, 60), (7, 90, 40, 40), (90, 7, 40, 40),
             (48, 48, 31, 48), (48, 48, 48, 31), (5, 5, 96, 96), (13, 160, 8, 96), (1, 1, 9, 7), (300, 200, 3, 2),
             (31, 400, 30, 100), (640, 360, 512, 288), (1, 77, 1, 20), (700, 2, 64, 64)]
    for seed, (w, h, to_w, to_h) in enumerate(cases):
        pixels = picture(w, h, seed)
        pil, tensor = Image.fromarray(pixels), to_tensor(pixels)
        torch_resize = lambda mode: tvF.resize(tensor, [to_h, to_w], interpolation=mode, antialias=True).permute(1, 2, 0)  # noqa: E731
        rows.append([w, h, seed, to_w, to_h,
                     crc(pil.resize((to_w, to_h), Image.BICUBIC)), crc(pil.resize((to_w, to_h), Image.LANCZOS)),
                     crc(torch_resize(InterpolationMode.BICUBIC)), crc(torch_resize(InterpolationMode.LANCZOS))])
    return rows


def pipeline():
    """Tiles of whole pictures and frames, per release: 5.17's substitution of bicubic is asked for by `resample`."""
    rows = []
    cases = [(97, 61, 96, 24), (61, 97, 96, 24), (200, 37, 96, 24), (13, 160, 96, 24), (48, 48, 96, 24), (250, 190, 96, 24),
             (3, 90, 96, 24), (640, 360, 2048, 512), (33, 70, 1536, 384), (90, 90, 512, 512)]
    for seed, (w, h, edge, tile) in enumerate(cases):
        tensor = to_tensor(picture(w, h, seed))
        sizes = dict(size={"longest_edge": edge}, max_image_size={"longest_edge": tile})
        row = dict(size=[w, h], seed=seed, edge=edge, tile=tile)
        for name, backend, filt in (("hf523", "torchvision", 1), ("hf517", "torchvision", 3), ("pil", "pil", 1)):
            kinds = {"torchvision": images.SmolVLMImageProcessor, "pil": SmolVLMImageProcessorPil}
            processor = kinds[backend](resample=filt, **sizes)
            for split in (True, False):
                out = processor([[Image.fromarray(picture(w, h, seed))]], return_tensors="pt", return_row_col_info=True,
                                do_image_splitting=split)
                row["grid" if split else "no_grid"] = [out["rows"][0][0], out["cols"][0][0]]
                row[f"{name}{'' if split else '_whole'}"] = [crc(t) for t in to_pixels(out["pixel_values"][0])]
        for name, filt in (("frame_hf523", 1), ("frame_hf517", 3)):
            out = videos.SmolVLMVideoProcessor(resample=filt, **sizes)([tensor[None]], return_tensors="pt")
            row[name] = crc(to_pixels(out["pixel_values"][0])[0])
        rows.append(row)
    return rows


def main():
    rng = np.random.default_rng(11)
    tables = dict(geometry=geometry(rng), sampling=sampling(rng), resample=resample(), pipeline=pipeline())
    rows = (f'"{name}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in table) + "\n]"
            for name, table in tables.items())
    (HERE / "tables.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
