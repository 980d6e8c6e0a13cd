"""The rounds: ours, the peers, ours, the peers, …; every sample is kept as it came."""

import json
import os
import sys
import time
from pathlib import Path

from .peers import Sample, Settings, finish, samples

# Figures by the words of `--only`, with the group of processes that gives them.
FIGURES = {
    "vision": "stages", "prefill": "stages", "decode": "stages", "first-token": "image", "video": "video", "memory": "memory",
    "processor": "processor",
}
DTYPES = ("f32", "bf16", "q8", "q4")
# Once is enough: the image processor does not depend on the model's number format. The first of these that is asked for.
ONE_DTYPE = {"processor": ("bf16", "f32")}


def run(settings: Settings, peers: list[str], dtypes: list[str], only: list[str], rounds: int, out: Path) -> None:
    """Every group of figures, number format and peer once a round, and `cpu.json` after each sample."""
    settings.only = tuple(word for word in FIGURES if word in only and FIGURES[word] == "stages")
    cpus = sorted(os.sched_getaffinity(0))[:settings.threads]
    os.sched_setaffinity(0, cpus)
    groups = list(dict.fromkeys(FIGURES[word] for word in only))
    results = {"threads": settings.threads, "started": time.strftime("%Y-%m-%d %H:%M"), "samples": [], "failures": {}}
    for round_ in range(rounds):
        for dtype in dtypes:
            for group in groups:
                if dtype != next((one for one in ONE_DTYPE.get(group, ()) if one in dtypes), dtype):
                    continue
                for peer in peers:
                    for number, sample in enumerate(samples(peer, dtype, group, settings)):
                        one(results, settings, sample, (peer, dtype, group, number), round_)
                        write(results, settings, out)


def one(results: dict, settings: Settings, sample: Sample, key: tuple, round_: int) -> None:
    """Runs one sample, unless its like has failed before."""
    name = " ".join(map(str, key))
    if name in results["failures"]:
        return
    print(f"round {round_ + 1}: {name}", end="  ", file=sys.stderr, flush=True)
    load = os.getloadavg()[0]
    try:
        done = finish(sample.command, settings.threads, settings.work / "log" / name.replace(" ", "-"))
        figures = sample.read(done)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        results["failures"][name] = {"command": sample.command, "error": str(error)}
        print(f"left out: {error}", file=sys.stderr)
        return
    results["samples"].append({
        "round": round_, "peer": key[0], "dtype": key[1], "group": key[2], "command": sample.command, "figures": figures,
        "process_seconds": round(done.seconds, 4), "process_peak_mib": round(done.peak_mib, 1), "load_before": round(load, 2),
    })
    shown = "  ".join(f"{figure} {value:.4g}" for figure, value in figures.items() if not figure.startswith("peak "))
    print(shown, file=sys.stderr, flush=True)


def write(results: dict, settings: Settings, out: Path) -> None:
    """The results without this machine's paths."""
    text = json.dumps(results, indent=1)
    for path, name in ((settings.work, "WORK"), (settings.ours, "smolvlm"), (Path(__file__).parent, "benchsuite/cpu")):
        text = text.replace(str(path), name)
    (out / "cpu.json").write_text(text + "\n")
