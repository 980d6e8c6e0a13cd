#!/usr/bin/env python3
"""SmolVLM2-256M on the CPU: ours beside transformers, OpenVINO and llama.cpp, in turns, in one run.

    python benchsuite/cpu_peers.py setup --work DIR --tokenizer tokenizer.json
    cargo build --release
    python benchsuite/cpu_peers.py run --work DIR --ours target/release/smolvlm

`setup` installs and builds the peers into DIR and writes the checkpoint (true dimensions, random weights) in every peer's
format; what is there already stays. `run` writes the raw results, a table and the machine's description to
runs/DATE-MACHINE/. One process runs at a time; every one may use the same THREADS processors. README.md tells what each
figure contains.
"""

import argparse
from pathlib import Path

from cpu import machine, measure, prepare, table
from cpu.peers import PEERS, Settings

HERE = Path(__file__).resolve().parent


def main() -> None:
    args = arguments()
    if args.command == "setup":
        prepare.setup(args.work.resolve(), args.tokenizer, args.llama_cpp, args.jobs)
    elif args.command == "run":
        run(args)
    else:
        table.write(args.folder)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="install and build the peers, write the checkpoint")
    setup.add_argument("--work", type=Path, required=True, help="folder for all of it; about 7 GB")
    setup.add_argument("--tokenizer", type=Path, help="the published tokenizer.json; without it, a small one is trained")
    setup.add_argument("--llama-cpp", type=Path, help="llama.cpp's source folder; default: what llama-cpp-python's source brings")
    setup.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    run_ = commands.add_parser("run", help="measure, and write the table")
    run_.add_argument("--work", type=Path, required=True)
    run_.add_argument("--ours", type=Path, required=True, help="the smolvlm binary")
    run_.add_argument("--only", type=words(measure.FIGURES), default=list(measure.FIGURES), help=f"of {','.join(measure.FIGURES)}")
    run_.add_argument("--dtype", type=words(measure.DTYPES), default=list(measure.DTYPES), help=f"of {','.join(measure.DTYPES)}")
    run_.add_argument("--peers", type=words(PEERS), default=list(PEERS), help=f"of {','.join(PEERS)}")
    run_.add_argument("--rounds", type=int, default=5)
    run_.add_argument("--threads", type=int, default=2)
    run_.add_argument("--tiles", type=int, default=4, help="tiles of one sample of the vision figure")
    run_.add_argument("--decode-tokens", type=int, default=32)
    run_.add_argument("--out", type=Path, help="folder of the results; default: runs/DATE-MACHINE beside this file")
    table_ = commands.add_parser("table", help="write the table of a run's raw results again")
    table_.add_argument("folder", type=Path)
    return parser.parse_args()


def words(known: object) -> object:
    """A comma-separated list of known words."""
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return chosen
    return parse


def run(args: argparse.Namespace) -> None:
    work = args.work.resolve()
    settings = Settings(work, args.ours.resolve(), args.threads, args.tiles, args.decode_tokens)
    out = args.out or HERE / "runs" / machine.folder_name()
    out.mkdir(parents=True, exist_ok=True)
    (out / "machine.md").write_text(machine.describe(work, args.threads))
    measure.run(settings, args.peers, args.dtype, args.only, args.rounds, out)
    table.write(out)


if __name__ == "__main__":
    main()
