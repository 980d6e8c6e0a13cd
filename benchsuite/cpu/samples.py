"""What every peer's timing shares: the same token ids, the same question, the same clock."""

import statistics
import time
from collections.abc import Callable, Iterable

QUESTION = "Can you describe this image?"
# "After 0 tokens" still needs a prompt.
SHORTEST_PROMPT = 8


def token_ids(count: int) -> list[int]:
    """Ordinary tokens, no two neighbours alike: those of `smolvlm bench`."""
    return [i * 7919 % 39_999 + 1 for i in range(count)]


def context_of(figure: int) -> int:
    return max(figure, SHORTEST_PROMPT)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_of(values: Iterable[float]) -> float:
    return statistics.median(values)
