"""Sums that several work-items of a work-group take together, through local memory."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.tiling import local


class Team:
    """``size`` neighbouring work-items, a power of two, of a work-group of ``items``, where ``item`` is one.

    To be made inside the loops over work-groups and work-items; all of a group have to come to each sum.
    """

    def __init__(self, item: Any, items: int, size: int) -> None:
        self.item, self.size = item, size
        self.member = item % size
        self.parts = T.sblock_alloc_buffer((items,), "float32", scope="shared", layout=None)

    def total(self, value: Any) -> Any:
        """The sum of ``value`` (float32) over the team, the same for each of its work-items."""
        T.buffer_store(self.parts, value, [self.item])
        stride = self.size // 2
        while stride:
            T.evaluate(T.tvm_storage_sync("shared"))
            with T.If(self.member < stride), T.Then():
                both = self.parts[self.item] + self.parts[self.item + stride]
                T.buffer_store(self.parts, both, [self.item])
            stride //= 2
        T.evaluate(T.tvm_storage_sync("shared"))
        found = local(1)
        T.buffer_store(found, self.parts[self.item - self.member], [0])
        # The next sum begins when all have read this one.
        T.evaluate(T.tvm_storage_sync("shared"))
        return found[0]


def team_size(count: int, each: int, most: int) -> int:
    """The least power of two of work-items that share ``count`` things, ``each`` at most; or ``most``."""
    size = 1
    while size * each < count and size * 2 <= most:
        size *= 2
    return size
