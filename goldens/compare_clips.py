#!/usr/bin/env python3
"""Asks the Python reference and the engine about every clip of a folder, and compares what the model would be given.

    python goldens/compare_clips.py FOLDER --smolvlm target/release/smolvlm

Per clip, under `--compat hf-5.23`: prompt, ids, frame indices, times and pixels with the tiny checkpoint (a frame a second, as it
asks); indices, times and tiles of 512 pixels at 12 frames a second, as the published 256M and 500M take them. Needs the
reference of README.md and `ffprobe`.

Pixels must be equal for 8 bits in 4:2:0 and 4:2:2 of even height; for the rest the largest difference is printed. Clips that one
side refuses are named with its reason. Ends with exit code 1 when something differs that must not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import reference  # noqa: F401  (sets the environment before the libraries are imported)
import torch
from PIL import Image
from reference import messages as m
from reference.files import plain
from reference.model import Reference, to_u8
from safetensors import safe_open
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

TINY = Path(__file__).resolve().parent / "tiny/checkpoint"
PUBLISHED = dict(do_convert_rgb=True, do_resize=True, do_rescale=True, do_normalize=True, do_pad=True, resample=1,
                 image_mean=[0.5] * 3, image_std=[0.5] * 3, max_image_size={"longest_edge": 512},
                 size={"longest_edge": 2048}, rescale_factor=1 / 255,
                 video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}})
EXACT_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "gray"}
DENSE = {"fps": 12, "num_frames": 64}
# docs/compat.md says why.
KNOWN = {"h264_intrarefresh.mp4": "the reference shows pictures that are not complete yet",
         "mpeg4.avi": "the reference is off by some frames where the file has no presentation times"}


class Refused(Exception):
    """One side does not read the clip."""


def ours(binary: Path, *arguments) -> str:
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"smolvlm: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def theirs(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except Exception as error:  # whatever its readers raise
        raise Refused(f"reference: {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}") from error


def same(name: str, reference_value, our_value) -> None:
    if reference_value != our_value:
        raise AssertionError(f"{name}: the reference has {str(reference_value)[:90]}, smolvlm {str(our_value)[:90]}")


def levels(reference_tiles: np.ndarray, our_tiles: np.ndarray) -> int:
    """The largest difference, of 255."""
    same("tiles", reference_tiles.shape, our_tiles.shape)
    return int(np.abs(reference_tiles.astype(int) - our_tiles.astype(int)).max())


def compare_prompt(model: Reference, binary: Path, clip: Path, scratch: Path) -> int:
    """Everything up to pixels with the tiny checkpoint; the largest difference of pixels."""
    conversation = [m.user(m.video(str(clip)), m.text("What happens?"))]
    file, out = scratch / "messages.json", scratch / "trace.safetensors"
    file.write_text(json.dumps(conversation), encoding="utf-8")
    ours(binary, "trace", "--quiet", "--compat", "hf-5.23", "--model", TINY, "--messages", file, "--out", out,
         "--logits", "last", "--max-new-tokens", 1, "--dtype", "f32")
    prepared = theirs(model.prepare, [conversation])
    facts = prepared.videos[0]["facts"]
    with safe_open(str(out), "pt") as found:
        metadata = found.metadata()
        same("prompt", prepared.expanded[0], metadata["expanded_prompt"])
        same("ids", prepared.inputs["input_ids"][0].tolist(), found.get_tensor("input_ids").tolist())
        same("indices", [plain(facts.frames_indices)], json.loads(metadata["frame_indices"]))
        same("times", [[float(t) for t in facts.timestamps]], json.loads(metadata["timestamps"]))
        pixels = found.get_tensor("pixel_values")
    return levels(to_u8(prepared.tiles).numpy(), to_u8(pixels).numpy())


def compare_frames(processor, binary: Path, clip: Path, scratch: Path) -> tuple[int, int]:
    """Many frames at the published size; their number and the largest difference of pixels."""
    folder = scratch / "tiles"
    told = json.loads(ours(binary, "frames", "--quiet", "--json", "--compat", "hf-5.23", "--fps", DENSE["fps"], "--max-frames",
                           DENSE["num_frames"], "--each", folder, clip))
    found = theirs(processor, [str(clip)], do_sample_frames=True, return_metadata=True, return_tensors="pt", **DENSE)
    facts = found["video_metadata"][0]
    same("indices", plain(facts.frames_indices), [frame["index"] for frame in told["frames"]])
    same("times", [float(t) for t in facts.timestamps], [frame["prompt_seconds"] for frame in told["frames"]])
    files = sorted(folder.iterdir())
    tiles = np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 3, 1, 2)
    return len(files), levels(to_u8(found["pixel_values_videos" if "pixel_values_videos" in found else "pixel_values"][0]).numpy(), tiles)


def must_be_exact(clip: Path) -> bool:
    """8 bits, 4:2:0 or 4:2:2, an even height."""
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=pix_fmt,height", "-of", "json", clip]
    stream = json.loads(subprocess.run(probe, check=True, capture_output=True).stdout)["streams"][0]
    return stream["pix_fmt"] in EXACT_FORMATS and stream["height"] % 2 == 0 and clip.name not in KNOWN


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smolvlm", type=Path, required=True, help="the binary")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model, processor = Reference(TINY), SmolVLMVideoProcessor(**PUBLISHED)
    counts = dict.fromkeys(("equal", "within", "refused", "WRONG"), 0)
    for clip in sorted(path.resolve() for path in arguments.folder.iterdir()):
        with tempfile.TemporaryDirectory() as scratch:
            verdict, text = _verdict(model, processor, arguments.smolvlm, clip, Path(scratch))
        counts[verdict] += 1
        print(f"{clip.name:28} {verdict:8} {text}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts["WRONG"] > 0)


def _verdict(model, processor, binary: Path, clip: Path, scratch: Path) -> tuple[str, str]:
    try:
        few = compare_prompt(model, binary, clip, scratch)
        count, many = compare_frames(processor, binary, clip, scratch)
    except Refused as why:
        return "refused", str(why)
    except AssertionError as why:
        return "WRONG", str(why)
    worst = max(few, many)
    if worst == 0:
        return "equal", f"prompt, ids, indices, times; pixels of {count} frames"
    return "WRONG" if must_be_exact(clip) else "within", f"pixels differ by up to {worst}, of {count} frames"


if __name__ == "__main__":
    sys.exit(main())
