#!/usr/bin/env python3
"""The Python reference's figures on one GPU, as one line of JSON.

    python benchsuite/gpu/transformers_peer.py --checkpoint DIR eager|compiled

Everything is already on the GPU in bf16 when a clock starts. A figure that fails is left out and its error reported.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForImageTextToText

NEW_TOKENS = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("way", choices=FIGURES)
    args = parser.parse_args()
    torch.manual_seed(1)
    torch._dynamo.config.cache_size_limit = 64
    before = driver_memory()
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=torch.bfloat16).eval().to(DEVICE)
    # Answers end after so many tokens, whatever they say.
    model.generation_config.eos_token_id = None
    figures: dict = {"failed": {}}
    with torch.inference_mode():
        for name, measured in FIGURES[args.way].items():
            started = time.perf_counter()
            try:
                figures[name] = measured(model, args.new_tokens)
            except Exception as error:  # noqa: BLE001  (a peer's failure is a result)
                figures["failed"][name] = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{name}: {figures.get(name)}, {time.perf_counter() - started:.1f} s in all", file=sys.stderr, flush=True)
            if name == "video-64" and DEVICE == "cuda":
                # The first figure, so that this is its memory and nobody else's.
                figures["memory"] = torch.cuda.max_memory_allocated() / 2**20
                figures["driver-memory"] = driver_memory() - before
            print(json.dumps(figures), flush=True)


def driver_memory() -> float:
    """MiB of the GPU in use, by the driver's count."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) if DEVICE == "cuda" else 0.0


def median_ms(work: Callable[[], object], repeat: int = 7, warm: int = 2) -> float:
    times = []
    for i in range(warm + repeat):
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        if i >= warm:
            times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def token_ids(count: int) -> list[int]:
    """Ordinary tokens, no two neighbours alike: those of `smolvlm bench`."""
    return [i * 7919 % 39_999 + 1 for i in range(count)]


def prompts(model: torch.nn.Module, sequences: int, length: int) -> torch.Tensor:
    words = min(39_999, model.config.image_token_id)
    return torch.tensor([[id % words for id in token_ids(length)]] * sequences, device=DEVICE)


def tiles(model: torch.nn.Module, count: int) -> torch.Tensor:
    size = model.config.vision_config.image_size
    return (torch.rand((count, 3, size, size), device=DEVICE) * 2 - 1).to(torch.bfloat16)


def tower(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Tiles to features without the search for padding, which costs PyTorch a synchronisation."""
    vision, connector = model.model.vision_model, model.model.connector
    return lambda pixels: connector(vision(pixel_values=pixels).last_hidden_state)


def vision(model: torch.nn.Module, count: int, compiled: str | None) -> float:
    """Milliseconds."""
    encode, pixels = tower(model), tiles(model, count)
    if compiled:
        encode = torch.compile(encode, mode=compiled)
    return median_ms(lambda: encode(pixels), warm=3)


def frames_a_second(model: torch.nn.Module, compiled: str | None) -> float:
    return 64e3 / vision(model, 64, compiled)


def prefill(model: torch.nn.Module, length: int) -> float:
    """Milliseconds to the logits of the last token."""
    ids = prompts(model, 1, length)
    return median_ms(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))


def decode(model: torch.nn.Module, sequences: int, length: int, new_tokens: int, **options: object) -> float:
    """Tokens a second of all sequences after the first one's."""
    ids = prompts(model, sequences, length)
    generate = lambda count: model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                            max_new_tokens=count, **options)
    # The cache's length is compiled in: the same for both.
    one = median_ms(lambda: generate(1), repeat=3)
    all_of_them = median_ms(lambda: generate(new_tokens + 1), repeat=3)
    return 1e3 * sequences * new_tokens / (all_of_them - one)


def decode_static(model: torch.nn.Module, length: int, new_tokens: int) -> float:
    """A static cache and a compiled step that picks its own next token, replayed as a CUDA graph."""
    from transformers import StaticCache

    ids = prompts(model, 1, length)
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + new_tokens + 8)
    text, head = model.model.text_model, model.lm_head

    def step(token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        out = text(input_ids=token, past_key_values=cache, position_ids=position, use_cache=True)
        return head(out.last_hidden_state[:, -1:]).argmax(-1)

    fast = torch.compile(step, mode="reduce-overhead")

    def rate() -> float:
        cache.reset()
        token = step(ids, torch.arange(length, device=DEVICE)[None]).clone()
        synchronise()
        started = time.perf_counter()
        for i in range(new_tokens):
            token = fast(token, torch.tensor([[length + i]], device=DEVICE)).clone()
        synchronise()
        return new_tokens / (time.perf_counter() - started)

    return statistics.median([rate() for _ in range(5)][2:])


def answer(model: torch.nn.Module, count: int, text: int, new_tokens: int) -> float:
    """Milliseconds from tiles on the GPU to the last token."""
    pixels = tiles(model, count)[None]
    each = (model.config.vision_config.image_size // model.config.vision_config.patch_size // model.config.scale_factor) ** 2
    image = torch.full((1, count * each), model.config.image_token_id, device=DEVICE)
    ids = torch.cat([image, prompts(model, 1, text)], dim=1)
    work = lambda: model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, do_sample=False,
                                  max_new_tokens=new_tokens)
    return median_ms(work, repeat=3, warm=1)


FIGURES = {
    "eager": {
        "video-64": lambda model, new: answer(model, 64, 60 + 14 * 64, new),
        "picture-17": lambda model, new: answer(model, 17, 60, new),
        "vision-64": lambda model, _: frames_a_second(model, None),
        "vision-1": lambda model, _: vision(model, 1, None),
        "prefill-1148": lambda model, _: prefill(model, 1148),
        "prefill-5000": lambda model, _: prefill(model, 5000),
        "decode-104": lambda model, new: decode(model, 1, 104, new),
        "decode-1148": lambda model, new: decode(model, 1, 1148, new),
        "decode-64x104": lambda model, new: decode(model, 64, 104, new),
        "decode-256x104": lambda model, new: decode(model, 256, 104, new),
    },
    "compiled": {
        "vision-64": lambda model, _: frames_a_second(model, "default"),
        "decode-104": lambda model, new: decode_static(model, 104, new),
        "vision-1": lambda model, _: vision(model, 1, "max-autotune"),
        "decode-1148": lambda model, new: decode_static(model, 1148, new),
    },
}

if __name__ == "__main__":
    main()
