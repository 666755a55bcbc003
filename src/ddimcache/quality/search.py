"""Searches for the steps at which to renew the cached feature, by the pictures that come of it.

The error of a schedule is the mean squared error of calibration pictures to the same without a cache. The
search begins with the best of even distances and of distances that grow from a centre, over a range of
centres and powers, and then moves one full step at a time as long as the error falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ddimcache.runtime.image import ImageRequest, ImageSession
from ddimcache.runtime.progress import Progress, Stage
from ddimcache.runtime.refresh import every, quadratic, uniform

_CENTRES = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)
_POWERS = (1.2, 1.6, 2.2)


class Calibration:
    """Pictures without a cache, and how far those of a schedule are from them."""

    def __init__(self, session: ImageSession, requests: Sequence[ImageRequest], progress: Progress) -> None:
        self._session = session
        self._requests = [replace(request, full_steps=()) for request in requests]
        self._known: dict[tuple[int, ...], float] = {}
        self._references = []
        with progress.stage("without cache", len(requests)) as stage:
            for request in self._requests:
                full = replace(request, full_steps=every(request.steps, 1))
                self._references.append(session.draw(full).drawn.pixels.astype(np.float64))
                stage.advance()

    def error(self, full_steps: tuple[int, ...], bound: float = np.inf) -> float:
        """Return the mean squared error of a schedule's pictures; infinity once it is above a bound."""
        if full_steps in self._known:
            return self._known[full_steps]
        total = 0.0
        for request, reference in zip(self._requests, self._references, strict=True):
            pixels = self._session.draw(replace(request, full_steps=full_steps)).drawn.pixels
            total += float(np.mean(np.square(pixels - reference)))
            if total > bound * len(self._requests):
                return np.inf
        self._known[full_steps] = total / len(self._requests)
        return self._known[full_steps]


@dataclass(frozen=True)
class Found:
    """The best schedule, its error, that of even distances, and how many schedules were tried."""

    full_steps: tuple[int, ...]
    error: float
    uniform_error: float
    tried: int


def search(calibration: Calibration, steps: int, count: int, most_tried: int, progress: Progress) -> Found:
    """Search for ``count`` full steps of ``steps``, trying at most ``most_tried`` schedules."""
    even = uniform(steps, count)
    with progress.stage(f"search {count} of {steps}", most_tried) as stage:
        best = _Best(calibration, even, most_tried, stage)
        uniform_error = best.error
        for centre in _CENTRES:
            for power in _POWERS:
                best.offer(quadratic(steps, count, centre, power))
        distance = max(1, steps // count // 2)
        while distance:
            improved = False
            for place in range(1, count):
                for shift in (distance, -distance):
                    improved |= best.offer(_moved(best.full_steps, place, shift, steps))
            if not improved:
                distance //= 2
    return Found(best.full_steps, best.error, uniform_error, best.tried)


class _Best:
    def __init__(self, calibration: Calibration, first: tuple[int, ...], most: int, stage: Stage) -> None:
        self._calibration = calibration
        self._most = most
        self._stage = stage
        self._seen = {first}
        self.full_steps, self.error = first, calibration.error(first)
        self.tried = 1
        stage.advance()

    def offer(self, full_steps: tuple[int, ...] | None) -> bool:
        """Try a schedule that was not tried yet; return whether it is the best now."""
        if full_steps is None or full_steps in self._seen or self.tried >= self._most:
            return False
        self._seen.add(full_steps)
        self.tried += 1
        error = self._calibration.error(full_steps, self.error)
        self._stage.advance()
        if error >= self.error:
            return False
        self.full_steps, self.error = full_steps, error
        return True


def _moved(full_steps: tuple[int, ...], place: int, shift: int, steps: int) -> tuple[int, ...] | None:
    """Return the schedule with one of its steps moved, None where that is taken or outside."""
    step = full_steps[place] + shift
    if not 0 < step < steps or step in full_steps:
        return None
    return tuple(sorted((*full_steps[:place], step, *full_steps[place + 1 :])))
