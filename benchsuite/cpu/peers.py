"""Ours and the peers: which command gives which figures, and how its output is read.

A sample is one process. `Peer.samples` names the commands of a group of figures; a group that a peer or a number format does
not have gives none.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .samples import QUESTION, SHORTEST_PROMPT

HERE = Path(__file__).resolve().parent
PEERS = ("ours", "transformers", "openvino", "llama.cpp")
Figures = dict[str, float]


@dataclass
class Finished:
    """A process that has ended: what it printed, how long it took, the most memory it held."""

    stdout: str
    stderr: str
    seconds: float
    peak_mib: float


@dataclass
class Sample:
    command: list[str]
    read: Callable[[Finished], Figures]


@dataclass
class Settings:
    work: Path
    ours: Path
    threads: int
    tiles: int
    decode_tokens: int
    # Of vision, prefill and decode, those that are asked for.
    only: tuple[str, ...] = ("vision", "prefill", "decode")


def finish(command: list[str], threads: int, log: Path) -> Finished:
    """Runs `command` to its end; its output goes to files beside `log`. Raises where it fails."""
    words = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log.parent.mkdir(exist_ok=True)
    out, err = log.parent / f"{log.name}.out", log.parent / f"{log.name}.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, env=os.environ | words | quiet)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    done = Finished(out.read_text(errors="replace"), err.read_text(errors="replace"), seconds, usage.ru_maxrss / 1024)
    if process.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise RuntimeError(f"exit code {process.returncode}: {lines[-1][:200]}")
    return done


def samples(peer: str, dtype: str, group: str, settings: Settings) -> list[Sample]:
    return {"ours": ours, "transformers": transformers, "openvino": openvino, "llama.cpp": llama}[peer](dtype, group, settings)


def inputs(settings: Settings, group: str) -> tuple[Path, int]:
    """The file that is asked about, and how many tokens are answered."""
    name, tokens = {"image": ("photo.jpg", 1), "video": ("clip.mp4", 1), "memory": ("square.jpg", 64)}[group]
    return settings.work / "inputs" / name, tokens


def whole(group: str) -> Callable[[Finished], Figures]:
    """The figure of a process as a whole."""
    return lambda done: {group: done.peak_mib if group == "memory" else done.seconds}


def ours(dtype: str, group: str, settings: Settings) -> list[Sample]:
    common = ["--model", str(settings.work / "checkpoint"), "--dtype", dtype, "--threads", str(settings.threads), "--json",
              "--quiet"]
    if group == "stages":
        prompts = f"{SHORTEST_PROMPT},1100,2200"
        return [Sample([str(settings.ours), "bench", *common, "--tiles", str(settings.tiles), "--prompt-tokens", prompts,
                        "--decode-tokens", str(settings.decode_tokens), "--repeat", "3"], read_bench)]
    if group == "processor":
        # The stage's own clock in a run that does as little as possible besides.
        group = "image"
        read = read_processor
    else:
        read = lambda done, group=group: check_tokens(done, group) or whole(group)(done)
    file, tokens = inputs(settings, group)
    flag = "--video" if file.suffix == ".mp4" else "--image"
    return [Sample([str(settings.ours), "run", *common, flag, str(file), "-n", str(tokens), QUESTION], read)]


def read_bench(done: Finished) -> Figures:
    """Stages by the names that `smolvlm bench` gives them; the machine's peaks as `peak …`."""
    printed = json.loads(done.stdout)
    figures = {f"peak {name}": value for name, value in printed.get("peak", {}).items() if isinstance(value, int | float)}
    for figure in printed["figures"]:
        stage = figure["stage"]
        if found := re.fullmatch(r"(prefill|decode) (?:of|after) (\d+)", stage):
            count = int(found[2])
            figures[f"{found[1]}-{0 if count == SHORTEST_PROMPT else count}"] = figure["median"]
        elif stage.startswith("vision"):
            figures.setdefault("vision", figure["median"])
        elif "processor" in stage:
            figures.setdefault("processor", figure["median"])
    figures.pop("prefill-0", None)
    return figures


