"""Which GPU and which versions were measured."""

import importlib.metadata
import re
import subprocess
import time
from pathlib import Path

PACKAGES = ("torch", "transformers", "triton")
HERE = Path(__file__).resolve().parent


def folder_name() -> str:
    """DATE-GPU, such as 2026-11-25-h200."""
    known = re.search(r"(h100|h200|b200|a100|l40s?|rtx \d+)", query("name").lower())
    return f"{time.strftime('%Y-%m-%d')}-{known[1].replace(' ', '') if known else 'gpu'}"


def describe() -> str:
    commit = printed("git", "-C", HERE, "rev-parse", "--short", "HEAD")
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"# {time.strftime('%Y-%m-%d')}, one {query('name')}", "",
        f"- GPU: {query('name')}, {query('memory.total')} MiB, driver {query('driver_version')}",
        f"- Ours: commit {commit}",
        f"- Peer: {packages}",
        "- Checkpoint: SmolVLM2-256M's dimensions, random weights, bf16",
    ]
    return "\n".join(lines) + "\n"


def query(what: str) -> str:
    return printed("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "-i", "0")


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def printed(*command: object) -> str:
    try:
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
