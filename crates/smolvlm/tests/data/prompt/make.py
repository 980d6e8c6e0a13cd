#!/usr/bin/env python3
"""Writes the tables beside this script from the Python reference.

    python make.py REFERENCE      (transformers 5.23.0, num2words 0.5.14)

REFERENCE is the output of the project's reference generator at its tiny size: a checkpoint with random weights, and for
each conversation its rendered prompt, expanded prompt and ids.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from num2words import num2words  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

HERE = Path(__file__).parent
PROBES = ["2024", "a 12:30 b", "  two  spaces", "\n\n", "\n", "it's they're we'll", "<video>", "<row_7_col_1>",
          "Frame from 00:01:<fake_token_around_image><global-img><image>", "<row_1_col_1><image>\n<fake_token_around_image>",
          "<|im_start|>User: hi<end_of_utterance>\nAssistant:", "東京🙂", "tab\tx", "Ünïcödé", "", "\u0000\u007f\u00ad\r"]


def case(path):
    made = json.loads(path.read_text())
    kept = {k: made[k] for k in ("name", "messages", "rendered_prompt", "expanded_prompt")}
    kept["input_ids"] = [[i for i, real in zip(row, mask) if real]
                         for row, mask in zip(made["input_ids"], made["attention_mask"])]
    kept["grids"] = [list(zip(r, c)) for r, c in zip(made["rows"], made["cols"])] if made.get("rows") else None
    kept["videos"] = [dict(times=v["timestamps_sec"], duration=v["duration"]) for v in made.get("videos", [])]
    return kept


def main():
    reference = Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(str(reference / "checkpoint"))
    numbers = [*range(0, 131), 199, 200, 256, 300, 500, 999, 1000, 1001, 1024, 1100, 12345, 65536, 10**6 + 1, 10**9 + 10**3, 2**64 - 1]
    tables = {
        "cases": [case(path) for path in sorted((reference / "cases").glob("*.json"))],
        "words": [[n, num2words(n)] for n in numbers],
        "durations": [[s, str(timedelta(seconds=int(s)))] for s in (0.0, 5.99, 59.999, 60.0, 3725.0, 86399.9, 86400.0, 90061.0, 864059.0)],
        "probes": [[text, ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)]
                   for text in PROBES for ids in [tokenizer(text)["input_ids"]]],
    }
    rows = (f'"{name}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in table) + "\n]"
            for name, table in tables.items())
    (HERE / "tables.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    for name in ("tokenizer.json", "chat_template.json"):
        content = json.loads((reference / "checkpoint" / name).read_text(encoding="utf-8"))
        (HERE / name).write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
