"""What the cache gains over a whole image, computed from the times of one full and one cached step.

Speed-up and efficiency as DDIMCache defines them (Wu, Kybernetika 60(6), 2024): S(n) is the time without the
cache over that at cache interval n, and E(n) = S(n) / n.
"""

from __future__ import annotations

STEPS = 50
PUBLISHED_SPEEDUP = {2: 1.80, 3: 2.55, 5: 3.96, 6: 4.47, 10: 5.8}
"""S(n) of its Table 3: SD 1.5, 50 steps, Galaxy S23 Ultra."""
PUBLISHED_EFFICIENCY = {2: 0.9, 3: 0.85, 5: 0.79, 6: 0.75, 10: 0.58}
"""E(n) of the same table."""


def step_counts(cache_interval: int, steps: int = STEPS) -> tuple[int, int]:
    """Return how many of ``steps`` run the whole UNet and how many reuse the feature."""
    full = len(range(0, steps, cache_interval))
    return full, steps - full


def speedups(seconds_full: float, seconds_cached: float) -> dict[int, float]:
    """Return S(n) for the intervals n of the published table; both times are of one step, in seconds."""
    result = {}
    for interval in PUBLISHED_SPEEDUP:
        full, cached = step_counts(interval)
        result[interval] = STEPS * seconds_full / (full * seconds_full + cached * seconds_cached)
    return result
