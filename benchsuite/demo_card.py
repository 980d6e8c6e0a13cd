#!/usr/bin/env python3
"""Writes the model card of the demonstration model: README.md and loss.svg beside its weights.

    smolvlm evaluate scenes --model models/demo --samples 1000 --compare-formats f32,bf16,q8,q4 --out report
    python benchsuite/demo_card.py models/demo --run RUN --config RUN.yaml --report report

RUN is the folder of the training run, with its log.jsonl; the configuration is copied into the card as it stands. Needs Python alone.
"""

import argparse
import json
import os
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 640, 240, 48, 28, 10
POINTS = 200

CARD = """# The demonstration model

A SmolVLM2 of {parameters} parameters, trained from nothing on [drawn pictures](../../docs/scenes.md). It answers the questions of that page
about pictures and clips of that kind, and nothing else: it knows 960 tokens, nine colours, nine shapes, and capitals. It is there so
that the engine can be tried, measured and taught without fetching anything.

    smolvlm demo
    smolvlm run --model models/demo --no-split --image PICTURE "What is where?"

| | |
|---|---|
| weights | {weights}, {stored} |
| vision tower | {vision} |
| text model | {text} |
| a picture | {tile_tokens} tokens in one tile of {tile} × {tile} pixels; up to 17 tiles when split |
| context | {positions} tokens |
| training | {steps} steps, {tokens} tokens, loss {first:.2f} to {last:.3f}{hours} |
| licence | Apache-2.0; the fonts it has seen are free ones, with their licences in `crates/smolvlm-scenes/fonts` |

## Report card

{report}
Questions about held-out kinds of pictures ([what is held out](../../docs/scenes.md#what-is-kept-out-of-training)). *Chance* is what the
text of the questions alone gives away to somebody who knows how the data is made; the last two columns are this model's own answers
without sight.

## Recipe

```yaml
{recipe}
```

![Loss over the steps of training](loss.svg)

This card was written by `benchsuite/demo_card.py`.
"""


def write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read_log(run: Path) -> list[dict]:
    """Steps in order; a step that was taken again counts once, as it was taken last."""
    steps = {}
    for number, line in enumerate((run / "log.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        step = json.loads(line)
        if "evaluation" in step:
            continue
        for field in ("step", "loss"):
            if field not in step:
                raise SystemExit(f"{run / 'log.jsonl'}: line {number}: expected the field {field}, found {sorted(step)}")
        steps[step["step"]] = step
    if not steps:
        raise SystemExit(f"{run / 'log.jsonl'}: expected a line for each step, found none")
    return [steps[step] for step in sorted(steps)]


def thinned(steps: list[dict]) -> list[tuple[float, float]]:
    """Mean loss of some hundred stretches of equal length."""
    size = max(1, len(steps) // POINTS)
    stretches = [steps[at:at + size] for at in range(0, len(steps), size)]
    mean = lambda stretch, field: sum(step[field] for step in stretch) / len(stretch)  # noqa: E731
    return [(mean(stretch, "step"), mean(stretch, "loss")) for stretch in stretches]


def curve(steps: list[dict]) -> str:
    """The loss as a drawing."""
    points = thinned(steps)
    last, most = max(1.0, points[-1][0]), max(loss for _, loss in points) or 1.0
    across = lambda step: LEFT + step / last * (WIDTH - LEFT - EDGE)  # noqa: E731
    down = lambda loss: EDGE + (1 - loss / most) * (HEIGHT - BOTTOM - EDGE)  # noqa: E731
    line = " ".join(f"{across(step):.1f},{down(loss):.1f}" for step, loss in points)
    marks = "".join(
        f'<path d="M{LEFT} {down(loss):.1f}H{WIDTH - EDGE}" stroke="#ccc"/>'
        f'<text x="{LEFT - 6}" y="{down(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>'
        for loss in (0, most / 2, most))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{marks}'
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 8}" text-anchor="end">{round(last):,} steps</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">loss, nats a token</text></svg>\n')


def parameters(weights: Path) -> int:
    """Numbers in a safetensors file."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for extent in tensor["shape"]:
                count *= extent
            total += count
    return total


def sizes(config: dict) -> dict:
    vision, text = config["vision_config"], config["text_config"]
    side = vision["image_size"] // vision["patch_size"] // config["scale_factor"]
    return {
        "vision": f"{vision['num_hidden_layers']} layers of width {vision['hidden_size']}, {vision['num_attention_heads']} heads, "
                  f"MLP {vision['intermediate_size']}, patches of {vision['patch_size']} pixels",
        "text": f"{text['num_hidden_layers']} layers of width {text['hidden_size']}, {text['num_attention_heads']} heads on "
                f"{text['num_key_value_heads']} of keys and values, MLP {text['intermediate_size']}, vocabulary {text['vocab_size']}",
        "tile": vision["image_size"], "tile_tokens": side * side, "positions": f"{text['max_position_embeddings']:,}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the model's folder, where the card goes")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--config", type=Path, required=True, help="the run's file")
    parser.add_argument("--report", type=Path, required=True, help="folder with report.md")
    arguments = parser.parse_args()
    steps = read_log(arguments.run)
    config = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))
    weights = arguments.model / "model.safetensors"
    seconds = sum(step.get("seconds", 0) for step in steps)
    card = CARD.format(
        parameters=f"{parameters(weights):,}", weights=f"{weights.stat().st_size / 2**20:.1f} MiB",
        stored=config.get("torch_dtype", config.get("dtype", "bfloat16")), steps=f"{len(steps):,}",
        tokens=f"{sum(step.get('tokens', 0) for step in steps):,}", first=steps[0]["loss"], last=steps[-1]["loss"],
        hours=f", {seconds / 60:.0f} minutes" if seconds else "", recipe=arguments.config.read_text(encoding="utf-8").strip(),
        report=(arguments.report / "report.md").read_text(encoding="utf-8"), **sizes(config))
    write(arguments.model / "loss.svg", curve(steps))
    write(arguments.model / "README.md", card)


if __name__ == "__main__":
    main()
