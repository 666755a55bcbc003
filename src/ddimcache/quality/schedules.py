"""Schedules of the cache by name: computed ones, and those that were searched for and lie in the bundle."""

from __future__ import annotations

from ddimcache.errors import UsageError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.refresh import every, full_count, quadratic

SCHEDULES = ("uniform", "quadratic", "searched")


def placed(name: str, bundle: Bundle, steps: int, interval: int) -> tuple[int, ...]:
    """Return the full steps of a schedule that has as many as every ``interval``-th of ``steps``.

    Raises :class:`UsageError` where a searched one is wanted and the bundle has none for these numbers.
    """
    count = full_count(steps, interval)
    if name == "uniform":
        return every(steps, interval)
    if name == "quadratic":
        return quadratic(steps, count)
    raise UsageError(f"no schedule {name!r}", where="--schedules")
