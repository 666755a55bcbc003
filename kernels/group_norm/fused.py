"""GroupNorm, SiLU and the border for a convolution over channels-last tensors in one launch.

A work-group owns whole groups over all pixels of a picture: it sums them, normalises them and stores them
with their border. Its second reading comes from a cache where its slab of channels fits into one. Statistics
are float32, and pixels are summed in chunks, so that no sum grows long.

On a CPU a work-group is one work-item, whose sums are vectors in registers. Elsewhere its work-items share
the pixels, each with one vector of channels, and their sums meet in local memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
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
from ddimcache.kernels.tiling import local

PIXELS_PER_CHUNK = 64
"""Pixels that a work-item sums in registers before they join its other sums."""
WORK_GROUPS = 8
"""Work-groups that are left where they are made wider: enough for cores that are not equally fast."""


@dataclass(frozen=True)
class NormBlocking:
    """``slab`` channels of a work-group, whole groups; ``lanes`` of a vector, at most; ``threads``.

    Several threads are a multiple of the vectors of the slab, which are all of ``lanes`` then.
    """

    slab: int
    lanes: int
    threads: int


def blocking_of(norm: Normalisation, vector: int, threads: int, widest: int = 0) -> NormBlocking | None:
    """How work-groups of at most ``threads`` work-items share ``norm``; ``None`` where none can.

    They own the fewest groups that are whole vectors, at least two work-groups; a single work-item may have
    narrower vectors behind the last, and has up to ``widest`` channels where that leaves
    :data:`WORK_GROUPS`: what it reads of a pixel is in one piece then.
    """
    slabs = [norm.size * count for count in range(1, norm.groups + 1) if norm.groups % count == 0]
    whole = [slab for slab in slabs if slab % vector == 0]
    if threads == 1:
        shared = [slab for slab in whole if norm.batch * norm.channels // slab > 1]
        wide = [
            slab for slab in shared if slab <= widest and norm.batch * norm.channels // slab >= WORK_GROUPS
        ]
        return NormBlocking((wide[-1:] or shared or whole or slabs[-1:])[0], vector, 1)
    if not whole or whole[0] > threads * vector:
        return None
    columns = whole[0] // vector
    lines = min(threads // columns, norm.pixels)
    return NormBlocking(whole[0], vector, columns * lines) if columns * lines > 1 else None


def vectors_of(slab: int, lanes: int) -> list[tuple[int, int]]:
    """``slab`` channels as vectors, their first channels and lanes: powers of two, the widest first."""
    found: list[tuple[int, int]] = []
    first = 0
    while first < slab:
        while first + lanes > slab:
            lanes //= 2
        found.append((first, lanes))
        first += lanes
    return found


@cache
def fused_group_norm(norm: Normalisation, blocking: NormBlocking) -> tirx.PrimFunc:
    """The kernel of ``x`` [B, H * W, C], ``weight`` and ``bias`` [C], and the result with its border."""
    return _kernel(norm, norm.shape, norm.dtype, _Emitter(norm, blocking).emit)


@cache
def channel_parameters(norm: Normalisation, blocking: NormBlocking) -> tirx.PrimFunc:
    """What ``kernel.apply`` takes, of ``x`` [B, H * W, C], ``weight`` and ``bias`` [C]: [B, 2, C] float32.

    ``blocking`` is of several threads.
    """
    return _kernel(norm, (norm.batch, 2, norm.channels), "float32", _Emitter(norm, blocking).emit_parameters)


def _kernel(
    norm: Normalisation, shape: tuple[int, ...], dtype: str, emit: Callable[[Any, Any, Any, Any], None]
) -> tirx.PrimFunc:
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        x = T.arg("x", T.buffer(norm.flat, norm.dtype, layout=None))
        weight, bias = (
            T.arg(name, T.buffer((norm.channels,), norm.dtype, layout=None)) for name in ("weight", "bias")
        )
        out = T.arg("out", T.buffer(shape, dtype, layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            emit(x, weight, bias, out)
    return builder.get()


class _Emitter:
    """The loops of one kernel; sizes as in :class:`NormBlocking`."""

    def __init__(self, norm: Normalisation, blocking: NormBlocking) -> None:
        self.norm, self.slab, self.threads = norm, blocking.slab, blocking.threads
        self.slabs, self.groups = norm.channels // blocking.slab, blocking.slab // norm.size
        self.power = exponential if blocking.threads == 1 else T.exp
        if blocking.threads == 1:
            self.vectors, self.lines = vectors_of(blocking.slab, blocking.lanes), 1
        else:
            self.vectors = [(0, blocking.lanes)]
            self.lines = blocking.threads * blocking.lanes // blocking.slab
        self.own = sum(lanes for _, lanes in self.vectors)

    def emit(self, x: Any, weight: Any, bias: Any, out: Any) -> None:
        """Emits the whole kernel."""
        with self._work_group():
            self._apply(x, self._parameters(weight, bias, self._statistics(x)), out)
            self._border(out)

    def emit_parameters(self, x: Any, weight: Any, bias: Any, out: Any) -> None:
        """Emits the kernel of :func:`channel_parameters`: a line of work-items stores what all have."""
        with self._work_group():
            factor, shift = self._parameters(weight, bias, self._statistics(x))

            def store(side: int, values: Any, c: Any) -> None:
                T.buffer_store(out, values[c], [self.b, side, self.slab_first + self.column + c])

            with T.If(self.line.equal(0)), T.Then():
                self._each_vector(partial(store, 0, factor))
                self._each_vector(partial(store, 1, shift))

    @contextmanager
    def _work_group(self) -> Iterator[None]:
        with (
            T.thread_binding(0, self.norm.batch * self.slabs, thread="blockIdx.x") as group,
            T.thread_binding(0, self.threads, thread="threadIdx.x") as item,
        ):
            self.b = T.bind(group // self.slabs)
            self.slab_first = T.bind(group % self.slabs * self.slab)
            columns = self.threads // self.lines
            self.item, self.line = item, T.bind(item // columns)
            self.column = T.bind(item % columns * self.own)
            yield

    def _statistics(self, x: Any) -> Any:
        """Mean and reciprocal deviation of the groups of a work-group."""
        sums, squares, samples = local(self.own), local(self.own), local(self.own)
        self._each_channel(lambda g, c: T.buffer_store(samples, self._sample(x, g), [c]))
        self._sum(x, samples, sums, squares)
        statistic = self._shared_statistics if self.threads > 1 else self._own_statistics
        return statistic(x, sums, squares)

    def _each_vector(self, emit: Callable[[Any], None]) -> None:
        """Emits a statement for every vector of a work-item; it is given the channel's number in it."""
        for first, lanes in self.vectors:
            with T.vectorized(0, lanes) as lane:
                emit(first + lane)

    def _each_channel(self, emit: Callable[[Any, Any], None]) -> None:
        """Emits a statement for every channel of a work-item: of its group and its number."""
        if self.threads == 1:
            # Whole groups: without a division for each channel Clang makes vectors of the loop.
            with T.serial(0, self.groups) as g, T.serial(0, self.norm.size) as c:
                emit(g, g * self.norm.size + c)
        else:
            with T.serial(0, self.own) as c:
                emit(T.bind((self.column + c) // self.norm.size), c)

    def _sample(self, x: Any, g: Any) -> Any:
        """A number of a work-group's group ``g``."""
        return T.cast(x[self.b, self.norm.sample, self.slab_first + g * self.norm.size], "float32")

    def _sum(self, x: Any, samples: Any, sums: Any, squares: Any) -> None:
        """Sums of a work-item's channels without ``samples``, and of their squares, over its pixels."""
        own = -(-self.norm.pixels // self.lines)
        chunks = -(-own // PIXELS_PER_CHUNK)
        depth = -(-own // chunks)
        total, square = local(self.own), local(self.own)
        self._set(sums, _zero)
        self._set(squares, _zero)
        with T.serial(0, chunks) as chunk:
            self._set(total, _zero)
            self._set(square, _zero)
            with ExitStack() as inside:
                step = inside.enter_context(T.serial(0, depth))
                pixel = T.bind((chunk * depth + step) * self.lines + self.line)
                self._guard(inside, pixel, self.norm.pixels, chunks * depth * self.lines)

                def centred(c: Any) -> Any:
                    return self._value(x, pixel, c) - samples[c]

                self._set(total, lambda c: total[c] + centred(c))
                self._set(square, lambda c: square[c] + centred(c) * centred(c))
            self._set(sums, lambda c: sums[c] + total[c])
            self._set(squares, lambda c: squares[c] + square[c])

    def _set(self, buffer: Any, value: Callable[[Any], Any]) -> None:
        """Stores a number for each channel of a work-item."""
        self._each_vector(lambda c: T.buffer_store(buffer, value(c), [c]))

    def _value(self, x: Any, pixel: Any, c: Any) -> Any:
        return T.cast(x[self.b, pixel, self.slab_first + self.column + c], "float32")

    def _guard(self, inside: ExitStack, place: Any, count: int, covered: int) -> None:
        """Lets only places below ``count`` pass, where loops cover more."""
        if covered != count:
            inside.enter_context(T.If(place < count))
            inside.enter_context(T.Then())

    def _own_statistics(self, x: Any, sums: Any, squares: Any) -> Any:
        statistic = local(self.groups, 2)
        totals = group_sums(self.groups, self.norm.size, self.vectors[0][1], (sums, squares))
        with T.serial(0, self.groups) as g:
            store_statistic(self.norm, totals[0, g], totals[1, g], self._sample(x, g), statistic, g)
        return statistic

    def _shared_statistics(self, x: Any, sums: Any, squares: Any) -> Any:
        """The same where the sums of all work-items meet."""
        parts, whole = _shared(2, self.lines, self.slab), _shared(2, self.slab)
        statistic = _shared(self.groups, 2)
        self._each_vector(lambda c: T.buffer_store(parts, sums[c], [0, self.line, self.column + c]))
        self._each_vector(lambda c: T.buffer_store(parts, squares[c], [1, self.line, self.column + c]))
        T.evaluate(T.tvm_storage_sync("shared"))
        with self._shared_loop(2 * self.slab) as number:
            side, c = T.bind(number // self.slab), T.bind(number % self.slab)
            total = local(1)
            T.buffer_store(total, T.float32(0), [0])
            with T.serial(0, self.lines) as line:
                T.buffer_store(total, total[0] + parts[side, line, c], [0])
            T.buffer_store(whole, total[0], [side, c])
        T.evaluate(T.tvm_storage_sync("shared"))
        with self._shared_loop(self.groups) as g:
            self._statistic(lambda side, c: whole[side, c], self._sample(x, g), g, statistic)
        T.evaluate(T.tvm_storage_sync("shared"))
        return statistic

    @contextmanager
    def _shared_loop(self, count: int) -> Iterator[Any]:
        """A loop over ``count`` numbers, each of which is one work-item's."""
        steps = -(-count // self.threads)
        with ExitStack() as inside:
            step = inside.enter_context(T.serial(0, steps))
            number = T.bind(step * self.threads + self.item)
            self._guard(inside, number, count, steps * self.threads)
            yield number

    def _statistic(self, read: Callable[[int, Any], Any], sample: Any, g: Any, statistic: Any) -> None:
        """Mean and reciprocal deviation of a group from sums by channel."""
        size, moment = self.norm.size, local(2)
        for side in range(2):
            T.buffer_store(moment, T.float32(0), [side])
            with T.serial(0, size) as c:
                T.buffer_store(moment, moment[side] + read(side, g * size + c), [side])
        store_statistic(self.norm, moment[0], moment[1], sample, statistic, g)

    def _parameters(self, weight: Any, bias: Any, statistic: Any) -> tuple[Any, Any]:
        """What each channel of a work-item is multiplied by and adds."""
        factor, shift = local(self.own), local(self.own)

        def store(g: Any, c: Any) -> None:
            channel = T.bind(self.slab_first + self.column + c)
            T.buffer_store(factor, statistic[g, 1] * T.cast(weight[channel], "float32"), [c])
            T.buffer_store(shift, T.cast(bias[channel], "float32") - statistic[g, 0] * factor[c], [c])

        self._each_channel(store)
        return factor, shift

    def _apply(self, x: Any, parameters: tuple[Any, Any], out: Any) -> None:
        norm, (factor, shift) = self.norm, parameters
        top, left, _, _ = norm.padding

        def pixel_of(pixel: Any, y: Any, column: Any) -> None:
            def normalise(c: Any) -> None:
                value = self._value(x, pixel, c) * factor[c] + shift[c]
                value = silu(value, self.power) if norm.silu else value
                place = [self.b, y + top, column + left, self.slab_first + self.column + c]
                T.buffer_store(out, T.cast(value, norm.dtype), place)

            self._each_vector(normalise)

        if self.lines == 1:
            with T.serial(0, norm.height) as y, T.serial(0, norm.width) as column:
                pixel_of(y * norm.width + column, y, column)
            return
        with self._own_places(self.norm.pixels) as pixel:
            pixel_of(pixel, T.bind(pixel // norm.width), T.bind(pixel % norm.width))

    @contextmanager
    def _own_places(self, count: int) -> Iterator[Any]:
        """A loop over those of ``count`` places that are of a work-item's line."""
        steps = -(-count // self.lines)
        with ExitStack() as inside:
            step = inside.enter_context(T.serial(0, steps))
            place = T.bind(step * self.lines + self.line)
            self._guard(inside, place, count, steps * self.lines)
            yield place

    def _border(self, out: Any) -> None:
        norm, (top, left, bottom, right) = self.norm, self.norm.padding
        _, height, width, _ = norm.shape
        edges = (
            (0, 0, top, width),
            (height - bottom, 0, bottom, width),
            (top, 0, norm.height, left),
            (top, width - right, norm.height, right),
        )
        for first_row, first_column, high, wide in edges:
            if high and wide:
                with self._own_places(high * wide) as place:
                    y, column = T.bind(first_row + place // wide), T.bind(first_column + place % wide)

                    def clear(c: Any, y: Any = y, column: Any = column) -> None:
                        channel = self.slab_first + self.column + c
                        T.buffer_store(out, T.cast(T.float32(0), norm.dtype), [self.b, y, column, channel])

                    self._each_vector(clear)


def _zero(_channel: Any) -> Any:
    return T.float32(0)


def _shared(*shape: int) -> Any:
    """Float32 memory of a work-group."""
    return T.sblock_alloc_buffer(shape, "float32", scope="shared", layout=None)
