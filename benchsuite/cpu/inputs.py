#!/usr/bin/env python3
"""Writes what is asked about: photo.jpg (1920×1080), square.jpg (17 tiles), clip.mp4 (10 s of 720p H.264).

    python benchsuite/cpu/inputs.py OUT
"""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, width, height in (("photo.jpg", 1920, 1080), ("square.jpg", 1280, 1280)):
        Image.fromarray(scene(width, height, 0)).save(out / name, quality=90)
    write_clip(out / "clip.mp4")


def scene(width: int, height: int, time: float) -> np.ndarray:
    """Waves of several sizes that move, with grain: neither flat nor noise."""
    x, y = np.meshgrid(np.arange(width) / 100, np.arange(height) / 100)
    planes = [np.sin(x * (1 + c) + time) + np.sin(y * 3 - time * 2 + c) + np.sin((x + y) * 7 + c) for c in range(3)]
    grain = np.random.default_rng(int(time * 1000)).normal(0, 6, (height, width, 1))
    return np.clip(np.stack(planes, axis=2) * 40 + 128 + grain, 0, 255).astype(np.uint8)


def write_clip(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(250):
            picture = av.VideoFrame.from_ndarray(scene(1280, 720, i / 25), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
