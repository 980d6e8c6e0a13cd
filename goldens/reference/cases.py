"""The recorded conversations: what goes in, and every stage of what the reference makes of it."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from . import messages as m
from .files import sha256, write_json, write_tensors
from .inputs import PNG_SIZES
from .model import Reference, to_u8, video_facts

NEW_TOKENS = 20
LOGIT_ROWS = 3  # prompt positions whose logits are kept, besides the last
INPUTS = "../inputs"  # as seen from a case file


@dataclass(frozen=True)
class Case:
    """One conversation and how the processor is called."""

    name: str
    conversation: list[dict]
    note: str = ""
    kwargs: dict = field(default_factory=dict)
    decoded_images: bool = False  # pictures are opened by Pillow and handed over, instead of their paths
    keep: tuple[str, ...] = ()  # tensors that are kept for this case only


def tiny_cases() -> list[Case]:
    """Every case of one conversation."""
    return [*_text_cases(), *_image_cases(), *_video_cases()]


def batches() -> dict[str, list[str]]:
    """Left-padded batches of cases above, by name."""
    return {
        "batch_text": ["text_short", "text_only"],
        "batch_images": ["image_wide_200x37", "two_images_interleaved"],
        "batch_text_and_image": ["text_multi_turn", "image_square_48"],
    }


def _text_cases() -> list[Case]:
    assistant = {"role": "assistant", "content": [m.text("Hi there.")]}
    system = {"role": "system", "content": [m.text("You are a helpful assistant.")]}
    return [
        Case("text_only", [m.user(m.text("What colour is the car on the left in 2024?"))], keep=("all_logits",)),
        Case("text_short", [m.user(m.text("Hi"))]),
        Case("text_multi_turn",
             [system, m.user(m.text("Hello, 東京 🙂!")), assistant, m.user(m.text("Tell me  more\n\nabout it."))],
             note="system and history; one BOS for the whole conversation"),
    ]


def _image_cases() -> list[Case]:
    ask = m.text("Can you describe this image?")
    picture = lambda name: m.image(f"{INPUTS}/{name}")  # noqa: E731
    shapes = [Case(f"image_{name}", [m.user(picture(f"{name}.png"), ask)]) for name in PNG_SIZES]
    files = [
        Case(f"image_{Path(name).stem}", [m.user(picture(name), ask)], note=note, kwargs={"size": {"longest_edge": 48}})
        for name, note in {
            "rgba_70x50.png": "from a file, alpha is dropped",
            "grey_50x70.png": "", "grey16_30x21.png": "16 bits become round(v / 257)",
            "palette_transparent_60x44.png": "transparency is dropped",
            "photo_420_101x67.jpg": "", "exif6_80x50.jpg": "stored 80x50, shown 50x80",
        }.items()
    ]
    land, square, wide = picture("land_97x61.png"), picture("square_48.png"), picture("wide_200x37.png")
    return [
        *shapes, *files,
        Case("image_rgba_decoded", [m.user(picture("rgba_70x50.png"), ask)], kwargs={"size": {"longest_edge": 48}},
             decoded_images=True, note="a decoded picture with alpha is composited on white before resizing"),
        Case("image_text_first", [m.user(m.text("Look: "), land, m.text(" what is it?"))],
             note="role header is 'User: ' because the first block is text"),
        Case("image_no_split", [m.user(land, ask)], kwargs={"do_image_splitting": False}, keep=("vision_last_hidden_state",)),
        Case("image_longest_edge_48", [m.user(land, ask)], kwargs={"size": {"longest_edge": 48}}),
        Case("two_images_interleaved",
             [m.user(m.text("First "), square, m.text(" and second "), wide, m.text(" differ how?"))]),
        Case("image_in_second_turn",
             [m.user(wide, m.text("A strip?")), {"role": "assistant", "content": [m.text("Yes.")]},
              m.user(m.text("And this? "), picture("thin_3x90.png"))]),
    ]


def _video_cases() -> list[Case]:
    short, long = m.video(f"{INPUTS}/short_64x48_10fps_5s.mp4"), m.video(f"{INPUTS}/long_48x64_8fps_12s_bt709.mp4")
    ask = m.text("Describe the video.")
    return [
        Case("video_short", [m.user(short, ask)], note="5 frames wanted at 1 fps, fewer than max_frames: no skip",
             keep=("frames",)),
        Case("video_long_skip", [m.user(long, ask)],
             note="duration - 2 * skip > max_frames * fps: a second is skipped at both ends"),
        Case("video_long_3_frames", [m.user(m.text("Watch this."), long)], kwargs={"num_frames": 3, "fps": 0.5},
             note="the caller overrides num_frames and fps"),
        Case("video_longest_edge_48", [m.user(short, ask)], kwargs={"size": {"longest_edge": 48}}),
        Case("two_videos", [m.user(short, m.text(" or "), long, m.text("?"))],
             note="the reference pads the shorter video: both intros state the longer one's frame count"),
    ]


class Recorder:
    """Runs cases and writes `cases/NAME.{json,safetensors}`."""

    def __init__(self, folder: Path, checkpoint: Path):
        self.folder = folder / "cases"
        self.exact = Reference(checkpoint)
        self.half = Reference(checkpoint, torch.bfloat16)
        self.greedy_tokens: dict[str, list[int]] = {}
        self.last_logits: dict[str, torch.Tensor] = {}

    def conversation(self, case: Case) -> list[dict]:
        """The case's conversation as the library takes it."""
        conversation = m.resolve(case.conversation, self.folder)
        if case.decoded_images:
            for block in m.blocks(conversation, "image"):
                block["image"] = Image.open(block.pop("path"))
        return conversation

    def record(self, case: Case) -> dict:
        """Runs one case, writes its two files and returns what went into the JSON."""
        prepared = self.exact.prepare([self.conversation(case)], **case.kwargs)
        ids = prepared.inputs["input_ids"][0]
        logits, features, vision = self.exact.forward(prepared.inputs)
        logits = logits[0]
        half = self.half.forward(prepared.inputs)[0][0].float()
        (greedy,) = self.exact.greedy(prepared.inputs, NEW_TOKENS)
        rows = torch.arange(len(ids)) if "all_logits" in case.keep else _spread(len(ids))
        info = {
            "name": case.name, "note": case.note, "messages": case.conversation, "processor_kwargs": case.kwargs,
            "decoded_images": case.decoded_images, "rendered_prompt": prepared.rendered[0],
            "expanded_prompt": prepared.expanded[0], "input_ids": ids, "images": [], "videos": [],
        }
        tensors = {"input_ids": ids, "logits_rows": rows, "logits": logits[rows]}
        if prepared.tiles is not None:
            tensors |= {"pixel_values_u8": to_u8(prepared.tiles), "image_features": features}
            info["pixel_values_shape"] = list(prepared.tiles.shape)
        if "vision_last_hidden_state" in case.keep:
            tensors["vision_last_hidden_state"] = vision
        if m.blocks(case.conversation, "image"):
            info["images"] = self._images(case)
        if prepared.videos:
            info["videos"] = self._videos(case, prepared.videos)
            if "frames" in case.keep:
                tensors["frames_u8"] = prepared.videos[0]["frames"].permute(0, 2, 3, 1)
        info["greedy"] = {
            "new_tokens": greedy.tokens, "text": greedy.text, "text_without_specials": greedy.text_without_specials,
            "margins": [round(v, 5) for v in greedy.margins], "logprobs": [round(v, 6) for v in greedy.logprobs],
        }
        info["bf16_relative_l2"] = {"all_rows": _relative_l2(half, logits), "logits_rows": _relative_l2(half[rows], logits[rows])}
        self.greedy_tokens[case.name], self.last_logits[case.name] = greedy.tokens, logits[-1]
        write_json(self.folder / f"{case.name}.json", info)
        write_tensors(self.folder / f"{case.name}.safetensors", tensors)
        return info

    def _images(self, case: Case) -> list[dict]:
        """Grids, and what other releases make of the same pictures (digests of u8 [tiles, 3, S, S])."""
        images = [b.get("path", b.get("image")) for b in m.blocks(self.conversation(case), "image")]
        options = {k: v for k, v in case.kwargs.items() if k in ("do_image_splitting", "size")}
        infos = self.exact.grids(images, **options)
        for block, image, info in zip(m.blocks(case.conversation, "image"), images, infos, strict=True):
            info["path"] = block["path"]
            info["bicubic_u8_sha256"] = self._digest("torchvision", image, resample=3, **options)
            info["pil_u8_sha256"] = self._digest("pil", image, **options)
        return infos

    def _digest(self, backend: str, image, **options) -> str:
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(self.exact.model.name_or_path, backend=backend)
        tiles = torch.as_tensor(processor([[image]], return_tensors="pt", **options)["pixel_values"])[0]
        return sha256(to_u8(tiles, exact=backend == "torchvision"))

    @staticmethod
    def _videos(case: Case, videos: list[dict]) -> list[dict]:
        paths = [b["path"] for b in m.blocks(case.conversation, "video")]
        return [
            {"path": path, **video_facts(video), "frames_rgb_sha256": [sha256(f.permute(1, 2, 0)) for f in video["frames"]]}
            for path, video in zip(paths, videos, strict=True)
        ]

    def record_batch(self, name: str, members: list[Case]) -> dict:
        """Runs cases as one left-padded batch and says how far that is from each run alone."""
        prepared = self.exact.prepare([self.conversation(c) for c in members], padding=True, padding_side="left")
        last = self.exact.forward(prepared.inputs, last_only=True)[0][:, -1]
        greedy = self.exact.greedy(prepared.inputs, NEW_TOKENS)
        alone = [self.last_logits[c.name] for c in members]
        info = {
            "name": name, "members": [c.name for c in members], "rendered_prompts": prepared.rendered,
            "expanded_prompts": prepared.expanded, "new_tokens": [g.tokens for g in greedy],
            "same_tokens_alone": [g.tokens == self.greedy_tokens[c.name] for g, c in zip(greedy, members, strict=True)],
            "last_logits_relative_l2_from_alone": [_relative_l2(a, b) for a, b in zip(last, alone, strict=True)],
        }
        write_json(self.folder / f"{name}.json", info)
        return info


def _spread(length: int) -> torch.Tensor:
    """Positions spread over the prompt, the last one among them."""
    return torch.linspace(0, length - 1, min(length, LOGIT_ROWS + 1)).long().unique()


def _relative_l2(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm())
