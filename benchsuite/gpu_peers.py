#!/usr/bin/env python3
"""SmolVLM2-256M on one NVIDIA GPU: ours beside PyTorch's transformers, eager and compiled, in turns, in one run.

    python goldens/make_goldens.py --out DIR --size 256m --dtype bf16 --tokenizer tokenizer.json
    cargo build --release
    python benchsuite/gpu_peers.py run --ours target/release/smolvlm --checkpoint DIR

Needs a Python with torch and transformers beside the driver. Writes every sample with its command (gpu.json), the table (gpu.md)
and the machine's description to runs/DATE-MACHINE/. Ours runs before and after each. A process has BENCHSUITE_LIMIT seconds
(600). README.md tells what each figure contains.
"""

import argparse
from pathlib import Path

from gpu import machine, measure, table

HERE = Path(__file__).resolve().parent


def main() -> None:
    args = arguments()
    if args.command == "table":
        table.write(args.folder)
        return
    out = args.out or HERE / "runs" / machine.folder_name()
    out.mkdir(parents=True, exist_ok=True)
    (out / "machine.md").write_text(machine.describe())
    measure.run(args.ours.resolve(), args.checkpoint.resolve(), args.rounds, args.peers.split(",") if args.peers else [], out)
    table.write(out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and write the table")
    run.add_argument("--ours", type=Path, required=True, help="the smolvlm binary")
    run.add_argument("--checkpoint", type=Path, required=True, help="256M dimensions, bf16")
    run.add_argument("--rounds", type=int, default=1, help="ours, eager, ours, compiled, ours is one")
    run.add_argument("--peers", default="eager,compiled", help="of eager,compiled; empty: ours alone")
    run.add_argument("--out", type=Path, help="folder of the results; default: runs/DATE-MACHINE beside this file")
    written = commands.add_parser("table", help="write the table of a run's raw results again")
    written.add_argument("folder", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
