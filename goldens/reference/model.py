"""The processor and the model of transformers behind one small class; nothing of them is replaced, only watched."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

NORMALISED = (torch.arange(256, dtype=torch.float32) - 127.5) / 127.5  # u8 -> pixel value, torchvision's fused rule


@dataclass
class Prepared:
    """What the processor makes of conversations."""

    rendered: list[str]
    expanded: list[str]
    inputs: dict
    videos: list[dict]  # facts and sampled frames, in prompt order
    padded_tiles: int = 0
    tiles: torch.Tensor | None = field(default=None)  # f32 [tiles, 3, S, S], padding tiles left out


@dataclass
class Greedy:
    """A greedy continuation of one prompt."""

    tokens: list[int]
    logits: torch.Tensor  # f32 [steps, vocab]
    text: str
    text_without_specials: str

    @property
    def margins(self) -> list[float]:
        top = self.logits.topk(2, dim=-1).values
        return (top[:, 0] - top[:, 1]).tolist()

    @property
    def logprobs(self) -> list[float]:
        return self.logits.log_softmax(-1).max(-1).values.tolist()


class Reference:
    """One checkpoint, loaded as a user of the library loads it."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32):
        self.processor = AutoProcessor.from_pretrained(str(checkpoint))
        self.model = AutoModelForImageTextToText.from_pretrained(str(checkpoint), dtype=dtype).eval()
        self._expanded: list[str] = []
        self._videos: list[dict] = []
        self._watch(self.processor, "get_text_with_replacements", lambda out: setattr(self, "_expanded", list(out[0])))
        self._watch(self.processor.video_processor, "fetch_videos", self._note_video)

    @staticmethod
    def _watch(owner, method: str, note) -> None:
        """Calls `note` with whatever `owner.method` returns."""
        original = getattr(owner, method)

        def watched(*args, **kwargs):
            out = original(*args, **kwargs)
            note(out)
            return out

        setattr(owner, method, watched)

    def _note_video(self, out) -> None:
        frames, facts = out
        if isinstance(frames, torch.Tensor):  # the recursion over lists returns lists
            self._videos.append({"frames": frames, "facts": facts})

    def prepare(self, conversations: list[list[dict]], **processor_kwargs) -> Prepared:
        """Runs the chat template and the processor; a batch when there is more than one conversation."""
        argument = conversations if len(conversations) > 1 else conversations[0]
        rendered = self.processor.apply_chat_template(argument, tokenize=False, add_generation_prompt=True)
        self._videos.clear()
        inputs = self.processor.apply_chat_template(
            argument, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
            processor_kwargs=processor_kwargs)
        expanded = list(self._expanded)
        for text, ids, mask in zip(expanded, inputs["input_ids"], inputs["attention_mask"], strict=True):
            assert self.processor.tokenizer.decode(ids[mask.bool()], skip_special_tokens=False) == text
        out = Prepared([rendered] if isinstance(rendered, str) else rendered, expanded, dict(inputs), list(self._videos))
        if "pixel_values" in inputs:
            tiles = inputs["pixel_values"].flatten(0, 1)
            real = (tiles != 0).flatten(1).any(-1)
            out.tiles, out.padded_tiles = tiles[real], int((~real).sum())
        return out

    @torch.no_grad()
    def forward(self, inputs: dict, last_only: bool = False) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Logits [B, T or 1, vocab], image features [image tokens, hidden], vision last hidden state [tiles, p², D]."""
        seen = {}
        parts = {"features": self.model.model.connector, "vision": self.model.model.vision_model}
        hooks = [part.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
                 for name, part in parts.items()]
        try:
            logits = self.model(**inputs, logits_to_keep=int(last_only)).logits
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:
            return logits, None, None
        return logits, seen["features"].flatten(0, -2), seen["vision"].last_hidden_state

    @torch.no_grad()
    def greedy(self, inputs: dict, new_tokens: int) -> list[Greedy]:
        """`generate` with its defaults, one result per prompt; a finished prompt ends with its end token."""
        out = self.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, return_dict_in_generate=True,
                                  output_logits=True)
        end = self.model.generation_config.eos_token_id
        decode = self.processor.tokenizer.decode
        steps = torch.stack(out.logits, 1).float()
        results = []
        for row, logits in zip(out.sequences[:, inputs["input_ids"].shape[1]:].tolist(), steps, strict=True):
            tokens = row[: row.index(end) + 1] if end in row else row
            results.append(Greedy(tokens, logits[: len(tokens)], decode(tokens, skip_special_tokens=False),
                                  decode(tokens, skip_special_tokens=True)))
        return results

    def grids(self, images: list, **processor_kwargs) -> list[dict]:
        """Rows and columns of each image's tiles, and its size as loaded."""
        processor = self.processor.image_processor
        info = processor([images], return_row_col_info=True, return_tensors="pt", **processor_kwargs)
        loaded = processor.fetch_images(images)
        sizes = [tuple(i.shape[-2:]) if isinstance(i, torch.Tensor) else (i.height, i.width) for i in loaded]
        return [{"height": h, "width": w, "rows": r, "cols": c}
                for (h, w), r, c in zip(sizes, info["rows"][0], info["cols"][0], strict=True)]


def to_u8(tiles: torch.Tensor, exact: bool = True) -> torch.Tensor:
    """Pixel values back to the u8 they came from; with `exact`, that NORMALISED gives them again bit by bit is checked."""
    u8 = torch.round(tiles.double() * 127.5 + 127.5).to(torch.uint8)
    if exact:
        assert torch.equal(NORMALISED[u8.long()], tiles)
    return u8


def video_facts(video: dict) -> dict:
    """What the text of a video depends on."""
    facts = video["facts"]
    seconds = [float(s) for s in facts.timestamps]
    return {
        "total_num_frames": facts.total_num_frames, "fps": float(facts.fps), "duration": float(facts.duration),
        "height": facts.height, "width": facts.width, "backend": facts.video_backend,
        "frame_indices": np.asarray(facts.frames_indices).tolist(), "timestamps": seconds,
        "timestamps_mmss": [f"{int(s // 60):02d}:{int(s % 60):02d}" for s in seconds],
    }
