#!/usr/bin/env python3
"""Writes the clips of this folder with the ffmpeg tool, and expected.txt with what torchcodec makes of them.

Needs ffmpeg with libx264, and torchcodec (0.17 with FFmpeg 5.1 made the committed files).
expected.txt holds a line per clip (name, frames, rate, duration, width, height) and a line per frame (time, FNV-1a of
its RGB bytes).
"""
import subprocess
from pathlib import Path

from torchcodec.decoders import VideoDecoder

HERE = Path(__file__).parent
SOURCE = ["-f", "lavfi", "-i", "testsrc2=s=70x46:r=25:d=0.6,noise=alls=20:allf=t+u,format=yuv420p"]
X264 = ["-c:v", "libx264", "-preset", "medium", "-crf", "34", "-bf", "3", "-threads", "1"]
QUIET = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def expected(path):
    decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
    facts = decoder.metadata
    frames = decoder.get_frames_at(indices=list(range(facts.num_frames)))
    yield f"{path.name} {facts.num_frames} {facts.average_fps!r} {facts.duration_seconds!r} {facts.width} {facts.height}"
    for time, frame in zip(frames.pts_seconds, frames.data):
        yield f"  {float(time)!r} {fnv1a(frame.permute(1, 2, 0).contiguous().numpy().tobytes()):016x}"


def main():
    b_frames = HERE / "b_frames.mp4"
    x264_params = ["-x264-params", "keyint=8:min-keyint=8:open-gop=1:b-pyramid=normal:ref=3"]
    ffmpeg(*SOURCE, *X264, *x264_params, "-colorspace", "bt709", *QUIET, b_frames)
    ffmpeg("-ss", "0.12", "-i", b_frames, "-c", "copy", "-metadata:s:v", "rotate=90", *QUIET, HERE / "cut_turned.mp4")
    fragments = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
    ffmpeg(*SOURCE, *X264, "-g", 5, *fragments, *QUIET, HERE / "fragments.mp4")
    clips = sorted(HERE.glob("*.mp4"))
    (HERE / "expected.txt").write_text("".join(f"{line}\n" for clip in clips for line in expected(clip)))


if __name__ == "__main__":
    main()
