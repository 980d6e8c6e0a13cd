"""Conversations in the model card's schema, with paths relative to the file that holds them."""

from pathlib import Path


def resolve(conversation: list[dict], folder: Path) -> list[dict]:
    """Relative paths made absolute; a plain string becomes one text block, as the model card means it."""
    out = []
    for message in conversation:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        out.append({"role": message["role"], "content": [_resolve_block(b, folder) for b in blocks]})
    return out


def _resolve_block(block: dict, folder: Path) -> dict:
    if "path" not in block or Path(block["path"]).is_absolute():
        return block
    return {**block, "path": str((folder / block["path"]).resolve())}


def blocks(conversation: list[dict], kind: str) -> list[dict]:
    """The image or video blocks in prompt order."""
    return [b for message in conversation for b in message["content"] if b["type"] == kind]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image(path: str) -> dict:
    return {"type": "image", "path": path}


def video(path: str) -> dict:
    return {"type": "video", "path": path}


def user(*content: dict) -> dict:
    return {"role": "user", "content": list(content)}
