"""Integer helpers that kernels and schedules share."""

from __future__ import annotations


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of ``value`` that is at most ``limit``."""
    return max(divisor for divisor in range(1, min(value, limit) + 1) if value % divisor == 0)


def vector_lanes(extent: int, limit: int) -> int:
    """The widest OpenCL vector (a power of two, at most 16 and ``limit``) that divides ``extent``."""
    lanes = 1
    while lanes * 2 <= min(limit, 16) and extent % (lanes * 2) == 0:
        lanes *= 2
    return lanes
