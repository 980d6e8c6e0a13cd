#!/usr/bin/env python3
"""Runs the Python reference on a messages file and compares its stages with the engine's.

    python goldens/compare_true_size.py run --checkpoint DIR --messages FILE.json --out ref.safetensors
    smolvlm trace --model DIR --messages FILE.json --out ours.safetensors        # both also with --adapter FOLDER
    python goldens/compare_true_size.py compare ref.safetensors ours.safetensors

Both files hold, per conversation: `input_ids` i64 [T]; `pixel_values` f32 [tiles, 3, S, S] in prompt order; `image_features` f32
[image tokens, hidden]; `logits` f32 [T or 1, vocab]; `generated_ids` i64 without the prompt, the end token included; as
metadata `expanded_prompt` and, with videos, `frame_indices` and `timestamps` (JSON, a list per video). With several
conversations every name starts with `0.`, `1.` and so on. The reference's file adds `margins` f32 [generated tokens], its
best minus its second logit at each step.

`compare` ends with exit code 1 when ids, pixels or tokens differ or when features or logits are further than --tolerance away.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import reference  # noqa: F401  (sets the environment before the libraries are imported)
import torch
from reference import messages
from reference.checkpoint import DTYPES
from reference.files import plain, write_tensors
from safetensors import safe_open


def main() -> int:
    args = _arguments()
    if args.command == "run":
        return run(args)
    return compare(args.reference, args.ours, args.tolerance)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run", help="record the reference")
    run_.add_argument("--checkpoint", type=Path, required=True)
    run_.add_argument("--messages", type=Path, required=True, nargs="+", help="a conversation, or a list of conversations")
    run_.add_argument("--out", type=Path, required=True, help="a file; with several messages files a folder")
    run_.add_argument("--dtype", choices=DTYPES, default="f32")
    run_.add_argument("--max-new-tokens", type=int, default=20)
    run_.add_argument("--logits", choices=("all", "last"), default="all")
    run_.add_argument("--processor-kwargs", type=json.loads, default={}, help='such as \'{"do_image_splitting": false}\'')
    run_.add_argument("--adapter", type=Path, help="a folder that PEFT reads")
    run_.add_argument("--threads", type=int, default=1)
    compare_ = commands.add_parser("compare", help="compare two recordings")
    compare_.add_argument("reference", type=Path)
    compare_.add_argument("ours", type=Path)
    compare_.add_argument("--tolerance", type=float, default=1e-4, help="of features and logits, relative to the largest value")
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Records each messages file; the checkpoint is loaded once."""
    from reference.model import Reference

    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    model = Reference(args.checkpoint, DTYPES[args.dtype])
    if args.adapter:
        from peft import PeftModel

        PeftModel.from_pretrained(model.model, str(args.adapter)).eval()  # puts its layers into the model it is given
    print(f"loaded in {time.perf_counter() - started:.1f} s", flush=True)
    for file in args.messages:
        out = args.out / f"{file.stem}.{args.dtype}.safetensors" if len(args.messages) > 1 else args.out
        started = time.perf_counter()
        tensors, metadata = record(model, file, args)
        write_tensors(out, tensors, {**metadata, "dtype": args.dtype, "processor_kwargs": json.dumps(args.processor_kwargs)})
        shapes = "  ".join(f"{k} {list(v.shape)}" for k, v in tensors.items())
        print(f"{out}: {time.perf_counter() - started:.1f} s  {shapes}", flush=True)
    return 0


