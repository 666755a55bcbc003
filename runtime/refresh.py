"""Which steps of an image run the whole UNet and renew the cached feature: the schedules of the cache.

A schedule is the rising tuple of those steps, beginning with 0, as :class:`ImageRequest.full_steps` takes it.
"""

from __future__ import annotations

from ddimcache.errors import UsageError

# DeepCache (Ma et al., CVPR 2024) refreshes most often around a step that it finds by hand, 15 of 50 for
# Stable Diffusion, and ever more rarely away from it.
CENTRE = 0.3
POWER = 1.4


def every(steps: int, interval: int) -> tuple[int, ...]:
    """Return every ``interval``-th of ``steps`` steps, from the first: DDIMCache's n."""
    return tuple(range(0, steps, interval))


def full_count(steps: int, interval: int) -> int:
    """Return how many full steps an interval makes: what a schedule of equal cost may spend."""
    return len(every(steps, interval))


def uniform(steps: int, count: int) -> tuple[int, ...]:
    """Return ``count`` of ``steps`` steps at distances that differ by one at most, from step 0.

    Raises :class:`UsageError` for a count outside 1 … ``steps``.
    """
    _check_count(steps, count)
    return tuple(index * steps // count for index in range(count))


def quadratic(steps: int, count: int, centre: float = CENTRE, power: float = POWER) -> tuple[int, ...]:
    """Return ``count`` steps, densest around ``centre`` (a share of all steps), ever rarer away from it.

    With u in even distances, a step is at centre + sign(u) |u|^power; of steps that fall together all but one
    move on to the next free one. Raises :class:`UsageError` for a count outside 1 … ``steps``.
    """
    _check_count(steps, count)
    middle = centre * steps
    first, last = -(middle ** (1 / power)), (steps - middle) ** (1 / power)
    chosen = {0}
    for index in range(1, count):
        place = first + (last - first) * index / count
        step = int(middle + (abs(place) ** power) * (1 if place > 0 else -1))
        free = [other for other in range(steps) if other not in chosen]
        chosen.add(min(free, key=lambda other: (abs(other - step), other)))
    return tuple(sorted(chosen))


def _check_count(steps: int, count: int) -> None:
    if not 1 <= count <= steps:
        raise UsageError(f"{count} is outside 1 … {steps}", where="full steps")
