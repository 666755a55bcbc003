"""GroupNorm, SiLU and the border for a convolution in two launches, for large pictures on a CPU.

``row_moments`` sums bands of rows, in the order in which they lie in memory; ``apply_rows`` makes statistics
of the few sums of all bands, anew in every work-group, and normalises a band. Statistics are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.exponential import exponential
from ddimcache.kernels.group_norm.normalisation import (
    Normalisation,
    group_sums,
    silu,
    store_statistic,
)
from ddimcache.kernels.tiling import largest_divisor, local, vector_lanes

PIXELS = 4
"""Pixels of a row that are read together, at most: they share what is loaded of their channels."""


def bands(norm: Normalisation, most: int) -> int:
    """Bands of rows, at most ``most``: all but the last are of the same height."""
    return -(-norm.height // -(-norm.height // most))


@cache
def row_moments(norm: Normalisation, most: int, vector: int) -> tirx.PrimFunc:
    """Sums of ``x`` [B, H * W, C] and of its squares by band and group: [B, bands, 2, G] float32.

    They are of what is left without a number of the group, see ``normalisation.sample_of``.
    """
    with _kernel() as builder:
        x = T.arg("x", T.buffer(norm.flat, norm.dtype, layout=None))
        out = T.arg("out", T.buffer((norm.batch, bands(norm, most), 2, norm.groups), "float32", layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            _Emitter(norm, most, vector).moments(x, out)
    return builder.get()


@cache
def apply_rows(norm: Normalisation, most: int, vector: int) -> tirx.PrimFunc:
    """Normalises ``x`` [B, H * W, C] with the moments of its bands, ``weight`` and ``bias`` [C]."""
    with _kernel() as builder:
        x = T.arg("x", T.buffer(norm.flat, norm.dtype, layout=None))
        sums = T.arg(
            "sums", T.buffer((norm.batch, bands(norm, most), 2, norm.groups), "float32", layout=None)
        )
        weight, bias = (
            T.arg(name, T.buffer((norm.channels,), norm.dtype, layout=None)) for name in ("weight", "bias")
        )
        out = T.arg("out", T.buffer(norm.shape, norm.dtype, layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            _Emitter(norm, most, vector).apply(x, sums, weight, bias, out)
    return builder.get()


@contextmanager
def _kernel() -> Iterator[IRBuilder]:
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        yield builder


class _Emitter:
    """The loops of both kernels; a work-group has one work-item."""

    def __init__(self, norm: Normalisation, most: int, vector: int) -> None:
        self.norm, self.bands = norm, bands(norm, most)
        self.vector, self.lanes = vector, vector_lanes(norm.channels, vector)
        self.pixels = largest_divisor(norm.width, PIXELS)

    def moments(self, x: Any, out: Any) -> None:
        """Emits the sums."""
        norm = self.norm
        with self._band():
            sums, samples = (local(norm.channels), local(norm.channels)), local(norm.channels)
            with T.serial(0, norm.groups) as g, T.serial(0, norm.size) as number:
                T.buffer_store(samples, self._sample(x, g), [g * norm.size + number])
            with self._vectors() as c:
                T.buffer_store(sums[0], T.float32(0), [c])
            with self._vectors() as c:
                T.buffer_store(sums[1], T.float32(0), [c])
            with self._rows() as y, T.serial(0, norm.width // self.pixels) as step:
                first = T.bind(y * norm.width + step * self.pixels)
                with T.serial(0, norm.channels // self.lanes) as number:
                    for buffer, power in zip(sums, (1, 2), strict=True):
                        with T.vectorized(0, self.lanes) as lane:
                            c = number * self.lanes + lane
                            total = buffer[c]
                            for pixel in range(self.pixels):
                                value = T.cast(x[self.b, first + pixel, c], "float32") - samples[c]
                                total = total + (value if power == 1 else value * value)
                            T.buffer_store(buffer, total, [c])
            totals = group_sums(norm.groups, norm.size, self.vector, sums)
            with self._statistics() as (side, g):
                T.buffer_store(out, totals[side, g], [self.b, self.band, side, g])

    def apply(self, x: Any, sums: Any, weight: Any, bias: Any, out: Any) -> None:
        """Emits the statistics and what is done with them."""
        norm = self.norm
        top, left, bottom, right = norm.padding
        with self._band():
            factor, shift = local(norm.channels), local(norm.channels)
            moments, statistic = local(2, norm.groups), local(1, 2)
            with self._statistics() as (side, g):
                T.buffer_store(moments, T.float32(0), [side, g])
            with T.serial(0, self.bands) as band, self._statistics() as (side, g):
                T.buffer_store(moments, moments[side, g] + sums[self.b, band, side, g], [side, g])
            with T.serial(0, norm.groups) as g:
                store_statistic(norm, moments[0, g], moments[1, g], self._sample(x, g), statistic, 0)
                with T.serial(0, norm.size) as number:
                    c = T.bind(g * norm.size + number)
                    T.buffer_store(factor, statistic[0, 1] * T.cast(weight[c], "float32"), [c])
                    T.buffer_store(shift, T.cast(bias[c], "float32") - statistic[0, 0] * factor[c], [c])
            with self._rows() as y:
                with (
                    T.serial(0, norm.width // self.pixels) as step,
                    T.serial(0, norm.channels // self.lanes) as number,
                ):
                    for pixel in range(self.pixels):
                        column = step * self.pixels + pixel
                        with T.vectorized(0, self.lanes) as lane:
                            c = number * self.lanes + lane
                            value = T.cast(x[self.b, y * norm.width + column, c], "float32")
                            value = value * factor[c] + shift[c]
                            value = silu(value, exponential) if norm.silu else value
                            place = [self.b, y + top, column + left, c]
                            T.buffer_store(out, T.cast(value, norm.dtype), place)
                self._clear(out, y + top, 0, left)
                self._clear(out, y + top, left + norm.width, right)
            for first, count, band in ((0, top, 0), (top + norm.height, bottom, self.bands - 1)):
                if count:
                    with T.If(self.band == band), T.Then(), T.serial(0, count) as row:
                        self._clear(out, first + row, 0, norm.shape[2])

    def _sample(self, x: Any, g: Any) -> Any:
        """A number of group ``g``, the same for all bands."""
        return T.cast(x[self.b, self.norm.sample, g * self.norm.size], "float32")

    def _clear(self, out: Any, y: Any, first: int, count: int) -> None:
        if count:
            with T.serial(0, count) as column, self._vectors() as c:
                T.buffer_store(out, T.cast(T.float32(0), self.norm.dtype), [self.b, y, first + column, c])

    @contextmanager
    def _band(self) -> Iterator[None]:
        with (
            T.thread_binding(0, self.norm.batch * self.bands, thread="blockIdx.x") as group,
            T.thread_binding(0, 1, thread="threadIdx.x"),
        ):
            self.b, self.band = T.bind(group // self.bands), T.bind(group % self.bands)
            yield

    @contextmanager
    def _rows(self) -> Iterator[Any]:
        """A loop over the rows of a work-group's band."""
        height = -(-self.norm.height // self.bands)
        with ExitStack() as inside:
            row = inside.enter_context(T.serial(0, height))
            y = T.bind(self.band * height + row)
            if height * self.bands != self.norm.height:
                inside.enter_context(T.If(y < self.norm.height))
                inside.enter_context(T.Then())
            yield y

    @contextmanager
    def _vectors(self) -> Iterator[Any]:
        with T.serial(0, self.norm.channels // self.lanes) as number, T.vectorized(0, self.lanes) as lane:
            yield number * self.lanes + lane

    @contextmanager
    def _statistics(self) -> Iterator[tuple[Any, Any]]:
        """A loop over sums of numbers and of squares, 0 and 1, and their groups."""
        lanes = vector_lanes(self.norm.groups, self.vector)
        with (
            T.serial(0, 2) as side,
            T.serial(0, self.norm.groups // lanes) as number,
            T.vectorized(0, lanes) as lane,
        ):
            yield side, number * lanes + lane
