"""What must be computed, and how fast this machine could do it at most: SmolVLM2-256M's sizes.

The peaks are those that `smolvlm bench --json` measures: operations a second in the number format's matrices (`flops`, and
`int8_ops` where it is told), and bytes a second from memory.
"""

TILE_MATRICES, TILE_ATTENTION = 0.174e12, 0.039e12
LAYERS, HEADS_WIDTH = 30, 576
LAYER_WEIGHTS, HEAD_WEIGHTS = 106.2e6, 576 * 49_280
# Keys and values of one token, in numbers.
CACHE = 2 * LAYERS * 3 * 64
# Bytes of one weight: in the layers, in the head. q4 has a factor of 8 bits for 32 weights; its head stays in 8 bits.
WEIGHT_BYTES = {"f32": (4, 4), "bf16": (2, 2), "q8": (1, 1), "q4": (0.5 + 1 / 32, 1)}
DECODED = 32


def floors(dtype: str, peaks: dict[str, float]) -> dict[str, float]:
    """The best possible value of each figure; empty where the peaks are unknown."""
    limits = {}
    if flops := peaks.get("flops"):
        matrices = matrix_peak(dtype, peaks)
        if matrices:
            limits["vision"] = 1e3 * (TILE_MATRICES / matrices + TILE_ATTENTION / flops)
            for tokens in (1100, 2200):
                limits[f"prefill-{tokens}"] = tokens / prefill_seconds(tokens, matrices, flops)
    if bandwidth := peaks.get("read_bytes_per_second"):
        for context in (0, 1100, 2200):
            limits[f"decode-{context}"] = bandwidth / decode_bytes(dtype, context)
    return limits


def matrix_peak(dtype: str, peaks: dict[str, float]) -> float | None:
    """Quantised matrices run on int8; without that peak there is no floor to compare with."""
    if dtype in ("f32", "bf16"):
        return peaks["flops"]
    return next((value for name, value in peaks.items() if "int8" in name), None)


def prefill_seconds(tokens: int, matrices: float, attention: float) -> float:
    products = 2 * (tokens * LAYER_WEIGHTS + HEAD_WEIGHTS)
    return products / matrices + 2 * LAYERS * HEADS_WIDTH * tokens * (tokens + 1) / attention


def decode_bytes(dtype: str, context: int) -> float:
    """Every weight once, and the keys and values before the middle one of the decoded tokens."""
    layers, head = WEIGHT_BYTES[dtype]
    number = 4 if dtype == "f32" else 2
    return layers * LAYER_WEIGHTS + head * HEAD_WEIGHTS + (context + DECODED / 2) * CACHE * number
