"""The table: ours, the peer's two ways, and the ratio to the better."""

import json
import statistics
from pathlib import Path

# Name in the raw results, title, unit, whether more is better, decimals, what the issue of the GPU set as the aim.
ROWS = [
    ("vision-64", "vision, 64 frames", "frames/s", True, 0, 2400),
    ("vision-1", "vision, one tile", "ms", False, 2, 1.0),
    ("prefill-1148", "prefill of 1,148", "ms", False, 2, 2.5),
    ("prefill-5000", "prefill of 5,000", "ms", False, 2, 5000 / 600),
    ("decode-104", "decode, one sequence after 104", "tokens/s", True, 0, 3500),
    ("decode-1148", "decode, one sequence after 1,148", "tokens/s", True, 0, None),
    ("decode-64x104", "decode, 64 sequences after 104", "tokens/s", True, 0, 90_000),
    ("decode-256x104", "decode, 256 sequences after 104", "tokens/s", True, 0, 200_000),
    ("picture-17", "picture of 17 tiles + 64 tokens", "ms", False, 1, 40),
    ("video-64", "video of 64 frames + 64 tokens", "ms", False, 1, 75),
    ("memory", "the same, most memory of the program's allocations", "MiB", False, 0, 900),
    ("driver-memory", "the same, most memory by the driver's count", "MiB", False, 0, None),
]
PEERS = ("eager", "compiled")


def write(folder: Path) -> None:
    results = json.loads((folder / "gpu.json").read_text())
    values: dict[tuple[str, str], list[float]] = {}
    for sample in results["samples"]:
        for figure, value in sample["figures"].items():
            values.setdefault((sample["peer"], figure), []).append(value)
    lines = ["# One GPU, bf16: ours and transformers", "",
             f"Measured {results['started']}; median (least–most) of the runs, each a median itself. [machine.md](machine.md) has the",
             "versions, gpu.json every sample with its command.", ""]
    if flops := values.get(("ours", "peak_flops")):
        bandwidth = max(values["ours", "peak_bytes"])
        lines += [f"The card in this run: {max(flops) / 1e12:.0f} TFLOP/s in products, {bandwidth / 1e12:.2f} TB/s copied.", ""]
    lines += ["| figure | unit | ours | eager | compiled | ours over the better | aim |", "|---|---|---|---|---|---|---|"]
    for name, title, unit, more, decimals, aim in ROWS:
        found = {peer: values.get((peer, name)) for peer in ("ours", *PEERS)}
        cells = [cell(found[peer], decimals) for peer in ("ours", *PEERS)]
        aim_cell = "" if aim is None else f"{'≥' if more else '≤'} {aim:,.{decimals}f}"
        lines.append(f"| {title} | {unit} | {' | '.join(cells)} | {ratio(found, more)} | {aim_cell} |")
    if results["failures"]:
        lines += ["", "Left out:", "", *(f"- {name}: {text}" for name, text in results["failures"].items())]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def cell(values: list[float] | None, decimals: int) -> str:
    if not values:
        return ""
    middle, least, most = statistics.median(values), min(values), max(values)
    spread = "" if len(values) == 1 else f" ({least:,.{decimals}f}–{most:,.{decimals}f})"
    return f"{middle:,.{decimals}f}{spread}"


def ratio(found: dict[str, list[float] | None], more: bool) -> str:
    """How many times better ours is than the better peer; below 1 is a loss."""
    peers = [statistics.median(found[peer]) for peer in PEERS if found[peer]]
    if not found["ours"] or not peers:
        return ""
    ours = statistics.median(found["ours"])
    return f"{ours / max(peers):.2f}" if more else f"{min(peers) / ours:.2f}"
