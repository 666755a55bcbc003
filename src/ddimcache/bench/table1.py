"""Whole denoising loops by number of steps and cache interval, beside those of DDIMCache's paper."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ddimcache.bench.cache_gain import step_counts
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.session import Session

PUBLISHED_SECONDS = {
    20: {1: 9.8, 2: 5.3, 3: 3.8, 5: 2.4, 6: 2.2, 10: 1.7},
    50: {1: 24.4, 2: 13.0, 3: 9.3, 5: 6.2, 6: 5.4, 10: 4.1},
    100: {1: 49.4, 2: 27.3, 3: 19.4, 5: 12.1, 6: 10.8, 10: 8.3},
    1000: {1: 487.3, 2: 271.0, 3: 191.0, 5: 123.1, 6: 109.4, 10: 84.2},
}
"""Seconds by DDIM steps and cache interval: SD 1.5 on a Galaxy S23 Ultra (Wu, Kybernetika 60(6), 2024)."""

_SEED = 0


@dataclass(frozen=True)
class LoopTime:
    """The median seconds of a loop, and how many of its steps ran the whole UNet or reused the feature."""

    steps: int
    cache_interval: int
    full_steps: int
    cached_steps: int
    seconds: float


def measure(
    bundle: Bundle,
    spec: DeviceSpec,
    *,
    steps: Sequence[int],
    intervals: Sequence[int],
    guidance: float,
    repeats: int,
    progress: Progress,
) -> list[LoopTime]:
    """Draw an image with every number of steps and every interval, in turns; the answer is checked elsewhere.

    Parameters
    ----------
    bundle, spec : what runs, and the local device.
    steps, intervals : DDIM steps 1 … 1000, and n from 1 up.
    guidance : above 1 every step runs the UNet for two prompts.
    repeats : rounds over all of them. An image of a full and a cached step is drawn first, which compiles
        kernels and loads weights.

    Raises as :meth:`Session.poll`.
    """
    length = bundle.manifest.context.shape[1]
    ids, size = [1] * length, bundle.manifest.image_size

    def loop_seconds(session: Session, count: int, interval: int) -> float:
        request = ImageRequest(ids, ids, _SEED, count, interval, guidance, size=size)
        return float(session.draw(request).timings["seconds"]["denoise"])

    cells = [(count, interval) for count in steps for interval in intervals]
    taken: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    costs = {cell: _full_steps_worth(*cell) for cell in cells}
    total = round(sum(costs.values()) * repeats)
    with progress.stage("table1", total=1 + total) as stage:
        session = Session(bundle, spec)
        try:
            loop_seconds(session, 3, 2)
            stage.advance(1, "first image")
            for _ in range(repeats):
                for count, interval in cells:
                    taken[count, interval].append(loop_seconds(session, count, interval))
                    stage.advance(costs[count, interval], f"{count} steps, n = {interval}")
        finally:
            session.close()
    return [
        LoopTime(count, interval, *step_counts(interval, count), statistics.median(seconds))
        for (count, interval), seconds in taken.items()
    ]


def _full_steps_worth(count: int, interval: int) -> int:
    """Return about how many full steps take as long, for the progress: a cached one is about a tenth."""
    full, cached = step_counts(interval, count)
    return full + round(cached / 10)