def record(model, file: Path, args: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    """Tensors and metadata of one messages file; each conversation runs alone."""
    content = json.loads(file.read_text(encoding="utf-8"))
    conversations = content if isinstance(content[0], list) else [content]
    tensors, metadata = {}, {}
    for i, conversation in enumerate(conversations):
        prefix = f"{i}." if isinstance(content[0], list) else ""
        prepared = model.prepare([messages.resolve(conversation, file.parent)], **args.processor_kwargs)
        logits, features, _ = model.forward(prepared.inputs, last_only=args.logits == "last")
        (greedy,) = model.greedy(prepared.inputs, args.max_new_tokens)
        found = {"input_ids": prepared.inputs["input_ids"][0], "logits": logits[0].float(),
                 "generated_ids": torch.tensor(greedy.tokens), "margins": torch.tensor(greedy.margins)}
        if prepared.tiles is not None:
            found |= {"pixel_values": prepared.tiles, "image_features": features.float()}
        facts = {"expanded_prompt": prepared.expanded[0]}
        if prepared.videos:
            videos = [v["facts"] for v in prepared.videos]
            facts["frame_indices"] = json.dumps([plain(v.frames_indices) for v in videos])
            facts["timestamps"] = json.dumps([[float(t) for t in v.timestamps] for v in videos])
        tensors |= {prefix + k: v for k, v in found.items()}
        metadata |= {prefix + k: v for k, v in facts.items()}
    return tensors, metadata


def compare(reference_file: Path, ours_file: Path, tolerance: float) -> int:
    """Prints one line per tensor and metadata entry; 1 when something differs."""
    ref, ref_meta = _load(reference_file)
    ours, our_meta = _load(ours_file)
    failures = 0
    for name in sorted(k for k in ref if not k.endswith("margins")):
        kind = name.rsplit(".", 1)[-1]
        line, good = _compare_tensor(kind, ref[name], ours.get(name), ref.get(name.replace(kind, "margins")), tolerance)
        failures += not good
        print(f"{'ok ' if good else 'BAD'}  {name:18} {line}")
    for name in sorted(k for k in ours.keys() - ref.keys() if not k.endswith("margins")):
        failures += 1
        print(f"BAD  {name:18} the reference has no such tensor")
    for name in sorted(k for k in ref_meta if k.endswith(("expanded_prompt", "frame_indices", "timestamps"))):
        if name not in our_meta:
            print(f"  -  {name:18} not recorded by the other side")
            continue
        good = _same_metadata(name, ref_meta[name], our_meta[name])
        failures += not good
        print(f"{'ok ' if good else 'BAD'}  {name:18} {'equal' if good else _first_difference(ref_meta[name], our_meta[name])}")
    return int(failures > 0)


def _load(file: Path) -> tuple[dict, dict]:
    with safe_open(str(file), "pt") as opened:
        return {k: opened.get_tensor(k) for k in opened.keys()}, opened.metadata() or {}


def _compare_tensor(kind: str, ref, ours, margins, tolerance: float) -> tuple[str, bool]:
    if ours is None:
        return "missing", False
    if kind == "logits" and len(ref) != len(ours):
        ref, ours = ref[-1:], ours[-1:]  # one side kept the last row only
    if kind == "generated_ids":
        return _compare_tokens(ref.tolist(), ours.tolist(), margins)
    if ref.shape != ours.shape:
        return f"{list(ref.shape)} against {list(ours.shape)}", False
    if kind in ("input_ids", "pixel_values"):
        different = ref != ours
        largest = float((ref - ours).abs().max()) if different.any() else 0
        return f"{int(different.sum())} of {ref.numel()} differ, by at most {largest:g}", not different.any()
    delta = ref.double() - ours.double()
    largest = float(delta.abs().max() / ref.double().abs().max())
    l2 = float(delta.norm() / ref.double().norm())
    return f"{list(ref.shape)}  largest error {largest:.2e} of the largest value, relative L2 {l2:.2e}", largest <= tolerance


def _compare_tokens(ref: list[int], ours: list[int], margins) -> tuple[str, bool]:
    if ref == ours:
        return f"{len(ref)} tokens equal", True
    step = next((i for i, (a, b) in enumerate(zip(ref, ours)) if a != b), min(len(ref), len(ours)))
    line = f"part at token {step}: {ref[step:step + 3]} against {ours[step:step + 3]}"
    if margins is not None and step < len(margins):
        line += f", the reference's margin there is {float(margins[step]):.4f}"
    return line, False


def _same_metadata(name: str, ref: str, ours: str) -> bool:
    if ref == ours or not name.endswith("timestamps"):
        return ref == ours or (not name.endswith("expanded_prompt") and json.loads(ref) == json.loads(ours))
    flat = [[t for video in json.loads(side) for t in video] for side in (ref, ours)]
    return len(flat[0]) == len(flat[1]) and all(abs(a - b) < 1e-6 for a, b in zip(*flat))


def _first_difference(ref: str, ours: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(ref, ours)) if a != b), min(len(ref), len(ours)))
    return f"differ from character {at}: {ref[at:at + 40]!r} against {ours[at:at + 40]!r}"


if __name__ == "__main__":
    sys.exit(main())
