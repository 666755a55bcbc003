"""Winograd's minimal filtering for 3x3 convolutions of stride 1, in one kernel.

``F(m x m, 3 x 3)`` (Lavin and Gray, arXiv 1509.09308) computes ``m x m`` outputs from ``n x n`` inputs,
``n = m + 2``, by ``n x n`` products where the definition has ``9 m x m``: 2.25 times fewer for m = 2, 4 times
for m = 4. With ``d`` a tile of inputs and ``g`` the weights of one pair of channels::

    out = A^T [ sum over c of (G g G^T) * (B^T d B) ] A

A work-group makes ``tiles`` tiles of ``columns`` output channels from beginning to end. It goes through the
input channels ``depth`` at a time: transforms their inputs, then panel by panel their weights, and adds the
products to ``n x n`` matrices that stay with it. So the weights are kept as the direct convolution has them,
in a ninth of the size and in int8, nothing is stored but the result, and there is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.matmul.blocked import add_products, scaled_weight
from ddimcache.kernels.tiling import local


@dataclass(frozen=True)
class Blocking:
    """What a work-group keeps: ``tiles`` of ``size`` x ``size`` outputs, ``columns`` output channels.

    ``depth`` input channels are transformed at a time; ``rows`` tiles times a panel of weights are kept in
    registers.
    """

    size: int
    tiles: int
    columns: int
    depth: int
    rows: int


NEAR, FAR = 2 / 3, 3 / 2
"""The finite points of F(4 x 4) are 0 and these with both signs.

