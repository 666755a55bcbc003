"""Integer helpers that kernels and schedules share."""

from __future__ import annotations

import math
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


def local(*shape: int, dtype: str = "float32") -> Any:
    """Memory of a work-item, for a kernel whose loops Python writes."""
    return T.sblock_alloc_buffer(shape, dtype, scope="local", layout=None)


def place_of_line(lines: Sequence[int], number: Any, blocks: int) -> list[Any]:
    """The indices of the line ``number`` among those of a tensor [*lines, ...].

    Lines are gone through in blocks of ``blocks``; the last block repeats the last line.
    """
    count = math.prod(lines)
    index = T.min(number, count - 1) if count % blocks else number
    indices: list[Any] = []
    for extent in reversed(lines[1:]):
        indices.insert(0, index % extent)
        index = index // extent
    return [index, *indices]
