"""Convolution to fewer output channels than a vector has lanes, for devices whose work-items have caches.

A vector lane is an input channel. A work-item makes lines of the picture: it brings the weights together
once, as float32 with the input channels of an output channel side by side, then adds ``pixels`` of a line
times all output channels up in registers. Each of these sums is a vector, whose lanes are added at the end.

Operations against bytes, with P pixels and O output channels: P O multiply-adds on P + O vectors, 16 on 8
where both are 4. With an output channel to a lane, 12 of 16 lanes would be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.matmul.blocked import scaled_weight
from ddimcache.kernels.tiling import local


def narrow_convolution(
    x: Any,
    weight: Any,
    scale: Any,
    shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    *,
    lines: int,
    pixels: int,
    lanes: int,
    finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None],
) -> None:
    """Emits the loops of the convolution of padded ``x`` [B, H, W, C] with packed [O / P, KH, KW, C, P].

    ``scale`` [O / P, KH, KW, G, P] is of groups of weights, or None. ``shape`` is the result's. A work-item
    makes ``lines`` of it; ``pixels`` divide a line and ``lanes`` C. ``finish`` is given the indices (batch,
    row, column, channel) of a result and its float32 sum, and stores what becomes of it.
    """
    batch, height, width, channels = shape
    _, high, wide, depth, panel = (int(extent) for extent in weight.ty.shape)
    count, vectors = batch * height, depth // lanes
    with (
        T.thread_binding(0, -(-count // lines), thread="blockIdx.x") as group,
        T.thread_binding(0, 1, thread="threadIdx.x"),
    ):
        weights = local(high, wide, vectors, channels, lanes)
        with T.grid(high, wide, vectors, channels, lanes) as (dy, dx, vector, o, lane):
            place = (o // panel, dy, dx, vector * lanes + lane, o % panel)
            T.buffer_store(weights, scaled_weight(weight, scale, place), [dy, dx, vector, o, lane])
        with T.serial(0, lines) as line:
            # The last work-item repeats the last line.
            index = T.bind(T.min(group * lines + line, count - 1) if count % lines else group * lines + line)
            b, y = T.bind(index // height), T.bind(index % height)
            with T.serial(0, width // pixels) as strip:
                total = local(pixels, channels, lanes)
                with T.unroll(0, pixels) as p, T.unroll(0, channels) as o, T.vectorized(0, lanes) as lane:
                    T.buffer_store(total, T.float32(0), [p, o, lane])
                with (
                    T.grid(high, wide, vectors) as (dy, dx, vector),
                    T.unroll(0, pixels) as p,
                    T.unroll(0, channels) as o,
                    T.vectorized(0, lanes) as lane,
                ):
                    row, column = y * strides[0] + dy, (strip * pixels + p) * strides[1] + dx
                    value = T.cast(x[b, row, column, vector * lanes + lane], "float32")
                    more = total[p, o, lane] + value * weights[dy, dx, vector, o, lane]
                    T.buffer_store(total, more, [p, o, lane])
                result = _add_lanes(total, pixels, channels, lanes)
                with T.grid(pixels, channels) as (p, o):
                    indices = (b, y, strip * pixels + p, o)
                    finish(indices, partial(_given, result[p, o, 0]))


def _add_lanes(total: Any, pixels: int, channels: int, lanes: int) -> Any:
    """The sums over the lanes of each vector, in lane 0 of what is given."""
    result = local(pixels, channels, lanes)
    with T.unroll(0, pixels) as p, T.unroll(0, channels) as o, T.vectorized(0, lanes) as lane:
        T.buffer_store(result, total[p, o, lane], [p, o, lane])
    while lanes > 1:
        lanes //= 2
        with T.grid(pixels, channels) as (p, o), T.vectorized(0, lanes) as lane:
            T.buffer_store(result, result[p, o, lane] + result[p, o, lanes + lane], [p, o, lane])
    return result


def _given(value: Any, _indices: Sequence[Any]) -> Any:
    return value
