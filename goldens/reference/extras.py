"""Tables of single rules of the reference, each independent of the weights."""

import math
from pathlib import Path

import numpy as np
import torch

from .files import sha256, write_json, write_tensors
from .inputs import pattern
from .model import NORMALISED, Reference


def write_extras(out: Path, reference: Reference) -> None:
    """Writes `extras/`; each table's producer is named after its file."""
    folder = out / "extras"
    write_json(folder / "geometry.json", geometry())
    write_json(folder / "frame_sampling.json", frame_sampling(reference.processor.video_processor))
    write_json(folder / "num2words.json", number_words())
    write_json(folder / "tokenizer.json", tokenizer(reference.processor.tokenizer))
    write_json(folder / "images.json", images(out / "inputs"))
    tensors, table = resample()
    write_json(folder / "resample.json", table)
    write_tensors(folder / "resample.safetensors", tensors)
    tensors, table = yuv2rgb()
    write_json(folder / "yuv2rgb.json", table)
    write_tensors(folder / "yuv2rgb.safetensors", tensors)
    tensors, table = sampling()
    write_json(folder / "sampling.json", table)
    write_tensors(folder / "sampling.safetensors", tensors)
    write_tensors(folder / "normalised.safetensors", {"value_of_u8": NORMALISED})


def geometry() -> list[dict]:
    """Sizes and grids of many picture sizes under four pairs of longest edge and tile."""
    from transformers.models.smolvlm import image_processing_smolvlm as ips
    from transformers.models.smolvlm import video_processing_smolvlm as vps

    sizes = [(480, 640), (640, 480), (1080, 1920), (1920, 1080), (512, 512), (511, 513), (1, 1), (1, 5000), (5000, 1),
             (2048, 2048), (2047, 2048), (333, 1000), (3024, 4032), (4032, 3024), (97, 61), (768, 1366), (720, 1280)]
    generator = np.random.default_rng(7)
    sizes += [tuple(int(v) for v in generator.integers(1, 4500, 2)) for _ in range(40)]
    rows = []
    for edge, tile in ((2048, 512), (1536, 384), (512, 512), (96, 24)):
        processor = ips.SmolVLMImageProcessor(size={"longest_edge": edge}, max_image_size={"longest_edge": tile})
        for height, width in sizes:
            first = ips.get_resize_output_image_size(_empty(height, width), edge)
            second = _vision_encoder_size(processor, first, tile)
            split = max(second) > tile
            grid = [math.ceil(s / tile) for s in second] if split else [0, 0]
            rows.append({"longest_edge": edge, "tile": tile, "height": height, "width": width, "first": list(first),
                         "second": list(second), "rows": grid[0], "cols": grid[1], "tiles": grid[0] * grid[1] + 1,
                         "video_first": list(vps.get_resize_output_image_size(_empty(height, width), edge))})
    return rows


def _empty(height: int, width: int) -> torch.Tensor:
    return torch.zeros((1, 1, 1, 1), dtype=torch.uint8).expand(1, 1, height, width)


def _vision_encoder_size(processor, size: tuple[int, int], tile: int) -> tuple[int, int]:
    """The size that `resize_for_vision_encoder` asks for."""
    asked = []
    processor.resize = lambda image, size, resample=None: asked.append((size.height, size.width)) or image
    processor.resize_for_vision_encoder(_empty(*size), tile)
    del processor.resize
    return asked[0]


def frame_sampling(processor) -> list[dict]:
    """Sampled frame indices of many lengths and rates under four settings."""
    from transformers.video_utils import VideoMetadata

    clips = [(50, 10.0), (96, 8.0), (300, 30.0), (3000, 29.97), (2000, 25.0), (10, 30.0), (1, 25.0), (7200, 23.976),
             (1980, 30.0), (1981, 30.0), (2010, 30.0), (45, 30.0), (15, 30.0), (75, 30.0), (111750, 30.0)]
    generator = np.random.default_rng(8)
    clips += [(int(n), round(float(f), 3)) for n, f in zip(generator.integers(1, 6000, 16), generator.uniform(1, 60, 16))]
    rows = []
    for total, fps in clips:
        for max_frames, target, skip in ((64, 1, 1), (8, 1, 1), (8, 2, 0), (16, 0.5, 2)):
            facts = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
            facts.frames_indices = processor.sample_frames(metadata=facts, num_frames=max_frames, fps=target, skip_secs=skip)
            rows.append({"total": total, "fps": fps, "duration": total / fps, "max_frames": max_frames, "target_fps": target,
                         "skip_secs": skip, "indices": facts.frames_indices.tolist(),
                         "mmss": " ".join(f"{int(s // 60):02d}:{int(s % 60):02d}" for s in facts.timestamps)})
    return rows


def number_words() -> dict[str, str]:
    """Numbers as the video intro spells them."""
    from num2words import num2words

    return {str(n): num2words(n) for n in [*range(131), 199, 200, 201, 256, 300, 500, 999, 1000, 1001, 1024, 12345]}


