"""Runs ours and the peer in turns and keeps every sample."""

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Seconds of one process.
LIMIT = int(os.environ.get("BENCHSUITE_LIMIT", "600"))
# What ours prints, by its stage or its answer, and the figure's name here.
STAGES = {"prefill of 1148": "prefill-1148", "prefill of 5000": "prefill-5000", "decode after 104": "decode-104",
          "decode after 1148": "decode-1148", "decode of 64 after 104": "decode-64x104", "decode of 256 after 104": "decode-256x104"}
LENGTHS = {"prefill-1148": 1148, "prefill-5000": 5000}
ANSWERS = {"picture": "picture-17", "video": "video-64"}


def run(ours: Path, checkpoint: Path, rounds: int, peers: list[str], out: Path) -> None:
    results = {"started": time.strftime("%Y-%m-%d %H:%M"), "samples": [], "failures": {}}
    our_turns = [our_stages, our_answers]
    turns = our_turns + [turn for way in peers for turn in (partial(peer, way), *our_turns)]
    for turn in turns * rounds:
        turn(ours, checkpoint, results)
        (out / "gpu.json").write_text(json.dumps(results, indent=1))


def our_stages(ours: Path, checkpoint: Path, results: dict) -> None:
    """64 tiles at once, prompts, one sequence and many."""
    command = [ours, "bench", "--device", "cuda", "--model", checkpoint, "--tiles", "64", "--frames", "64", "--prompt-tokens",
               "104,1148,5000", "--sequences", "64,256", "--decode-tokens", "64", "--repeat", "7", "--json"]
    printed, _ = start("ours", command, results)
    if not printed:
        return
    value = json.loads(printed)
    found = {figure["stage"]: figure["median"] for figure in value["figures"]}
    figures = {name: found[stage] for stage, name in STAGES.items()}
    # A prompt's time; the tokens of a second are the same figure.
    figures |= {name: 1e3 * length / figures[name] for name, length in LENGTHS.items()}
    figures["vision-64"] = 1e3 / found["vision"]
    keep("ours", command, figures | {"peak_flops": value["peak"]["flops"], "peak_bytes": value["peak"]["read_bytes_per_second"]}, results)


def our_answers(ours: Path, checkpoint: Path, results: dict) -> None:
    """One tile, answers from bytes to the last token, and the memory of nothing but that."""
    command = [ours, "bench", "--device", "cuda", "--model", checkpoint, "--tiles", "1", "--frames", "64", "--prompt-tokens",
               "104", "--decode-tokens", "64", "--repeat", "7", "--json"]
    printed, driver = start("ours", command, results)
    if not printed:
        return
    value = json.loads(printed)
    figures = {ANSWERS[answer["what"]]: 1e3 * answer["last_token_seconds"] for answer in value["answers"]}
    figures["vision-1"] = next(figure["median"] for figure in value["figures"] if figure["stage"] == "vision")
    figures |= {"memory": value["peak_device_memory_bytes"] / 2**20, "driver-memory": driver}
    keep("ours", command, figures, results)


def peer(way: str, _: Path, checkpoint: Path, results: dict) -> None:
    """Eager or compiled, a process of its own. It prints all figures so far after each, so that what it did in time counts."""
    command = [sys.executable, HERE / "transformers_peer.py", "--checkpoint", checkpoint, way]
    printed, _ = start(way, command, results)
    if printed:
        keep(way, command, json.loads(printed.splitlines()[-1]), results)


def keep(peer_name: str, command: list, figures: dict, results: dict) -> None:
    failed = figures.pop("failed", {})
    results["failures"] |= {f"{peer_name}: {name}": text for name, text in failed.items()}
    results["samples"].append({"peer": peer_name, "command": [Path(str(word)).name for word in command], "figures": figures})


def start(name: str, command: list, results: dict) -> tuple[str, float]:
    """What it printed, and the most MiB that the driver counted above what was there before."""
    print(f"{time.strftime('%H:%M:%S')} {name} …", file=sys.stderr, flush=True)
    watch = Watch()
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as stopped:
        results["failures"][name] = f"not through after {LIMIT} s: figures are missing"
        return (stopped.stdout or b"").decode().rpartition("\n")[0], watch.most()
    finally:
        watch.stop()
    if done.returncode != 0:
        results["failures"][name] = done.stderr.strip()[-600:]
        return "", 0.0
    return done.stdout, watch.most()


class Watch:
    """The GPU's memory in use, by the driver, every 50 ms."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0", "-lms", "50"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        while not self.seen and self.process.poll() is None:
            time.sleep(0.02)

    def read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.seen.append(float(line))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def most(self) -> float:
        return max(self.seen) - self.seen[0] if self.seen else 0.0
