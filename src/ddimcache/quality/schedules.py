"""Schedules of the cache by name: computed ones, and those that were searched for and lie in the bundle."""

from __future__ import annotations

import shlex
from typing import get_args

from ddimcache.errors import UsageError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.quality_notes import QualityNotes, ScheduleName, read_notes
from ddimcache.runtime.refresh import every, full_count, quadratic

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
CHOICES = ("auto", *SCHEDULES)
FEWEST_FULL_STEPS = 4
"""With fewer, a cache that nobody measured is worth a warning."""


def placed(name: str, bundle: Bundle, steps: int, interval: int) -> tuple[int, ...]:
    """Return the full steps of a schedule that has as many as every ``interval``-th of ``steps``.

    Raises :class:`UsageError` where a searched one is wanted and the bundle has none for these numbers.
    """
    if name == "uniform":
        return every(steps, interval)
    count = full_count(steps, interval)
    if name == "quadratic":
        return quadratic(steps, count)
    found = read_notes(bundle).searched(steps, count)
    if found is None:
        raise UsageError(
            f"{bundle.folder} holds no schedule of {count} full steps in {steps}",
            where="--cache-schedule searched",
            remedy=f"ddimcache schedule {shlex.quote(str(bundle.folder))} --steps {steps} "
            f"--cache-interval {interval}",
        )
    return found


def check_choice(name: str) -> None:
    """Raise :class:`UsageError` for a name that :func:`choose` does not know."""
    if name not in CHOICES:
        raise UsageError(f"{name!r} is none of: {', '.join(CHOICES)}", where="--cache-schedule")


def choose(name: str, notes: QualityNotes, steps: int, interval: int) -> tuple[str, int, str | None]:
    """Return schedule and cache interval to use, and what is to be said about them.

    ``auto`` is the searched schedule where the notes have one, else the uniform one; where that was measured
    below the bundle's gate it is the largest smaller interval that was not, at last 1. A schedule that is
    named is used as it is, with a warning. Raises :class:`UsageError` for another name.
    """
    check_choice(name)
    if name != "auto":
        below = notes.is_below(steps, interval, name)
        return name, interval, _warning(notes, steps, interval) if below else None
    for smaller in range(interval, 1, -1):
        is_searched = notes.searched(steps, full_count(steps, smaller)) is not None
        schedule = "searched" if is_searched else "uniform"
        known = smaller == interval or any(
            (each.steps, each.cache_interval, each.schedule) == (steps, smaller, schedule)
            for each in notes.measured
        )
        if known and not notes.is_below(steps, smaller, schedule):
            said = None if smaller == interval else f"{_warning(notes, steps, interval)}: taking {smaller}"
            return schedule, smaller, said
    said = None if interval == 1 else f"{_warning(notes, steps, interval)}: the cache is off"
    return "uniform", 1, said


def few_full_steps(notes: QualityNotes, steps: int, interval: int, schedule: str) -> str | None:
    """Return what to say of a cache that leaves hardly a full step and that nobody measured, or None.

    With two or three full steps the embedded model's pictures are others than without a cache, whatever the
    number of steps; with four they are near (``docs/quality.md``). A searched schedule was measured.
    """
    count = full_count(steps, interval)
    measured = any(
        (each.steps, each.cache_interval, each.schedule) == (steps, interval, schedule)
        for each in notes.measured
    )
    if schedule == "searched" or measured or count == steps or count >= FEWEST_FULL_STEPS:
        return None
    return (
        f"a cache interval of {interval} leaves {count} of {steps} steps whole, and pictures may suffer: "
        "take a smaller --cache-interval, or measure with `ddimcache quality`"
    )


def _warning(notes: QualityNotes, steps: int, interval: int) -> str:
    return (
        f"with {steps} steps and a cache interval of {interval} this bundle's pictures were measured below "
        f"{notes.least_psnr:g} dB to those without a cache"
    )