def read_processor(done: Finished) -> Figures:
    return {"processor": 1e3 * json.loads(done.stdout)["replies"][0]["timings_seconds"]["media"]}


def check_tokens(done: Finished, group: str) -> None:
    tokens = json.loads(done.stdout)["replies"][0]["usage"]["generated_tokens"]
    if group == "memory" and tokens != 64:
        raise RuntimeError(f"the answer ended after {tokens} tokens instead of 64")


def python_peer(name: str, dtype: str, group: str, settings: Settings) -> list[Sample]:
    command = [str(settings.work / "venv/bin/python"), str(HERE / f"{name}_peer.py"), "--work", str(settings.work),
               "--dtype", dtype, "--threads", str(settings.threads)]
    as_printed = lambda done: json.loads(done.stdout.strip().splitlines()[-1])
    if group == "stages":
        return [Sample([*command, "stages", "--only", ",".join(settings.only), "--tiles", str(settings.tiles),
                        "--decode-tokens", str(settings.decode_tokens)], as_printed)]
    if group == "processor":
        return [Sample([*command, "processor", str(settings.work / "inputs/photo.jpg")], as_printed)]
    file, tokens = inputs(settings, group)
    return [Sample([*command, "answer", str(file), "--new-tokens", str(tokens)], whole(group))]


def transformers(dtype: str, group: str, settings: Settings) -> list[Sample]:
    return python_peer("transformers", dtype, group, settings) if dtype in ("f32", "bf16") else []


def openvino(dtype: str, group: str, settings: Settings) -> list[Sample]:
    return python_peer("openvino", dtype, group, settings) if group != "processor" else []


def llama(dtype: str, group: str, settings: Settings) -> list[Sample]:
    """Text by llama-bench, pictures by llama-mtmd-cli; no 4-bit vision, no f32, no video."""
    kinds = {"bf16": ("bf16", "bf16"), "q8": ("q8_0", "q8_0"), "q4": ("q4_0", "q8_0")}
    if dtype not in kinds or group in ("video", "processor"):
        return []
    text, vision = (settings.work / f"gguf/{part}-{kind}.gguf" for part, kind in zip(("text", "vision"), kinds[dtype]))
    programs, threads = settings.work / "llama.cpp/bin", ["-t", str(settings.threads)]

    def answer(group: str, tokens: int, read: Callable[[Finished], Figures]) -> Sample:
        return Sample([str(programs / "llama-mtmd-cli"), "-m", str(text), "--mmproj", str(vision), "--image",
                       str(inputs(settings, group)[0]), "-p", QUESTION, "-n", str(tokens), "--ignore-eos", "--temp", "0",
                       "-c", "2048", "--no-warmup", *threads], read)

    if group != "stages":
        return [answer(group, inputs(settings, group)[1], whole(group))]
    bench = [str(programs / "llama-bench"), "-m", str(text), *threads, "-r", "3", "-o", "json"]
    stages = {
        "vision": answer("image", 1, read_mtmd),
        "prefill": Sample([*bench, "-p", "1100,2200", "-n", "0"], read_llama_bench),
        "decode": Sample([*bench, "-p", "0", "-n", str(settings.decode_tokens), "-d", "0,1100,2200"], read_llama_bench),
    }
    return [stages[word] for word in settings.only]


def read_llama_bench(done: Finished) -> Figures:
    figures = {}
    for row in json.loads(done.stdout):
        name = f"prefill-{row['n_prompt']}" if row["n_prompt"] else f"decode-{row['n_depth']}"
        figures[name] = row["avg_ts"]
    return figures


def read_mtmd(done: Finished) -> Figures:
    """The vision tower's milliseconds a tile, as the tool prints them."""
    printed = done.stdout + done.stderr
    times = [float(value) for value in re.findall(r"encod\w+ (?:done )?in (\d+) ms", printed)]
    if not times:
        raise RuntimeError("llama-mtmd-cli printed no time for its pictures")
    return {"vision": sorted(times)[len(times) // 2]}
