"""The matrix product in blocks that stay in a core's caches.

A work-group makes ``rows`` x ``columns`` results. It goes through the depth a block at a time: panel by panel
it converts the weights and adds the products to sums that stay with it. Every weight is converted once for
all rows, and a block of rows is in a near cache while the panels pass by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.tiling import local, place_of_line


@dataclass(frozen=True)
class ProductBlocking:
    """What a work-group keeps: ``rows`` and ``columns`` of the result, ``depth`` of the operands at a time.

    ``strip`` rows times a panel of weights are kept in registers.
    """

    rows: int
    columns: int
    depth: int
    strip: int


def add_products(
    sums: Callable[[Any, Any, Any], tuple[Any, list[Any]]],
    inputs: Callable[[int, Any], Any],
    weights: Callable[[Any, Any], Any],
    *,
    strip: int,
    depth: int,
    panel: int,
    lanes: int,
) -> None:
    """Emits ``sums[row, column] += sum over k of inputs(row, k) * weights(k, column)``, sums in registers.

    ``sums(row, first, lane)`` gives a buffer and the indices of the sum of ``row`` and ``first + lane``.
    """
    total = local(strip, panel)
    vectors = panel // lanes
    with T.unroll(0, strip) as row, T.unroll(0, vectors) as vector, T.vectorized(0, lanes) as lane:
        buffer, place = sums(row, vector * lanes, lane)
        T.buffer_store(total, buffer[tuple(place)], [row, vector * lanes + lane])
    with T.serial(0, depth) as k:
        for number in range(strip):
            with T.unroll(0, vectors) as vector, T.vectorized(0, lanes) as lane:
                column = vector * lanes + lane
                value = total[number, column] + inputs(number, k) * weights(k, column)
                T.buffer_store(total, value, [number, column])
    with T.unroll(0, strip) as row, T.unroll(0, vectors) as vector, T.vectorized(0, lanes) as lane:
        buffer, place = sums(row, vector * lanes, lane)
        T.buffer_store(buffer, total[row, vector * lanes + lane], place)


def scaled_weight(weight: Any, scale: Any, index: Sequence[Any]) -> Any:
    """Packed ``weight`` [..., C, P] at ``index`` in float32, times the ``scale`` [..., G, P] of its group."""
    value = T.cast(weight[tuple(index)], "float32")
    if scale is None:
        return value
    *outer, channel, column = index
    group = int(weight.ty.shape[-2]) // int(scale.ty.shape[-2])
    return value * scale[(*outer, channel // group, column)]


def blocked_product(
    x: Any,
    weight: Any,
    scale: Any,
    blocking: ProductBlocking,
    lanes: int,
    pairs: bool,
    finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None],
) -> None:
    """Emits the product of ``x`` [..., K] and packed ``weight`` [N / P, K, P] over all rows of ``x``.

    K is a multiple of ``blocking.depth`` and that of ``lanes``, as P is; N / P of the panels of a work-group,
    ``blocking.rows`` of its ``strip``. ``scale`` [N / P, G, P] is of groups of weights, or None.
    ``finish(indices, read)`` stores what becomes of the sum at ``indices`` (..., column), and is called
    inside a loop over lanes; ``read`` of its indices is the sum.
    With ``pairs`` the indices are (..., panel, column) with two sums, at (..., panel, side, column).
    """
    *lines, depth = (int(extent) for extent in x.ty.shape)
    panels, _, panel = (int(extent) for extent in weight.ty.shape)
    count = math.prod(lines)
    rows, block, strip = blocking.rows, blocking.depth, blocking.strip
    own = blocking.columns // panel
    row_blocks = -(-count // rows)
    with (
        T.thread_binding(0, row_blocks * (panels // own), thread="blockIdx.x") as group,
        T.thread_binding(0, 1, thread="threadIdx.x"),
    ):
        weights, sums = local(block, panel), local(own, rows, panel)
        first_row = T.bind(group % row_blocks * rows)
        first_panel = T.bind(group // row_blocks * own)

        def place(row: Any) -> list[Any]:
            return place_of_line(lines, first_row + row, rows)

        with (
            T.serial(0, own * rows) as line,
            T.serial(0, panel // lanes) as vector,
            T.vectorized(0, lanes) as lane,
        ):
            T.buffer_store(sums, T.float32(0), [line // rows, line % rows, vector * lanes + lane])
        with T.serial(0, depth // block) as step, T.serial(0, own) as part:
            with (
                T.serial(0, block) as k,
                T.unroll(0, panel // lanes) as vector,
                T.vectorized(0, lanes) as lane,
            ):
                column = vector * lanes + lane
                place_of = (first_panel + part, step * block + k, column)
                T.buffer_store(weights, scaled_weight(weight, scale, place_of), [k, column])
            with T.serial(0, rows // strip) as line:
                places = [[T.bind(index) for index in place(line * strip + row)] for row in range(strip)]
                add_products(
                    lambda row, first, lane: (sums, [part, line * strip + row, first + lane]),
                    lambda row, k: T.cast(x[(*places[row], step * block + k)], "float32"),
                    lambda k, column: weights[k, column],
                    strip=strip,
                    depth=block,
                    panel=panel,
                    lanes=lanes,
                )
        width = panel // 2 if pairs else panel
        with (
            T.serial(0, rows) as row,
            T.serial(0, own) as part,
            T.serial(0, width // lanes) as vector,
            T.vectorized(0, lanes) as lane,
        ):
            column = vector * lanes + lane
            if pairs:
                indices = [*place(row), first_panel + part, column]
                finish(indices, lambda at: sums[part, row, int(at[-2]) * width + column])
            else:
                indices = [*place(row), (first_panel + part) * panel + vector * lanes + lane]
                finish(indices, lambda _at: sums[part, row, column])
