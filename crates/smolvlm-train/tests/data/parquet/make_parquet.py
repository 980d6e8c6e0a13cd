"""Parquet files in the layout that `datasets` gives them, small enough to keep.

    pip install pyarrow==26.0.1
    python make_parquet.py      # writes the .parquet files beside this one

`datasets.Image()` is stored as struct<bytes: binary, path: string>, a list of them as list<struct<…>>; row groups of pictures have
100 rows there, two here.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
INPUTS = HERE.parents[4] / "goldens" / "tiny" / "inputs"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BLOCK = pa.struct([("index", pa.int64()), ("text", pa.string()), ("type", pa.string())])


def picture(name):
    return {"bytes": (INPUTS / name).read_bytes(), "path": name}


def ask(words, *indices):
    blocks = [{"type": "image", "index": i, "text": None} for i in indices]
    return {"role": "user", "content": blocks + [{"type": "text", "text": words, "index": None}]}


def answer(words):
    return {"role": "assistant", "content": [{"type": "text", "text": words, "index": None}]}


def messages():
    rows = [
        ([ask("What is this?", 0), answer("A square.")], [picture("square_48.png")]),
        ([ask("Compare.", 1, 0), answer("The second is a square.")], [picture("square_48.png"), picture("thin_3x90.png")]),
        ([ask("Hello"), answer("Hi.")], []),
        ([ask("Which file?", 0), answer("One beside this.")], [{"bytes": None, "path": "square_48.png"}]),
        ([ask("And?", 0), answer("A line.")], [picture("thin_3x90.png")]),
    ]
    schema = pa.schema([
        ("id", pa.int64()),
        ("messages", pa.list_(pa.struct([("content", pa.list_(BLOCK)), ("role", pa.string())]))),
        ("images", pa.list_(IMAGE)),
    ])
    columns = {"id": list(range(len(rows))), "messages": [m for m, _ in rows], "images": [i for _, i in rows]}
    return pa.table(columns, schema=schema)


def conversations(count):
    turns = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    rows = [[{"from": "human", "value": f"<image>\nNumber {i}?"}, {"from": "gpt", "value": f"It is {i}."}] for i in range(count)]
    schema = pa.schema([("image", IMAGE), ("conversations", turns), ("unused", pa.map_(pa.string(), pa.int32()))])
    images = [picture("square_48.png") if i % 2 else picture("thin_3x90.png") for i in range(count)]
    return pa.table({"image": images, "conversations": rows, "unused": [[("a", 1)]] * count}, schema=schema)


def main():
    pq.write_table(messages(), HERE / "messages.parquet", row_group_size=2, compression="snappy")
    for compression, count in [("zstd", 7), ("gzip", 2), ("lz4", 2), ("none", 2)]:
        pq.write_table(conversations(count), HERE / f"conversations_{compression}.parquet", row_group_size=3, compression=compression)


if __name__ == "__main__":
    main()
