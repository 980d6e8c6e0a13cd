#!/usr/bin/env python3
"""Training steps of SmolVLM2-256M on one NVIDIA GPU: ours beside PyTorch's transformers, in turns, in one run.

    python goldens/make_goldens.py --out DIR --size 256m --dtype bf16 --tokenizer tokenizer.json
    cargo build --release -p smolvlm-train --example step_speed
    python benchsuite/gpu_training.py --ours target/release/examples/step_speed --checkpoint DIR

Needs a Python with torch and transformers beside the driver. Writes every sample with its command (training.json), the table
(training.md) and the machine's description to runs/DATE-MACHINE-training/. Full fine-tuning in bf16; ours keeps f32 masters.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from gpu import machine

HERE = Path(__file__).resolve().parent
PEER = HERE / "gpu" / "transformers_training.py"
# Title; samples, tiles, tokens, recomputed; samples that ours takes at a time; what is aimed at: ours over the peer, GiB.
CASES = [
    ("4 × 17 tiles × 1,388 tokens", (4, 17, 1388, False), 1, 1.7, 12.0),
    ("the same, recomputing", (4, 17, 1388, True), 2, 2.0, 6.5),
    ("16 × 1 tile × 256 tokens", (16, 1, 256, False), 16, 3.0, None),
]


def main() -> None:
    args = arguments()
    out = args.out or HERE / "runs" / f"{machine.folder_name()}-training"
    out.mkdir(parents=True, exist_ok=True)
    (out / "machine.md").write_text(machine.describe())
    results = {"started": time.strftime("%Y-%m-%d %H:%M"), "samples": [], "failures": {}}
    for _ in range(args.rounds):
        for case in CASES:
            for turn in (ours, peer("bf16"), ours, peer("f32")):
                turn(args, case, results)
                (out / "training.json").write_text(json.dumps(results, indent=1))
    write_table(results, out)


def ours(args: argparse.Namespace, case: tuple, results: dict) -> None:
    title, (samples, tiles, tokens, recompute), part, _, _ = case
    command = [args.ours.resolve(), args.checkpoint, "device=cuda", "dtype=bf16", f"samples={samples}", f"part={args.part or part}",
               f"tokens={tokens}", f"tiles={tiles}", f"steps={args.steps}", f"recompute={'yes' if recompute else 'no'}"]
    keep("ours", title, command, results)


def peer(masters: str):
    def turn(args: argparse.Namespace, case: tuple, results: dict) -> None:
        title, (samples, tiles, tokens, recompute), _, _, _ = case
        command = [sys.executable, PEER, "--checkpoint", args.checkpoint, "--samples", samples, "--part", samples, "--tiles", tiles,
                   "--tokens", tokens, "--steps", args.steps, "--masters", masters, *(["--recompute"] if recompute else [])]
        keep(f"PyTorch, {masters} masters", title, command, results)
    return turn


def keep(name: str, case: str, command: list, results: dict) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}, {case} …", file=sys.stderr, flush=True)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        results["failures"][f"{name}, {case}"] = done.stderr.strip()[-600:]
        return
    figures = json.loads(done.stdout.splitlines()[-1])
    results["samples"].append({"peer": name, "case": case, "command": [Path(str(word)).name for word in command], "figures": figures})


def write_table(results: dict, out: Path) -> None:
    lines = ["# Training steps on one GPU, bf16: ours and transformers", "",
             f"Measured {results['started']}. Samples a second, and the most memory that each allocated. [machine.md](machine.md) has the",
             "versions, training.json every sample with its command.", "",
             "| batch | ours | PyTorch, bf16 masters | PyTorch, f32 masters | ours over the first | aim |", "|---|---|---|---|---|---|"]
    for title, _, _, ratio, memory in CASES:
        of = {name: [sample["figures"] for sample in results["samples"] if (sample["peer"], sample["case"]) == (name, title)]
              for name in ("ours", "PyTorch, bf16 masters", "PyTorch, f32 masters")}
        cells = [cell(figures) for figures in of.values()]
        speeds = [statistics.median(f["samples_per_second"] for f in figures) if figures else None for figures in of.values()]
        over = f"{speeds[0] / speeds[1]:.2f}" if speeds[0] and speeds[1] else ""
        aim = f"≥ {ratio}" + (f", ≤ {memory} GiB" if memory else "")
        lines.append(f"| {title} | {' | '.join(cells)} | {over} | {aim} |")
    lines += [f"\n- {name}: {text}" for name, text in results["failures"].items()]
    (out / "training.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def cell(figures: list[dict]) -> str:
    if not figures:
        return ""
    speeds = [f["samples_per_second"] for f in figures]
    memory = max(f["memory_mib"] for f in figures) / 1024
    spread = f" ({min(speeds):.1f}–{max(speeds):.1f})" if len(speeds) > 1 else ""
    return f"{statistics.median(speeds):.1f}{spread}; {memory:.1f} GiB"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, required=True, help="the step_speed example")
    parser.add_argument("--checkpoint", type=Path, required=True, help="256M dimensions, bf16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--part", type=int, default=0, help="samples that ours takes at a time; 0: by case")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
