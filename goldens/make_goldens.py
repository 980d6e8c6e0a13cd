#!/usr/bin/env python3
"""Writes a random-weight SmolVLM2 checkpoint and what the Python reference makes of a set of conversations on it.

    python goldens/make_goldens.py --out goldens/tiny                      # what is committed
    python goldens/make_goldens.py --out DIR --seed 7                      # the same cases on fresh weights
    python goldens/make_goldens.py --out goldens/tiny --training-only      # losses and gradients, of cases that are there
    python goldens/make_goldens.py --out DIR --size 256m --tokenizer tokenizer.json    # a checkpoint folder, nothing else

README.md beside this file says what the files hold.
"""

import argparse
import importlib.metadata
import json
import shutil
import time
from pathlib import Path

import reference  # noqa: F401  (sets the environment before the libraries are imported)
import torch
from reference.checkpoint import write_checkpoint
from reference.files import sha256, write_json
from reference.sizes import SIZES

PACKAGES = ("transformers", "peft", "torch", "torchvision", "torchcodec", "tokenizers", "safetensors", "pillow", "av", "num2words",
            "jinja2", "numpy")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    started = time.perf_counter()
    if args.training_only:
        _write_training(args.out)
        _note_training(args.out)
        return
    only = args.checkpoint_only or args.size != "tiny"
    folder = args.out if only else args.out / "checkpoint"
    parameters = write_checkpoint(folder, SIZES[args.size], args.seed, args.dtype, args.tokenizer)
    print(f"checkpoint {args.size}: {parameters:,} parameters, {time.perf_counter() - started:.1f} s")
    if not only:
        _write_goldens(args.out)
        _write_manifest(args, parameters)
    print(f"done in {time.perf_counter() - started:.1f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its cases/ and extras/ are replaced")
    parser.add_argument("--seed", type=int, default=1, help="of the weights; the default is what is committed")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="the published sizes imply --checkpoint-only")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of the weights on disk")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to copy instead of training a small one")
    parser.add_argument("--training-only", action="store_true", help="replace training/ of goldens that are there, and nothing else")
    parser.add_argument("--checkpoint-only", action="store_true", help="write the checkpoint into DIR itself, and nothing else")
    return parser.parse_args()


def _write_goldens(out: Path) -> None:
    from reference.cases import Recorder, batches, tiny_cases
    from reference.extras import write_extras
    from reference.inputs import write_inputs

    for folder in ("inputs", "cases", "extras"):
        shutil.rmtree(out / folder, ignore_errors=True)
    write_inputs(out / "inputs")
    recorder = Recorder(out, out / "checkpoint")
    cases = {case.name: case for case in tiny_cases()}
    for case in cases.values():
        info = recorder.record(case)
        grids = " ".join(f"{i['rows']}x{i['cols']}" for i in info["images"])
        print(f"  {case.name:34} {len(info['input_ids']):4} ids  {grids:8} least margin "
              f"{min(info['greedy']['margins']):.3f}  bf16 {info['bf16_relative_l2']['all_rows']:.4f}")
    for name, members in batches().items():
        info = recorder.record_batch(name, [cases[c] for c in members])
        print(f"  {name:34} tokens as alone: {info['same_tokens_alone']}")
    write_extras(out, recorder.exact)
    _write_training(out)


def _write_training(out: Path) -> None:
    from reference.training import write_adapter, write_dora, write_training

    shutil.rmtree(out / "training", ignore_errors=True)
    write_training(out)
    write_adapter(out)
    write_dora(out)


def _note_training(out: Path) -> None:
    """Brings the manifest's digests of training/ up to date."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    files = {str(p.relative_to(out)): sha256(p) for p in sorted((out / "training").rglob("*")) if p.is_file()}
    others = {name: digest for name, digest in manifest["sha256"].items() if not name.startswith("training/")}
    manifest["sha256"] = dict(sorted((others | files).items()))
    manifest["bytes"] = sum((out / name).stat().st_size for name in manifest["sha256"])
    write_json(out / "manifest.json", manifest)


def _write_manifest(args: argparse.Namespace, parameters: int) -> None:
    files = sorted(p for p in args.out.rglob("*") if p.is_file() and p.name != "manifest.json")
    write_json(args.out / "manifest.json", {
        "size": args.size, "seed": args.seed, "dtype": args.dtype, "parameters": parameters,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bytes": sum(p.stat().st_size for p in files),
        "sha256": {str(p.relative_to(args.out)): sha256(p) for p in files},
    })


if __name__ == "__main__":
    main()
