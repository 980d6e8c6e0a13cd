#!/usr/bin/env python3
"""Reading videos beside PyAV, the reference's processor and the ffmpeg tool, in turns, in one run.

    python benchsuite/video_peers.py CLIP HOUR --repeat 3 > runs/DATE-MACHINE/video.json

CLIP is ten seconds of 720p; HOUR an hour of 720p with a key frame every ten seconds. Needs PyAV, transformers and ffmpeg, and
`cargo build --release -p smolvlm --example read_video`. The files are made by

    ffmpeg -f lavfi -i testsrc2=s=1280x720:r=25:d=10 -c:v libx264 -pix_fmt yuv420p clip.mp4
    ffmpeg -f lavfi -i testsrc2=s=1280x720:r=25:d=60,noise=alls=6:allf=t,format=yuv420p -c:v libx264 -preset fast -bf 3 -g 250 \\
        -keyint_min 250 -sc_threshold 0 -b:v 2500k minute.mp4
    ffmpeg -stream_loop 59 -i minute.mp4 -c copy hour.mp4
"""
import argparse
import json
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import torch
import transformers
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

OURS = Path(__file__).resolve().parent.parent / "target/release/examples/read_video"
PROCESSOR = dict(do_convert_rgb=True, do_resize=True, do_rescale=True, do_normalize=True, do_pad=True, resample=1,
                 image_mean=[0.5] * 3, image_std=[0.5] * 3, max_image_size={"longest_edge": 512},
                 size={"longest_edge": 2048}, rescale_factor=1 / 255,
                 video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}})


def ours(path, *arguments):
    out = subprocess.run([OURS, path, *arguments], check=True, capture_output=True, text=True).stdout
    milliseconds, megabytes = re.search(r"ready after ([\d.]+) ms, (\d+) MB", out).groups()
    return float(milliseconds) / 1e3, {"megabytes_read": int(megabytes), "printed": out.strip()}


def pyav_and_processor(path, threads, processor):
    start = time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        wanted = set(range(0, 250, 25))
        frames = [frame.to_ndarray(format="rgb24") for i, frame in enumerate(container.decode(stream)) if i in wanted]
    decoded = time.perf_counter()
    processor([np.stack(frames)], do_sample_frames=False, return_tensors="pt")
    return time.perf_counter() - start, {"decoding": decoded - start}


def pyav_sequential(path, seconds):
    """Decodes until `seconds` of the file are through, and extrapolates to its end."""
    start = time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.time >= seconds:
                break
        total = float(stream.duration * stream.time_base)
    elapsed = time.perf_counter() - start
    return elapsed * total / seconds, {"measured_seconds": elapsed, "of_the_file": seconds}


def ffmpeg_seeking(path, count, duration):
    start = time.perf_counter()
    for i in range(count):
        at = i * (duration - 1) / (count - 1)
        command = ["ffmpeg", "-v", "error", "-ss", f"{at:.3f}", "-i", path, "-frames:v", "1", "-f", "rawvideo",
                   "-pix_fmt", "rgb24", "-"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, {}


def summary(runs):
    seconds = [run[0] for run in runs]
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": runs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("clip")
    parser.add_argument("hour")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    processor = SmolVLMVideoProcessor(**PROCESSOR)
    pyav_and_processor(arguments.clip, "AUTO", processor)
    measured = {}
    def add(name, run):
        measured.setdefault(name, []).append(run)
    for _ in range(arguments.repeat):
        for _ in range(3):
            add("clip: ours", ours(arguments.clip))
            add("clip: PyAV (its default threads) and processor", pyav_and_processor(arguments.clip, "SLICE", processor))
            add("clip: ours", ours(arguments.clip))
            add("clip: PyAV (AUTO threads) and processor", pyav_and_processor(arguments.clip, "AUTO", processor))
        add("hour, 64 frames: ours", ours(arguments.hour))
        add("hour, 64 frames: ffmpeg seeking", ffmpeg_seeking(arguments.hour, 64, 3600))
        add("hour, all: PyAV sequential, extrapolated", pyav_sequential(arguments.hour, 60))
    versions = {"transformers": transformers.__version__, "av": av.__version__, "torch": torch.__version__}
    result = {"machine": platform.processor() or platform.machine(), "versions": versions,
              "seconds": {name: summary(runs) for name, runs in measured.items()}}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
