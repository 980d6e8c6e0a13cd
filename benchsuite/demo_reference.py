#!/usr/bin/env python3
"""Asks the Python reference what `smolvlm evaluate scenes` asks, and compares the replies token by token.

    python benchsuite/demo_reference.py FOLDER --smolvlm target/release/smolvlm

The engine is asked first, in f32 on the processor; what it was asked lies as PNG files and JSON lines in a scratch folder (`--work`
keeps it). Then transformers loads the same folder and answers every question greedily in f32, one at a time; clips are handed over as
their frames with their rate. Replies must be equal, up to the first token where the reference's best two logits are within 1e-3 of
each other. Ends with exit code 1 when one is not. Needs torch, transformers, pillow and num2words.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

NEAR_TIE = 1e-3


def ask_engine(arguments, work: Path) -> dict:
    """The engine's report; what was asked lies in `work` afterwards."""
    skills = ["--skill", arguments.skill] if arguments.skill else []
    command = [arguments.smolvlm, "evaluate", "scenes", "--model", arguments.folder, "--samples", arguments.samples, "--seed",
               arguments.seed, "--max-new-tokens", arguments.tokens, "--dtype", "f32", "--device", "cpu", "--no-baselines",
               "--quiet", "--export", work, "--json", *skills]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"smolvlm: {done.stderr.strip()}")
    return json.loads(done.stdout)


def first_question(sample: dict) -> list[dict]:
    """The conversation up to the first answer."""
    end = next(place for place, message in enumerate(sample["messages"]) if message["role"] == "assistant")
    return sample["messages"][:end]


class Reference:
    """The folder as a user of transformers loads it."""

    def __init__(self, folder: Path):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, sample: dict, work: Path, split: bool):
        text = self.processor.apply_chat_template(first_question(sample), tokenize=False, add_generation_prompt=True)
        pictures = [Image.open(work / name).convert("RGB") for name in sample["images"]]
        clips = [frames(work / name) for name in sample["videos"]]
        media = {}
        if pictures:
            media |= {"images": [pictures], "do_image_splitting": split}
        if clips:
            # As for frames without metadata, a clip's length is the time of its last frame.
            facts = [VideoMetadata(total_num_frames=len(clip), fps=rate, duration=(len(clip) - 1) / rate,
                                   frames_indices=list(range(len(clip)))) for clip, rate in zip(clips, sample["fps"])]
            media |= {"videos": [clips], "video_metadata": [facts], "do_sample_frames": False}
        return self.processor(text=[text], return_tensors="pt", **media)

    @torch.no_grad()
    def greedy(self, inputs, tokens: int) -> tuple[list[int], list[float]]:
        """Ids up to the end token, and by how much each was the best."""
        out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, return_dict_in_generate=True,
                                  output_logits=True)
        ids = out.sequences[0, inputs["input_ids"].shape[1]:].tolist()
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
        best = torch.cat(out.logits).float().topk(2, dim=-1).values
        return ids[:length], (best[:, 0] - best[:, 1]).tolist()


def frames(folder: Path) -> np.ndarray:
    """u8 [frames, height, width, 3]."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())])


def compare(ours: list[int], theirs: list[int], margins: list[float]) -> str:
    """`equal`, `near tie`, or what differs."""
    if ours == theirs:
        return "equal"
    place = next((at for at, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs)))
    if place < len(margins) and margins[place] < NEAR_TIE:
        return "near tie"
    return f"token {place}: the reference has {theirs[place:place + 1]}, smolvlm {ours[place:place + 1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a checkpoint folder")
    parser.add_argument("--smolvlm", default="target/release/smolvlm")
    parser.add_argument("--samples", type=int, default=11, help="questions of each skill (11: 209 of 18 skills)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skill", help="only these, with commas")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a reply")
    parser.add_argument("--threads", type=int, default=0, help="threads of the reference; 0: as torch chooses")
    parser.add_argument("--work", type=Path, help="keep what is asked here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        report = ask_engine(arguments, work)
        lines = (work / "held.jsonl").read_text(encoding="utf-8").splitlines()
        samples = {sample["id"]: sample for sample in map(json.loads, lines)}
        reference = Reference(arguments.folder)
        tally: dict[str, list[int]] = {}
        different = 0
        for number, question in enumerate(report["questions"], 1):
            if sys.stderr.isatty():
                print(f"\r{number} of {len(report['questions'])}", end="", file=sys.stderr)
            sample = samples[question["id"]]
            inputs = reference.inputs(sample, work, question["tiles"] == "split")
            theirs, margins = reference.greedy(inputs, arguments.tokens)
            verdict = compare(question["ids"], theirs, margins)
            row = tally.setdefault(f"{question['skill']} ({question['tiles']})", [0, 0, 0])
            row[0 if verdict == "equal" else 1 if verdict == "near tie" else 2] += 1
            if verdict not in ("equal", "near tie"):
                different += 1
                print(f"{question['skill']} {question['id']}: {question['question']!r}: {verdict}", file=sys.stderr)
    print("| skill | equal | equal up to a near tie | different |\n|---|---:|---:|---:|")
    for name, row in tally.items():
        print(f"| {name} | {row[0]} | {row[1]} | {row[2]} |")
    total = [sum(column) for column in zip(*tally.values())]
    print(f"| all | {total[0]} | {total[1]} | {total[2]} |")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
