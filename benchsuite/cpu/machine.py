"""What was measured on, and which versions of what."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path

PACKAGES = ("transformers", "torch", "torchvision", "torchcodec", "pillow", "av", "openvino", "nncf", "numpy", "tokenizers")
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
            "asimddp", "i8mm", "bf16")
HERE = Path(__file__).resolve().parent


def folder_name() -> str:
    """DATE-MACHINE, such as 2026-11-24-xeon-2c."""
    known = re.search(r"xeon|epyc|ryzen|core|graviton|neoverse", processor().lower())
    day = time.strftime("%Y-%m-%d")
    return f"{day}-{known[0] if known else platform.machine()}-{os.cpu_count()}c-cpu"


def describe(work: Path, threads: int) -> str:
    commit = printed("git", "-C", HERE, "rev-parse", "--short", "HEAD")
    lines = [
        f"# {time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} virtual cores", "",
        f"- Processor: {processor()}; {', '.join(features())}; caches {caches()}",
        f"- Memory: {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        f"- System: {system()}, kernel {platform.release()}",
        f"- Threads: {threads}; load average when it began: {os.getloadavg()[0]:.2f}",
        f"- Ours: commit {commit}, release build, {printed('rustc', '--version')}",
        f"- Peers: {', '.join(versions(work))}",
        "- Checkpoint: SmolVLM2-256M's dimensions, random weights, bf16 (`goldens/make_goldens.py --size 256m --dtype bf16`)",
    ]
    return "\n".join(lines) + "\n"


def processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].replace("(R)", "").strip() if found else platform.machine()


def features() -> list[str]:
    found = re.search(r"(?:flags|Features)\s*: (.*)", Path("/proc/cpuinfo").read_text())
    present = set(found[1].split()) if found else set()
    return [feature for feature in FEATURES if feature in present]


def caches() -> str:
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    read = lambda folder, name: (folder / name).read_text().strip()
    return ", ".join(f"L{read(folder, 'level')} {read(folder, 'size')}" for folder in folders)


def system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())


def versions(work: Path) -> list[str]:
    """Of the packages, and of llama.cpp: its source package, or its libraries' own number."""
    script = f"import importlib.metadata as m\nfor p in {PACKAGES!r}: print(p, m.version(p))"
    found = printed(work / "venv/bin/python", "-c", script).splitlines()
    ggml = next((work / "llama.cpp/bin").glob("libggml.so.*.*.*"), None)
    package = re.search(r"llama_cpp_python-([\d.]+\d)", str((work / "llama.cpp-source").resolve()))
    origin = f" (from llama-cpp-python {package[1]})" if package else ""
    number = ggml.name.removeprefix("libggml.so.") if ggml else "of unknown version"
    without = ", built without AMX, whose kernels crash here" if (work / "llama.cpp/without-amx").exists() else ""
    return [*found, f"llama.cpp with ggml {number}{origin}{without}"]


def printed(*command: object) -> str:
    try:
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