def tokenizer(tok) -> list[dict]:
    """Ids and round trips of awkward strings, with the checkpoint's own tokenizer."""
    probes = ["2024", "a 12:30 b", "  two  spaces", "\n\n", "\n",
              "Frame from 00:01:<fake_token_around_image><global-img><image>", "<row_1_col_1><image>\n<fake_token_around_image>",
              "it's they're we'll", "<video>", "<row_7_col_1>", "<|im_start|>User: hi<end_of_utterance>\nAssistant:", "東京🙂",
              "tab\tx", "Ünïcödé", ""]
    return [{"text": p, "ids": tok(p)["input_ids"], "decoded": tok.decode(tok(p)["input_ids"], skip_special_tokens=True)}
            for p in probes]


def images(folder: Path) -> list[dict]:
    """Every picture as the reference's loader gives it: size and digest of u8 [H, W, 3]."""
    from transformers.image_utils import load_image_as_tensor

    rows = []
    for path in sorted(p for p in folder.iterdir() if p.suffix != ".mp4"):
        rgb = load_image_as_tensor(str(path)).permute(1, 2, 0)
        rows.append({"file": path.name, "height": rgb.shape[0], "width": rgb.shape[1], "rgb_sha256": sha256(rgb)})
    return rows


def resample() -> tuple[dict, list[dict]]:
    """Resized u8 pictures [H, W, 3] by the two backends."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    shapes = [(19, 27, 32, 24), (30, 40, 17, 14), (12, 12, 24, 24), (31, 49, 30, 48), (45, 5, 20, 20), (5, 45, 20, 20),
              (24, 24, 24, 15), (24, 24, 15, 24), (3, 3, 40, 40), (64, 9, 13, 11)]
    tensors, table = {}, []
    for i, (height, width, new_height, new_width) in enumerate(shapes):
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = noise if i % 2 else pattern(width, height, i)
        chw, pil = torch.from_numpy(image).permute(2, 0, 1).contiguous(), Image.fromarray(image)
        tensors[f"{i}.in"] = image
        tensors[f"{i}.pil_lanczos"] = np.array(pil.resize((new_width, new_height), Image.Resampling.LANCZOS))
        for name in ("lanczos", "bicubic"):
            out = F.resize(chw, [new_height, new_width], interpolation=InterpolationMode[name.upper()], antialias=True)
            tensors[f"{i}.torch_{name}"] = out.permute(1, 2, 0)
        table.append({"index": i, "in": [height, width], "out": [new_height, new_width]})
    return tensors, table


def yuv2rgb() -> tuple[dict, list[dict]]:
    """Planes of random values and the RGB that swscale makes of them (even sizes, x86)."""
    import av

    kinds = [("yuv420p", None, None), ("yuv420p", 1, 1), ("yuv420p", 5, 1), ("yuv420p", 1, 2), ("yuvj420p", None, None),
             ("yuv422p", None, None)]
    tensors, table = {}, []
    for i, (pixel_format, colorspace, color_range) in enumerate(kinds):
        frame = av.VideoFrame(36, 22, pixel_format)
        for plane in frame.planes:
            generator = np.random.default_rng([9, i, plane.width])
            plane.update(generator.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
        if colorspace is not None:
            frame.colorspace, frame.color_range = colorspace, color_range
        for name, plane in zip("yuv", frame.planes):
            values = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            tensors[f"{i}.{name}"] = values[:, : plane.width].copy()
        tensors[f"{i}.rgb"] = frame.to_ndarray(format="rgb24")
        table.append({"index": i, "format": pixel_format, "colorspace": colorspace, "color_range": color_range})
    return tensors, table


def sampling() -> tuple[dict, list[dict]]:
    """Logits [3, 64] before and after the processors of `generate`; a removed token's logit is -inf."""
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as lp

    logits = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 64), dtype=np.float32) * 3)
    logits[0, 10] = logits[0, 20]  # a tie
    ids = torch.from_numpy(np.random.default_rng(4).integers(0, 64, (3, 12)))
    steps = {
        "repetition_penalty": lp.RepetitionPenaltyLogitsProcessor, "temperature": lp.TemperatureLogitsWarper,
        "top_k": lp.TopKLogitsWarper, "top_p": lp.TopPLogitsWarper, "min_p": lp.MinPLogitsWarper,
    }
    settings = [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"top_p": 0.3}, {"min_p": 0.1}, {"repetition_penalty": 1.2},
                {"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
                {"temperature": 1.5, "top_k": 50, "min_p": 0.05}]
    tensors, table = {"logits": logits, "input_ids": ids}, []
    for i, setting in enumerate(settings):
        chain = LogitsProcessorList([steps[name](value) for name, value in setting.items()])
        tensors[f"{i}.logits"] = chain(ids, logits.clone())
        tensors[f"{i}.probabilities"] = tensors[f"{i}.logits"].softmax(-1)
        table.append({"index": i, "settings": setting})
    return tensors, table
