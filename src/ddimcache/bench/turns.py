"""Times calls in turns, so that what else a machine does falls on all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """How calls are timed: so many as one that ``seconds`` go by, ``most`` at most, ``pause`` seconds before.

    Threads of PyTorch, TVM and PoCL keep spinning on their cores for milliseconds after their last work.
    """

    seconds: float
    most: int
    pause: float


STEPS = Blocks(0.1, 100, 0.1)
KERNELS = Blocks(0.02, 50, 0.01)


def medians(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    blocks: Blocks,
    after_round: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the median seconds of each call over ``repeats`` rounds in which each has its turn.

    Each is called twice before: the first time may compile kernels, the second says how many make a block.
    """
    counts = {}
    for name, call in calls.items():
        call()
        once = seconds_a_call(call, 1, blocks.pause)
        counts[name] = max(1, min(blocks.most, math.ceil(blocks.seconds / max(once, 1e-9))))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(seconds_a_call(call, counts[name], blocks.pause))
        after_round()
    return {name: statistics.median(times) for name, times in taken.items()}


def seconds_a_call(call: Callable[[], object], count: int, pause: float) -> float:
    """Return the seconds of one of ``count`` calls in a row."""
    time.sleep(pause)
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
