"""The matrix product of int8 weights with activations that are rounded to int8 on the fly.

A row of activations is rounded to whole numbers from -127 to 127 with one scale, 127 for its largest.
Products are then sums of whole numbers, exact in 32 bits, four to a lane and an instruction; the two scales
multiply the sum once. Weights are stored as unsigned bytes, 128 above their number, because the instruction
of x86 (VPDPBUSD) takes one operand so; 128 times the sum of the row is taken off again.

Weights of groups of input channels have a sum for each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.exponential import ROUNDER
from ddimcache.kernels.matmul.kernel import pack
from ddimcache.kernels.scales import FOUR, OFFSET
from ddimcache.kernels.tiling import local, place_of_line, vector_lanes

LANES = 16
"""Sums of a vector."""

LARGEST = 127
"""The largest whole number of a rounded activation."""

LONGEST = (2**31 - 1) // ((2 * OFFSET - 1) * LARGEST)
"""Products whose sum always fits into 32 bits."""

_SMALLEST = 1e-30
"""A row has a scale for numbers of this size at least; it keeps a row of zeros from being divided by zero."""

DOT = "ddimcache_dot16"
"""OpenCL function of the runtime (``runtime/cc/device_functions.cc``): ``int16 f(int16 sums, int16 weights,
const char* four)`` adds to each sum the four products of the unsigned bytes of its weight with ``four``."""


def pack_fours(weight: np.ndarray, width: int) -> np.ndarray:
    """Packs int8 ``weight`` [N, K] into panels [ceil(N / width), K / 4, width] of int32.

    Each number has the weights of four input channels of an output channel, the first in its low byte, plus
    128. K is a multiple of 4.
    """
    panels = pack(weight, width)
    count, depth, _ = panels.shape
    fours = panels.reshape(count, depth // FOUR, FOUR, width).swapaxes(2, 3)
    # The machine's own order of bytes must not decide where a weight is.
    return np.ascontiguousarray((fours.astype(np.int16) + OFFSET).astype(np.uint8)).view("<i4")[..., 0]


@dataclass(frozen=True)
class DotBlocking:
    """What a work-group makes: ``rows`` x ``columns`` results, ``strip`` rows of a panel in registers."""

    rows: int
    columns: int
    strip: int


def dot_product(
    x: Any,
    weight: Any,
    scale: Any,
    blocking: DotBlocking,
    pairs: bool,
    instruction: bool,
    finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None],
) -> None:
    """Emits the product of ``x`` [..., K] and packed ``weight`` int32 [N / P, K / 4, P].

    P is a multiple of 16, K of 4, N / P of the panels of a work-group and ``blocking.rows`` of its ``strip``.
    ``scale`` [N / P, G, P] is of groups of weights, or None; then the caller's ``finish`` has those of
    channels. ``finish``, and its indices with ``pairs``, are as in ``blocked_product``. With ``instruction``
    sums are taken by :data:`DOT`, else by plain arithmetic.
    """
    *lines, depth = (int(extent) for extent in x.ty.shape)
    panels, fours, panel = (int(extent) for extent in weight.ty.shape)
    groups = 1 if scale is None else int(scale.ty.shape[-2])
    count, rows, strip, own = math.prod(lines), blocking.rows, blocking.strip, blocking.columns // panel
    row_blocks = -(-count // rows)
    with (
        T.thread_binding(0, row_blocks * (panels // own), thread="blockIdx.x") as group,
        T.thread_binding(0, 1, thread="threadIdx.x"),
    ):
        first_row = T.bind(group % row_blocks * rows)
        first_panel = T.bind(group // row_blocks * own)
        whole, factors = local(rows, depth, dtype="int8"), local(rows)
        sums_of_rows = local(rows, groups, dtype="int32")

        def place(row: Any) -> list[Any]:
            return place_of_line(lines, first_row + row, rows)

        with T.serial(0, rows) as row:
            line = [T.bind(index) for index in place(row)]
            round_row(lambda k: x[(*line, k)], depth, groups, whole, factors, sums_of_rows, row)
        results = local(strip, panel)
        with T.serial(0, own) as part, T.serial(0, rows // strip) as block:
            first = block * strip
            tiles = [(row, start) for row in range(strip) for start in range(0, panel, LANES)]
            if groups > 1:
                for row, start in tiles:
                    with T.vectorized(0, LANES) as lane:
                        T.buffer_store(results, T.float32(0), [row, start + lane])
            with T.serial(0, groups) as each:
                total = _sums(
                    lambda k, column: weight[first_panel + part, k, column],
                    whole,
                    first,
                    (each * (fours // groups), fours // groups),
                    (strip, panel),
                    instruction,
                )
                for row, start in tiles:
                    shift, factor = sums_of_rows[first + row, each], factors[first + row]
                    with T.vectorized(0, LANES) as lane:
                        value = T.cast(total[row, start + lane] - shift, "float32") * factor
                        if scale is not None:
                            value = value * scale[first_panel + part, each, start + lane]
                        if groups > 1:
                            value = results[row, start + lane] + value
                        T.buffer_store(results, value, [row, start + lane])
            width = panel // 2 if pairs else panel
            lanes = vector_lanes(width, LANES)
            with (
                T.serial(0, strip) as row,
                T.serial(0, width // lanes) as vector,
                T.vectorized(0, lanes) as lane,
            ):
                column = vector * lanes + lane
                if pairs:
                    indices = [*place(first + row), first_panel + part, column]
                    finish(indices, lambda at: results[row, int(at[-2]) * width + column])
                else:
                    indices = [*place(first + row), (first_panel + part) * panel + column]
                    finish(indices, lambda _at: results[row, column])


def round_row(
    read: Callable[[Any], Any],
    depth: int,
    groups: int,
    whole: Any,
    factors: Any,
    sums: Any,
    row: Any,
) -> None:
    """Emits the rounding of ``depth`` float32 numbers that ``read`` gives, as ``row`` of three buffers.

    ``whole`` [R, depth] gets whole numbers, ``factors`` [R] what they are multiples of, and ``sums``
    [R, groups] 128 times the sums of groups of them. Without a finite number for one, the factor is none.
    """
    lanes = vector_lanes(depth // groups, LANES)
    most, total = local(lanes, dtype="int32"), local(lanes, dtype="int32")
    # Bits of positive numbers are ordered as they are; those of infinity and of no number are the largest.
    with T.vectorized(0, lanes) as lane:
        T.buffer_store(most, T.int32(int(np.float32(_SMALLEST).view(np.int32))), [lane])
    with T.serial(0, depth // lanes) as vector, T.vectorized(0, lanes) as lane:
        bits = T.reinterpret("int32", T.cast(read(vector * lanes + lane), "float32")) & T.int32(0x7FFFFFFF)
        T.buffer_store(most, T.max(most[lane], bits), [lane])
    _fold(most, lanes, T.max)
    largest = T.bind(T.reinterpret("float32", most[0]))
    inverse = T.bind(T.float32(LARGEST) / largest)
    T.buffer_store(factors, largest * T.float32(1 / LARGEST), [row])
    with T.serial(0, groups) as group:
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(total, T.int32(0), [lane])
        with T.serial(0, depth // groups // lanes) as vector, T.vectorized(0, lanes) as lane:
            k = group * (depth // groups) + vector * lanes + lane
            shifted = T.cast(read(k), "float32") * inverse + T.float32(ROUNDER)
            number = T.reinterpret("int32", shifted) - T.int32(int(np.float32(ROUNDER).view(np.int32)))
            T.buffer_store(whole, T.cast(number, "int8"), [row, k])
            T.buffer_store(total, total[lane] + number, [lane])
        _fold(total, lanes, lambda a, b: a + b)
        T.buffer_store(sums, total[0] * T.int32(OFFSET), [row, group])


def _fold(vector: Any, lanes: int, join: Callable[[Any, Any], Any]) -> None:
    """Emits ``join`` over all of ``vector``, whose first number it becomes."""
    while lanes > 1:
        lanes //= 2
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(vector, join(vector[lane], vector[lane + lanes]), [lane])


def _sums(
    weights: Callable[[Any, Any], Any],
    whole: Any,
    first: Any,
    fours: tuple[Any, int],
    tile: tuple[int, int],
    instruction: bool,
) -> Any:
    """Emits the sums of a ``tile`` of rows from ``first`` on and columns; their buffer.

    ``fours`` are the first and the number of those that are summed.
    """
    (start_four, count), (strip, panel) = fours, tile
    total = local(strip, panel, dtype="int32")
    vectors = [(row, start) for row in range(strip) for start in range(0, panel, LANES)]
    for row, start in vectors:
        with T.vectorized(0, LANES) as lane:
            T.buffer_store(total, T.int32(0), [row, start + lane])
    with T.serial(0, count) as step:
        k = start_four + step
        for row, start in vectors:
            if instruction:
                lanes = tirx.Ramp(start, 1, LANES)
                four = T.address_of(whole[first + row, k * FOUR])
                value = T.call_pure_extern("int32x16", DOT, total[row, lanes], weights(k, lanes), four)
                T.buffer_store(total, value, [row, lanes])
                continue
            with T.vectorized(0, LANES) as lane:
                value = total[row, start + lane]
                for place in range(FOUR):
                    byte = weights(k, start + lane) >> T.int32(8 * place) & T.int32(0xFF)
                    value = value + byte * T.cast(whole[first + row, k * FOUR + place], "int32")
                T.buffer_store(total, value, [row, start + lane])
    return total
