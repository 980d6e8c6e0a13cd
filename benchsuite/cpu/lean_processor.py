"""The image processor without torch, for the peers' shortest chain: Pillow, numpy, tokenizers.

Sizes and prompt are those of the reference's processor; pixels are Pillow's.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from samples import QUESTION

TILE, LONGEST, TOKENS = 512, 2048, 64
VIDEO_FPS, VIDEO_MAX_FRAMES = 1, 64
IMAGE = "<fake_token_around_image>{}" + "<image>" * TOKENS


def prompt_of(file: Path, checkpoint: Path) -> tuple[np.ndarray, list[int], int]:
    """Tiles `[N, 3, S, S]` in f32, prompt ids, and the id that stands for an image token."""
    tiles, shown = video(file) if file.suffix == ".mp4" else picture(file)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    text = f"<|im_start|>User:{shown}{QUESTION}<end_of_utterance>\nAssistant:"
    return tiles, tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.token_to_id("<image>")


def picture(file: Path) -> tuple[np.ndarray, str]:
    image = Image.open(file).convert("RGB")
    scale = LONGEST / max(image.size)
    image = image.resize(tuple(round(edge * scale) for edge in image.size), Image.Resampling.LANCZOS)
    columns, rows = (-(-edge // TILE) for edge in image.size)
    image = image.resize((columns * TILE, rows * TILE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    whole = np.asarray(image.resize((TILE, TILE), Image.Resampling.LANCZOS))
    text = ""
    for row in range(rows):
        text += "".join(IMAGE.format(f"<row_{row + 1}_col_{column + 1}>") for column in range(columns)) + "\n"
    text += "\n" + IMAGE.format("<global-img>") + "<fake_token_around_image>"
    return normalised(np.concatenate([pixels, whole[None]])), text


def video(file: Path) -> tuple[np.ndarray, str]:
    """One frame a second, each as one tile."""
    import av
    from num2words import num2words

    frames, times = [], []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = round(float(stream.average_rate) / VIDEO_FPS)
        for i, frame in enumerate(container.decode(stream)):
            if i % step == 0 and len(frames) < VIDEO_MAX_FRAMES:
                frames.append(frame.to_image().resize((TILE, TILE), Image.Resampling.LANCZOS))
                times.append(int(frame.time))
        seconds = int(stream.duration * stream.time_base)
    length = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    text = f"You are provided the following series of {num2words(len(frames))} frames from a {length} [H:MM:SS] video.\n"
    for time in times:
        text += f"\nFrame from {time // 60:02}:{time % 60:02}:" + IMAGE.format("<global-img>") + "<fake_token_around_image>"
    return normalised(np.stack([np.asarray(frame) for frame in frames])), text + "\n\n"


def normalised(pixels: np.ndarray) -> np.ndarray:
    """u8 `[N, S, S, 3]` to f32 `[N, 3, S, S]` from −1 to 1."""
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
    planes *= 1 / 127.5
    planes -= 1
    return planes
