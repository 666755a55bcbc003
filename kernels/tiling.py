"""Integer helpers that kernels and schedules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

PIXEL = 4
"""Numbers of a pixel, the widest element of an OpenCL image."""


def wide(shape: Sequence[Any]) -> list[Any]:
    """``shape`` with 64-bit extents, as Relax has them; kernels with others cannot be fused into a graph.

    The indices themselves are narrowed to 32 bits when the kernel is built.
    """
    return [tirx.IntImm("int64", int(extent)) for extent in shape]


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of ``value`` that is at most ``limit``."""
    return max(divisor for divisor in range(1, min(value, limit) + 1) if value % divisor == 0)


def vector_lanes(extent: int, limit: int) -> int:
    """The widest OpenCL vector (a power of two, at most 16 and ``limit``) that divides ``extent``."""
    lanes = 1
    while lanes * 2 <= min(limit, 16) and extent % (lanes * 2) == 0:
        lanes *= 2
    return lanes


def local(*shape: int) -> Any:
    """Float32 memory of a work-item, for a kernel whose loops Python writes."""
    return T.sblock_alloc_buffer(shape, "float32", scope="local", layout=None)
