"""JSON, safetensors and digests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def write_json(path: Path, value) -> None:
    """One value per file, indented, except that lists of plain numbers stay on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_render(plain(value), 0) + "\n", encoding="utf-8")


def _render(value, depth: int) -> str:
    if isinstance(value, dict) and value:
        pad = " " * (depth + 1)
        body = ",\n".join(f"{pad}{json.dumps(k, ensure_ascii=False)}: {_render(v, depth + 1)}" for k, v in value.items())
        return "{\n" + body + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list, str)) for v in value):
        pad = " " * (depth + 1)
        if all(isinstance(v, dict) and not any(isinstance(w, dict) for w in v.values()) for v in value) and len(value) > 20:
            body = ",\n".join(pad + json.dumps(v, ensure_ascii=False) for v in value)  # a table: one row a line
        else:
            body = ",\n".join(pad + _render(v, depth + 1) for v in value)
        return "[\n" + body + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)


def write_tensors(path: Path, tensors: dict, metadata: dict[str, str] | None = None) -> None:
    """Tensors or arrays, made contiguous."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            tensor = torch.from_numpy(np.ascontiguousarray(tensor))
        ready[name] = tensor.detach().contiguous().clone()
    save_file(ready, str(path), metadata=metadata)


def plain(value):
    """numpy and torch scalars and arrays as JSON can hold them."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def sha256(data: bytes | np.ndarray | torch.Tensor | Path) -> str:
    """Digest of bytes, of a file, or of an array's values in C order."""
    if isinstance(data, Path):
        data = data.read_bytes()
    elif isinstance(data, torch.Tensor):
        data = data.contiguous().numpy().tobytes()
    elif isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).tobytes()
    return hashlib.sha256(data).hexdigest()
