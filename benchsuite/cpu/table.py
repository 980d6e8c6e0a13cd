"""The table: ours, each peer, the ratio to the best of them, and the share of the machine's limit."""

import json
import statistics
from pathlib import Path

from .peers import PEERS
from .work import floors

# In the table's order: name in the raw results, title, unit, whether more is better, decimals.
ROWS = [
    ("vision", "vision + connector", "ms per tile", False, 1),
    ("prefill-1100", "prefill of 1,100", "tokens/s", True, 0),
    ("prefill-2200", "prefill of 2,200", "tokens/s", True, 0),
    ("decode-0", "decode after 0", "tokens/s", True, 1),
    ("decode-1100", "decode after 1,100", "tokens/s", True, 1),
    ("decode-2200", "decode after 2,200", "tokens/s", True, 1),
    ("image", "1920×1080 JPEG to first token, process", "s", False, 2),
    ("video", "10 s of 720p H.264 to first token, process", "s", False, 2),
    ("memory", "17 tiles + 64 tokens, peak memory", "MiB", False, 0),
    ("processor", "1920×1080 JPEG to tensors", "ms", False, 1),
]
# The processors that ours is compared with, each in its own row.
PROCESSORS = {"processor-torchvision": "torchvision's processor", "processor-pil": "Pillow's processor"}


def write(folder: Path) -> None:
    results = json.loads((folder / "cpu.json").read_text())
    values = collect(results["samples"])
    lines = [f"# CPU, {results['threads']} threads: ours and the peers", "",
             f"Measured {results['started']}; median (least–most) of the rounds. [machine.md](machine.md) has the versions,",
             "cpu.json every sample with its command.", ""]
    for dtype in dict.fromkeys(sample["dtype"] for sample in results["samples"]):
        lines += one_dtype(dtype, values)
    lines += processors(values) + left_out(results["failures"])
    (folder / "cpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def collect(samples: list[dict]) -> dict[tuple[str, str, str], list[float]]:
    """Values of all rounds by (peer, number format, figure)."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for sample in samples:
        for figure, value in sample["figures"].items():
            values.setdefault((sample["peer"], sample["dtype"], figure), []).append(value)
    return values


def one_dtype(dtype: str, values: dict) -> list[str]:
    peers = [peer for peer in PEERS if peer != "ours"]
    limits = floors(dtype, {figure.removeprefix("peak "): max(found) for (peer, of, figure), found in values.items()
                            if peer == "ours" and of == dtype and figure.startswith("peak ")})
    lines = [f"## {dtype}", "", f"| figure | unit | ours | {' | '.join(peers)} | ours over the best peer | share of the floor |",
             "|---|---|---|" + "---|" * len(peers) + "---|---|"]
    for name, title, unit, more, decimals in ROWS:
        found = {peer: values.get((peer, dtype, name)) for peer in PEERS}
        if name != "processor" and any(found.values()):
            cells = [cell(found[peer], decimals) for peer in PEERS]
            cells += [ratio(found, more), share(found["ours"], limits.get(name), more)]
            lines.append(f"| {title} | {unit} | {' | '.join(cells)} |")
    return [*lines, ""]


def cell(values: list[float] | None, decimals: int) -> str:
    if not values:
        return ""
    return "{:,.{d}f} ({:,.{d}f}–{:,.{d}f})".format(statistics.median(values), min(values), max(values), d=decimals)


def ratio(found: dict[str, list[float] | None], more: bool) -> str:
    """How many times better ours is than the best peer; below 1 is a loss."""
    ours = found.get("ours")
    peers = [statistics.median(values) for peer, values in found.items() if peer != "ours" and values]
    if not ours or not peers:
        return ""
    ours = statistics.median(ours)
    return f"{ours / max(peers):.2f}" if more else f"{min(peers) / ours:.2f}"


def share(ours: list[float] | None, floor: float | None, more: bool) -> str:
    """Of the machine's limit; the limit itself beside it."""
    if not ours or not floor:
        return ""
    reached = statistics.median(ours) / floor
    return f"{100 * (reached if more else 1 / reached):.0f} % of {floor:,.0f}"


def processors(values: dict) -> list[str]:
    ours = next((found for (peer, _, name), found in values.items() if peer == "ours" and name == "processor"), None)
    lines = ["## Image processor, 1920×1080 JPEG to tensors", "", "| which | ms | ours over it |", "|---|---|---|"]
    if ours:
        lines.append(f"| ours | {cell(ours, 1)} | |")
    for name, title in PROCESSORS.items():
        if theirs := next((found for (_, _, figure), found in values.items() if figure == name), None):
            lines.append(f"| {title} | {cell(theirs, 1)} | {ratio({'ours': ours, name: theirs}, False)} |")
    return [*lines, ""] if len(lines) > 4 else []


def left_out(failures: dict) -> list[str]:
    return ["## Left out", "", *(f"- {name}: {failure['error']}" for name, failure in failures.items())] if failures else []
