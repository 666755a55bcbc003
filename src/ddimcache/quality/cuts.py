"""How many full steps another cut may have at the cost of the outermost, and which cut is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log

from ddimcache.manifest import Manifest
from ddimcache.quality.search import Found

_NO_ERROR = 1e-6  # of a mean square of 255²: 108 dB, better than any picture file tells


def affordable_full_steps(steps: int, budget: int, outermost: Manifest, manifest: Manifest) -> int:
    """Return how many full steps, of ``steps``, cost at this cut what ``budget`` of them cost at another.

    Cost is the UNet's multiply-accumulates of all steps. ``outermost`` is the manifest of the bundle for
    which the budget is meant, ``manifest`` that of the cut in question. 0 where even one full step and cached
    ones cost more.
    """
    most = budget * outermost.macs_full + (steps - budget) * outermost.macs_cached
    spared = manifest.macs_full - manifest.macs_cached
    count = steps if spared <= 0 else floor((most - steps * manifest.macs_cached) / spared)
    return max(0, min(count, budget))


def best_cut(found: Mapping[int, Sequence[Found]]) -> int:
    """Return the cut whose schedules, one for each budget, have the least error: the geometric mean of all.

    A bundle has one cut, so it is chosen for all its budgets together. Of equal ones it is the outermost.
    """
    return min(sorted(found), key=lambda cut: sum(log(max(each.error, _NO_ERROR)) for each in found[cut]))
