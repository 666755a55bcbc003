"""What a work-group of a product of pixels is made of (``kernels/pixels.py``), and how many it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WRITTEN_OUT = {"float16": 4, "float32": 8}
"""Steps of the hot loop, by the type of sums, below which a driver's compiler writes it out and takes
registers for all: a step of sums in float32 has fewer instructions."""


@dataclass(frozen=True)
class PixelBlocking:
    """What a work-group is made of: ``parts`` x ``across`` x ``down`` work-items."""

    rows: int
    """Rows (pixels of a picture, tokens) of a work-item."""
    chunk: int
    """Pixels of a row that are multiplied between two barriers; they divide those of a line of taps."""
    down: int
    """Work-items along the rows: they share weights, and bring them to local memory together."""
    across: int
    """Panels of output channels."""
    parts: int
    """Work-items that share the reduction of a result."""
    positions: int = 1
    """Products of their own that a result is made of: 1, or those of Winograd's filtering."""
    together: bool = False
    """Whether a work-item's rows are of one line, so that one place is counted on for all of them."""

    @property
    def items(self) -> int:
        """Work-items of a work-group."""
        return self.down * self.across * self.parts * self.positions


def gated_together(blocking: PixelBlocking, width: int) -> int:
    """Gated numbers of a panel of ``width`` that are finished together: all, or one where registers hold
    other rows' sums.

    Addresses of bias and scales are most of what one takes, and a vector takes no more.
    """
    return width // 2 if blocking.parts > 1 else 1


def line_of(lines: Sequence[int], taps: tuple[int, int], strides: tuple[int, int]) -> int:
    """How many rows of a result of ``lines`` lie at equal distances in the input: all, or a line's."""
    return math.prod(lines) if tuple(taps) == tuple(strides) == (1, 1) else lines[-1]


def tiles_of_rows(rows: int, line: int, each: int) -> int:
    """Work-items that ``rows`` take, if each makes ``each`` of them, of one ``line`` where that is not 0."""
    return rows // line * -(-line // each) if line else -(-rows // each)