With the usual 1 and 2 the largest error is four times as large: the powers of a point and of its inverse
grow alike, so that neither transform multiplies much (compare Barabasz et al., arXiv 1803.10986)."""


def _sum(*terms: tuple[float, Any]) -> Any:
    """The sum of ``factor * value``; the first factor is 1."""
    total = terms[0][1]
    for factor, value in terms[1:]:
        total = total + (value if factor == 1 else value * T.float32(factor))
    return total


def transform_input(size: int, d: Sequence[Any]) -> list[Any]:
    """``B^T d`` for ``size`` + 2 values; rows of opposite points share their even and odd parts."""
    if size == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    near, far = NEAR**2, FAR**2
    rows = []
    for point, other in ((NEAR, far), (FAR, near)):
        even, odd = _sum((1, d[4]), (-other, d[2])), _sum((1, d[3]), (-other, d[1]))
        rows += [_sum((1, even), (point, odd)), _sum((1, even), (-point, odd))]
    # The product of both squares is 1, which the first and the last row would multiply by.
    return [_sum((1, d[0] + d[4]), (-near - far, d[2])), *rows, _sum((1, d[1] + d[5]), (-near - far, d[3]))]


def transform_weight(size: int, g: Sequence[Any]) -> list[Any]:
    """``G g`` for 3 weights."""
    if size == 2:
        outer = g[0] + g[2]
        return [g[0], (outer + g[1]) * T.float32(0.5), (outer - g[1]) * T.float32(0.5), g[2]]
    rows = []
    for point, other in ((NEAR, FAR), (FAR, NEAR)):
        square = point**2
        share = 1 / (2 * square * (square - other**2))
        even = _sum((1, g[0] * T.float32(share)), (share * square, g[2]))
        rows += [_sum((1, even), (share * point, g[1])), _sum((1, even), (-share * point, g[1]))]
    return [g[0], *rows, g[2]]


def transform_output(size: int, m: Sequence[Any]) -> list[Any]:
    """``A^T m`` for ``size`` + 2 products."""
    if size == 2:
        return [m[0] + (m[1] + m[2]), (m[1] - m[2]) - m[3]]
    near, far = m[1] + m[2], m[3] + m[4]
    near_odd, far_odd = m[1] - m[2], m[3] - m[4]
    return [
        m[0] + (near + far),
        _sum((1, near_odd * T.float32(NEAR)), (FAR, far_odd)),
        _sum((1, near * T.float32(NEAR**2)), (FAR**2, far)),
        _sum((1, m[5]), (NEAR**3, near_odd), (FAR**3, far_odd)),
    ]


def _transform_square(
    source: Callable[[Any, Any, Any], Any],
    extent: int,
    transform: Callable[[Sequence[Any]], list[Any]],
    result: int,
    lanes: int,
    store: Callable[[Any, int, Any, Any], None],
) -> None:
    """Emits ``transform`` over the columns, then over the rows, of an ``extent`` square of vectors.

    ``source(row, column, lane)`` is read once; ``store(row, column, lane, value)`` gets ``result`` squared.
    What is the same for all columns, or rows, is a loop that is unrolled when the kernel is built: TVM takes
    most of the time of a compilation to look through statements before that.
    """
    half = local(result, extent, lanes)
    with T.unroll(0, extent) as column:
        line = local(extent, lanes)
        with T.unroll(0, extent) as row, T.vectorized(0, lanes) as lane:
            T.buffer_store(line, source(row, column, lane), [row, lane])
        for row in range(result):
            with T.vectorized(0, lanes) as lane:
                values = transform([line[k, lane] for k in range(extent)])
                T.buffer_store(half, values[row], [row, column, lane])
    with T.unroll(0, result) as row:
        for column in range(result):
            with T.vectorized(0, lanes) as lane:
                values = transform([half[row, k, lane] for k in range(extent)])
                store(row, column, lane, values[column])


def _given(value: Any, _indices: Sequence[Any]) -> Any:
    return value


class _Matrices:
    """A matrix of ``size`` numbers for every position, a vector apart from each other.

    Else the same place of all positions, which a transform stores one after another, would lie in one set of
    the nearest cache, as sizes are powers of two. One axis, because TVM cuts what is not used from each.
    """

    def __init__(self, positions: int, size: int, lanes: int) -> None:
        self.stride = size + lanes
        self.buffer = local(positions * self.stride)

    def place(self, position: Any, place: Any) -> tuple[Any, list[Any]]:
        return self.buffer, [position * self.stride + place]

    def read(self, position: Any, place: Any) -> Any:
        return self.buffer[position * self.stride + place]

    def store(self, value: Any, position: Any, place: Any) -> None:
        T.buffer_store(self.buffer, value, [position * self.stride + place])


class _Emitter:
    """The loops of one convolution; see :func:`winograd`."""

    def __init__(self, x: Any, weight: Any, scale: Any, blocking: Blocking, lanes: int) -> None:
        self.x, self.weight, self.scale, self.blocking, self.lanes = x, weight, scale, blocking, lanes
        batch, height, width, self.depth = (int(extent) for extent in x.ty.shape)
        self.height, self.width = height - 2, width - 2
        self.panel = int(weight.ty.shape[-1])
        self.side = blocking.size + 2
        self.high, self.wide = -(-self.height // blocking.size), -(-self.width // blocking.size)
        self.count = batch * self.high * self.wide
        self.panels = blocking.columns // self.panel
        self.tile_blocks = -(-self.count // blocking.tiles)
        self.groups = self.tile_blocks * (int(weight.ty.shape[0]) // self.panels)

    def emit(self, finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None]) -> None:
        """Emits the whole kernel."""
        tiles, block, positions = self.blocking.tiles, self.blocking.depth, self.side**2
        with (
            T.thread_binding(0, self.groups, thread="blockIdx.x") as group,
            T.thread_binding(0, 1, thread="threadIdx.x"),
        ):
            self.inputs = _Matrices(positions, tiles * block, self.lanes)
            self.weights = _Matrices(positions, block * self.panel, self.lanes)
            self.sums = _Matrices(positions, self.panels * tiles * self.panel, self.lanes)
            self.first_tile = T.bind(group % self.tile_blocks * tiles)
            self.first_panel = T.bind(group // self.tile_blocks * self.panels)
            self._clear()
            with T.serial(0, self.depth // block) as step:
                self._transform_inputs(step)
                with T.serial(0, self.panels) as panel:
                    self._transform_weights(step, panel)
                    self._multiply(panel)
            self._transform_outputs(finish)

    def _clear(self) -> None:
        vectors = self.panels * self.blocking.tiles * self.panel // self.lanes
        with (
            T.serial(0, self.side**2) as position,
            T.serial(0, vectors) as vector,
            T.vectorized(0, self.lanes) as lane,
        ):
            self.sums.store(T.float32(0), position, vector * self.lanes + lane)

    def _place(self, tile: Any) -> tuple[Any, Any, Any]:
        """Batch, first row and first column of a tile; the last work-groups repeat the last tile."""
        index = self.first_tile + tile
        if self.count % self.blocking.tiles:
            index = T.min(index, self.count - 1)
        index = T.bind(index)
        size = self.blocking.size
        return (
            T.bind(index // (self.high * self.wide)),
            T.bind(index // self.wide % self.high * size),
            T.bind(index % self.wide * size),
        )

    def _transform_inputs(self, step: Any) -> None:
        size, side, lanes, block = self.blocking.size, self.side, self.lanes, self.blocking.depth

        def inside(position: Any, extent: int) -> Any:
            # Tiles that reach over the edge repeat the last row or column.
            return position if extent % size == 0 else T.min(position, extent + 1)

        with T.serial(0, self.blocking.tiles) as tile:
            b, top, left = self._place(tile)
            with T.serial(0, block // lanes) as vector:

                def source(row: Any, column: Any, lane: Any) -> Any:
                    y, x = inside(top + row, self.height), inside(left + column, self.width)
                    return T.cast(self.x[b, y, x, step * block + vector * lanes + lane], "float32")

                def store(row: Any, column: int, lane: Any, value: Any) -> None:
                    place = tile * block + vector * lanes + lane
                    self.inputs.store(value, row * side + column, place)

                _transform_square(source, side, lambda d: transform_input(size, d), side, lanes, store)

    def _transform_weights(self, step: Any, panel: Any) -> None:
        size, side, lanes, block = self.blocking.size, self.side, self.lanes, self.blocking.depth
        with T.serial(0, block) as c, T.serial(0, self.panel // lanes) as vector:

            def source(row: Any, column: Any, lane: Any) -> Any:
                place = (self.first_panel + panel, row, column, step * block + c, vector * lanes + lane)
                return scaled_weight(self.weight, self.scale, place)

            def store(row: Any, column: int, lane: Any, value: Any) -> None:
                place = c * self.panel + vector * lanes + lane
                self.weights.store(value, row * side + column, place)

            _transform_square(source, 3, lambda g: transform_weight(size, g), side, lanes, store)

    def _multiply(self, panel: Any) -> None:
        strip, width, block = self.blocking.rows, self.panel, self.blocking.depth
        with (
            T.serial(0, self.side**2) as position,
            T.serial(0, self.blocking.tiles // strip) as line,
        ):
            place = T.bind((panel * self.blocking.tiles + line * strip) * width)
            add_products(
                lambda row, first, lane: self.sums.place(position, place + (row * width + first) + lane),
                lambda row, k: self.inputs.read(position, (line * strip + row) * block + k),
                lambda k, column: self.weights.read(position, k * width + column),
                strip=strip,
                depth=block,
                panel=width,
                lanes=self.lanes,
            )

    def _transform_outputs(
        self, finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None]
    ) -> None:
        size, side, lanes, tiles = self.blocking.size, self.side, self.lanes, self.blocking.tiles
        with T.serial(0, tiles) as tile:
            b, top, left = self._place(tile)
            with T.serial(0, self.panels) as panel, T.serial(0, self.panel // lanes) as vector:
                result = local(size, size, lanes)

                def source(row: Any, column: Any, lane: Any) -> Any:
                    place = (panel * tiles + tile) * self.panel + vector * lanes + lane
                    return self.sums.read(row * side + column, place)

                def store(row: Any, column: int, lane: Any, value: Any) -> None:
                    T.buffer_store(result, value, [row, column, lane])

                _transform_square(source, side, lambda m: transform_output(size, m), size, lanes, store)
                first = T.bind((self.first_panel + panel) * self.panel + vector * lanes)
                for row in range(size):
                    for column in range(size):
                        with ExitStack() as inside:
                            edges = ((top, row, self.height), (left, column, self.width))
                            for start, offset, extent in edges:
                                if 0 < extent % size <= offset:
                                    inside.enter_context(T.If(start + offset < extent))
                                    inside.enter_context(T.Then())
                            lane = inside.enter_context(T.vectorized(0, lanes))
                            indices = (b, top + row, left + column, first + lane)
                            value = result[row, column, lane]
                            finish(indices, partial(_given, value))


def winograd(
    x: Any,
    weight: Any,
    scale: Any,
    blocking: Blocking,
    lanes: int,
    finish: Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None],
) -> None:
    """Emits the loops of the convolution of ``x`` [B, H + 2, W + 2, C] with packed [O / P, 3, 3, C, P].

    ``scale`` [O / P, 3, 3, G, P] is of groups of weights, or None.
    O, P and C are multiples of ``lanes``, O / P of the panels of a work-group, ``blocking.tiles`` of its
    ``rows``, C of its ``depth``. ``finish`` is given the indices (batch, row, column, channel) of a result
    and its float32 sum, and stores what becomes of it; it is called inside a loop over lanes.
    """
    _Emitter(x, weight, scale, blocking, lanes).emit(finish)
