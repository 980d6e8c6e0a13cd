#!/usr/bin/env python3
"""Writes the clips of this folder with the ffmpeg tool, and what torchcodec and ffmpeg make of them.

Needs ffmpeg with libx264, libx265, libvpx and libaom, and torchcodec (0.17 with FFmpeg 5.1 made the committed files).
expected.txt holds a line per clip (name, codec, container, frames, rate, duration, width, height) and a line per frame
(time, FNV-1a of its RGB bytes), for clips of 8 bits and 4:2:0. planes.txt holds a line per clip (name) and one per frame
(FNV-1a of its planes in the stream's own format), for all.
"""
import subprocess
from pathlib import Path

from PIL import Image
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
    container = {"mp4": "mp4", "mkv": "matroska", "webm": "matroska", "gif": "gif", "png": "apng"}[path.suffix[1:]]
    yield f"{path.name} {facts.codec} {container} {facts.num_frames} {facts.average_fps!r} {facts.duration_seconds!r} {facts.width} {facts.height}"
    for time, frame in zip(frames.pts_seconds, frames.data):
        yield f"  {float(time)!r} {fnv1a(frame.permute(1, 2, 0).contiguous().numpy().tobytes()):016x}"


def planes(path):
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "csv=p=0", path]
    count = len(subprocess.run(probe, check=True, capture_output=True).stdout.split())
    decode = ["ffmpeg", "-v", "error", "-noautorotate", "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-"]
    data = subprocess.run(decode, check=True, capture_output=True).stdout
    size = len(data) // count
    yield path.name
    for start in range(0, len(data), size):
        yield f"  {fnv1a(data[start:start + size]):016x}"


def animated_webp(path):
    """Three frames of Pillow's, each a change to the one before."""
    frames = []
    for step in range(3):
        frame = Image.new("RGB", (24, 16), (10, 60, 200))
        frame.paste((250, 40 * step, 30), (4 * step, 2, 4 * step + 8, 12))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 200, 80], lossless=True)


def main():
    b_frames = HERE / "b_frames.mp4"
    x264_params = ["-x264-params", "keyint=8:min-keyint=8:open-gop=1:b-pyramid=normal:ref=3"]
    ffmpeg(*SOURCE, *X264, *x264_params, "-colorspace", "bt709", *QUIET, b_frames)
    ffmpeg("-ss", "0.12", "-i", b_frames, "-c", "copy", "-metadata:s:v", "rotate=90", *QUIET, HERE / "cut_turned.mp4")
    fragments = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
    ffmpeg(*SOURCE, *X264, "-g", 5, *fragments, *QUIET, HERE / "fragments.mp4")
    ffmpeg("-i", b_frames, "-c", "copy", *QUIET, HERE / "b_frames.mkv")
    ffmpeg(*SOURCE, "-vf", "crop=70:44", "-c:v", "libx264", "-crf", 34, "-flags", "+ildct+ilme", "-x264-params", "tff=1", *QUIET, HERE / "interlaced.mp4")
    ffmpeg(*SOURCE, "-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-crf", 34, *QUIET, HERE / "deep.mp4")
    x265 = ["-c:v", "libx265", "-crf", 34, "-tag:v", "hvc1", "-x265-params"]
    ffmpeg(*SOURCE, *x265, "log-level=error:info=0:keyint=8:open-gop=1:bframes=3", "-colorspace", "bt709", *QUIET, HERE / "hevc.mp4")
    ffmpeg("-ss", "0.28", "-i", HERE / "hevc.mp4", "-c", "copy", *QUIET, HERE / "hevc_cut.mp4")
    ffmpeg(*SOURCE, "-pix_fmt", "yuv420p10le", *x265, "log-level=error:info=0:keyint=8", *QUIET, HERE / "hevc_deep.mp4")
    ffmpeg(*SOURCE, "-c:v", "libvpx", "-b:v", "60k", "-auto-alt-ref", 1, "-lag-in-frames", 8, "-g", 8, *QUIET, HERE / "vp8.webm")
    ffmpeg(*SOURCE, "-c:v", "libvpx-vp9", "-b:v", "60k", "-lag-in-frames", 8, "-g", 8, *QUIET, HERE / "vp9.webm")
    ffmpeg(*SOURCE, "-pix_fmt", "yuv444p10le", "-c:v", "libvpx-vp9", "-b:v", "60k", *QUIET, HERE / "vp9_deep.webm")
    ffmpeg(*SOURCE, "-c:v", "libaom-av1", "-cpu-used", 8, "-b:v", "60k", "-g", 8, *QUIET, HERE / "av1.mp4")
    ffmpeg(*SOURCE, "-pix_fmt", "yuv420p10le", "-c:v", "libaom-av1", "-cpu-used", 8, "-b:v", "60k", *QUIET, HERE / "av1_deep.webm")
    ffmpeg(*SOURCE, "-vf", "fps=10,crop=40:30", "-f", "gif", *QUIET, HERE / "animated.gif")
    ffmpeg(*SOURCE, "-vf", "fps=10,crop=40:30", "-f", "apng", *QUIET, HERE / "animated.png")
    animated_webp(HERE / "animated.webp")
    clips = sorted(clip for clip in HERE.iterdir() if clip.suffix in (".mp4", ".mkv", ".webm"))
    plain = [clip for clip in clips if "deep" not in clip.name] + [HERE / "animated.gif", HERE / "animated.png"]
    (HERE / "expected.txt").write_text("".join(f"{line}\n" for clip in plain for line in expected(clip)))
    (HERE / "planes.txt").write_text("".join(f"{line}\n" for clip in clips for line in planes(clip)))


if __name__ == "__main__":
    main()
