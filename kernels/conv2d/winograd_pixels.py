"""Winograd's convolution of tiles that were transformed before, for devices whose products read pixels.

A work-group has a product of pixels (``kernels/pixels.py``) for each of the 16 positions of a tile. Weights
lie as the direct convolution has them, int8 in nine numbers a pair of channels, and are transformed as they
are brought to local memory: a work-item makes a row of positions of a vector of weights, and reads all nine
for that. Behind the loop the sums of all positions, and of all parts of the reduction, meet in local memory,
where work-items make outputs of them in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.conv2d.tiled import POSITIONS, SIDE, SIZE
from ddimcache.kernels.pixel_blocks import PixelBlocking
from ddimcache.kernels.pixel_memory import FRACTION, counted, memory, read_pixel, synchronise
from ddimcache.kernels.pixels import WEIGHT_PLACE, Finish, PixelProduct
from ddimcache.kernels.tiling import PIXEL

OUTPUTS = SIZE**2
"""Outputs of a tile."""

_PACKED, _MATRIX_BITS, _STORED_BITS = 0, 8, 12
"""The place that holds three numbers, and bits of two: which weights a work-item multiplies, where it stores
those that it brings, and its own number. Apart they would be two registers more than are left where nine
weights have been read."""


class TiledProduct(PixelProduct):
    """Emits the convolution of transformed ``x`` [B, H / 2, W / 2, 16, C] to [B, H, W, O].

    ``weight`` is packed, [O / P, 3, 3, C, P]; ``height`` and ``width`` are H and W. ``blocking`` has 16
    positions and its rows, which are tiles here, are together; ``down`` is a multiple of P / 4. Everything
    else is as of :class:`PixelProduct`.
    """

    def __init__(
        self,
        x: Any,
        weight: Any,
        scale: Any,
        blocking: PixelBlocking,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        image_pixels: int,
    ) -> None:
        lines = [int(extent) for extent in x.ty.shape[:3]]
        super().__init__(
            x, weight, scale, blocking, lines, (1, 1), False, channels, dtype, image_pixels, taps=(1, 1)
        )
        self.edges = (height, width)
        assert blocking.parts * blocking.across * POSITIONS <= 1 << _MATRIX_BITS
        assert blocking.parts * blocking.across * POSITIONS * self.staged <= 1 << _STORED_BITS

    def _locate(self, item: Any) -> None:
        super()._locate(item)
        own = self.blocking
        number = item // (own.down * own.across)
        self.position, self.part = number % POSITIONS, number // POSITIONS
        self.member = number
        """The work-item's number among those that make outputs of the same tiles."""

    def _shared_vectors(self) -> int:
        own = self.blocking
        weights = own.parts * own.across * POSITIONS * self.staged
        outputs = own.down * own.across * own.rows * OUTPUTS
        return max(weights, own.items * self.vectors, outputs * self.vectors)

    def _place_weights(self) -> None:
        matrices = (self.part * self.blocking.across + self.across) * POSITIONS
        line = T.bind(matrices + self.position // SIDE * SIDE) * self.staged
        stored = T.shift_left(line + self._staged_slot(), _MATRIX_BITS)
        item = T.shift_left(self.item, _MATRIX_BITS + _STORED_BITS)
        T.buffer_store(self.place, T.bind(matrices + self.position) + stored + item, [_PACKED])
        first = self.panel * (9 * self.chunks * self.staged) + self._chunk(0) * self.staged + self._brought()
        # With the number of a work-item's row of positions in its lowest bits, see ``_factors``.
        T.buffer_store(self.place, first * SIDE + self.position // SIDE, [WEIGHT_PLACE])

    def _slot(self) -> Any:
        return T.bitwise_and(self.place[_PACKED], (1 << _MATRIX_BITS) - 1) * self.staged

    def _stored(self) -> Any:
        return T.bitwise_and(T.shift_right(self.place[_PACKED], _MATRIX_BITS), (1 << _STORED_BITS) - 1)

    def _kept_item(self) -> Any:
        return T.shift_right(self.place[_PACKED], _MATRIX_BITS + _STORED_BITS)

    def _factors(self) -> list[Any]:
        """What the row of ``G`` of a work-item's positions has of the three rows of weights.

        The row's number comes with the place of the weights, which the loop counts on: from anything else a
        driver's compiler would compute the factors before the loop, and keep them in registers.
        """
        line = self._line()
        zero, half, one = (tirx.const(number, self.dtype) for number in (0.0, 0.5, 1.0))
        inner = T.And(line > 0, line < SIDE - 1)
        middle = T.Select(inner, T.Select(line < 2, half, -half), zero)
        return [
            T.Select(inner, half, T.Select(line < 1, one, zero)),
            middle,
            T.Select(inner, half, T.Select(line < 1, zero, one)),
        ]

    def _line(self) -> Any:
        """The number of the row of positions that a work-item makes weights of."""
        return T.bitwise_and(self.place[WEIGHT_PLACE], SIDE - 1)

    def _weight_place(self, _step: Any) -> Any:
        return T.shift_right(self.place[WEIGHT_PLACE], SIDE.bit_length() - 1)

    def _count_weights(self) -> None:
        T.buffer_store(self.place, self.place[WEIGHT_PLACE] + self.staged * SIDE, [WEIGHT_PLACE])

    def _brought(self) -> Any:
        """The number of a work-item among those that bring the same row of positions."""
        return self.position % SIDE * self.blocking.down + self.tile

    def _staged_slot(self) -> Any:
        first = self._brought()
        return first % self.width * self.blocking.chunk + first // self.width

    def _vector_place(self, row: int) -> Any:
        return self._row_number(row) * POSITIONS + self.position

    def _distance(self) -> int:
        return POSITIONS

    def _bring_weights(self, step: Any, chunk: Any, inside: Any) -> None:
        """The work-items of a row of positions transform the weights of a chunk into local memory."""
        sharing = SIDE * self.blocking.down
        each = -(-self.staged // sharing)
        held = [self._transformed(step, chunk, number * sharing, inside) for number in range(each)]
        self._count_weights()
        synchronise()
        for number in range(each):
            with ExitStack() as guard:
                if (number + 1) * sharing > self.staged:
                    guard.enter_context(T.If(self._brought() + number * sharing < self.staged))
                    guard.enter_context(T.Then())
                for column in range(SIDE):
                    further = column * self.staged + number * (sharing // self.width)
                    with T.vectorized(0, PIXEL) as lane:
                        place = (self._stored() + further) * PIXEL + lane
                        T.buffer_store(self.shared, held[number][column, lane], [place])
        synchronise()

    def _transformed(self, step: Any, chunk: Any, further: int, inside: Any) -> Any:
        """A row of positions of the vector of weights that lies ``further`` behind a work-item's first."""
        taps, held = memory("local", self.dtype, 3 * PIXEL), memory("local", self.dtype, SIDE, PIXEL)
        line = memory("local", self.dtype, 3, PIXEL)
        beside = self.chunks * self.staged
        place = self._weight_place(step) + further
        if further + SIDE * self.blocking.down > self.staged or inside is not None:
            place = T.min(place, (self.panels * 9 - 8) * beside - 1)
        factors = memory("local", self.dtype, 3)
        for row, factor in enumerate(self._factors()):
            T.buffer_store(factors, factor, [row])
        for column in range(3):
            for row in range(3):
                tap = 3 * row + column
                scale = None if self.scale is None else self._scale_of(chunk, further, tap)
                self._read_tap(taps, row, place + tap * beside, scale)
            with T.vectorized(0, PIXEL) as lane:
                terms = [taps[row * PIXEL + lane] * factors[row] for row in range(3)]
                T.buffer_store(line, terms[0] + terms[1] + terms[2], [column, lane])
        half = tirx.const(0.5, self.dtype)
        with T.vectorized(0, PIXEL) as lane:
            first, middle, last = (line[column, lane] for column in range(3))
            outer = (first + last) * half
            columns = (first, outer + middle * half, outer - middle * half, last)
            for column, value in enumerate(columns):
                if inside is not None:
                    value = value * T.Select(inside, tirx.const(1, self.dtype), tirx.const(0, self.dtype))
                T.buffer_store(held, value, [column, lane])
        return held

    def _read_tap(self, taps: Any, row: int, place: Any, scale: Callable[[Any], Any] | None) -> None:
        """Reads the weights at ``place``, times their ``scale``, to a ``row`` of ``taps``."""
        read_pixel(taps, row, self.weight, place, self.image_pixels)
        if scale is not None:
            with T.vectorized(0, PIXEL) as lane:
                T.buffer_store(taps, taps[row * PIXEL + lane] * scale(lane), [row * PIXEL + lane])

    def _scale_of(self, chunk: Any, further: int, tap: int) -> Any:
        """The scales of a vector of output channels at a tap, times what their fractions lack."""
        groups = int(self.scale.ty.shape[-2])
        n = T.min(self._brought() + further, self.staged - 1)
        channel = chunk * (self.blocking.chunk * PIXEL) + n // self.vectors
        place = (self.panel, tap // 3, tap % 3, channel // (self.depth // groups))

        def scale(lane: Any) -> Any:
            value = self.scale[(*place, n % self.vectors * PIXEL + lane)]
            return T.cast(value * T.float32(FRACTION), self.dtype)

        return scale

    def _finish_all(self, finish: Finish) -> None:
        """Makes outputs of the sums of all positions, some by each work-item, and stores them."""
        own, teams = self.blocking, self.blocking.down * self.blocking.across
        members, numbers = POSITIONS * own.parts, OUTPUTS * self.width
        each = -(-numbers // members)
        team, first = self.item % teams, self.member * each
        total = memory("local", "float32", own.rows, each)
        for row in range(own.rows):
            self._add_positions(row, team, first, total)
        mine = team * (own.rows * OUTPUTS * self.vectors)
        synchronise()
        with ExitStack() as guard:
            if members * each > numbers:
                guard.enter_context(T.If(first < numbers))
                guard.enter_context(T.Then())
            for row in range(own.rows):
                for number in range(each):
                    place = mine * PIXEL + row * numbers + first + number
                    T.buffer_store(self.shared, T.cast(total[row, number], self.dtype), [place])
        synchronise()
        count = own.rows * OUTPUTS * self.vectors
        with counted(self.nought, -(-count // members)) as step, ExitStack() as guard:
            number = step * members + self.member
            if count % members:
                guard.enter_context(T.If(number < count))
                guard.enter_context(T.Then())
            self._finish_output(finish, number, mine)

    def _add_positions(self, row: int, team: Any, first: Any, total: Any) -> None:
        """Adds up ``A^T m A`` of a tile of ``team`` over all parts, for its numbers from ``first`` on.

        An output of the first row or column is the sum of three positions, one of the second the first of
        them without the others.
        """
        own, (_, each) = self.blocking, (int(extent) for extent in total.ty.shape)
        beside = own.down * own.across * self.width
        down, right = first // (self.width * SIZE) % SIZE, first // self.width % SIZE
        signs = memory("local", "float32", 2)
        for side, place in enumerate((down, right)):
            T.buffer_store(signs, T.cast(1 - 2 * place, "float32"), [side])
        synchronise()
        for vector in range(self.vectors):
            self._put(self.item * self.vectors + vector, row, vector)
        synchronise()
        for number in range(each):
            T.buffer_store(total, T.float32(0), [row, number])
        # Written out, many parts are more instructions than fit into their cache.
        with counted(self.nought, own.parts) if own.parts > 1 else nullcontext(0) as part:
            position = part * POSITIONS + down * SIDE + right
            begin = position * beside + team * self.width + first % self.width

            def sum_of(line: int, number: int) -> Any:
                one, two, three = (
                    T.cast(self.shared[begin + number + (line * SIDE + column) * beside], "float32")
                    for column in range(3)
                )
                return one + (two + three) * signs[1]

            for number in range(each):
                value = sum_of(0, number) + (sum_of(1, number) + sum_of(2, number)) * signs[0]
                T.buffer_store(total, total[row, number] + value, [row, number])

    def _finish_output(self, finish: Finish, number: Any, mine: Any) -> None:
        """Stores a vector of an output of a tile, where that is inside the result."""
        row, output, which = number // (OUTPUTS * self.vectors), number // self.vectors, number % self.vectors
        with ExitStack() as guard:
            batch, down, right = self._indices(row)
            places = (down * SIZE + output // SIZE % SIZE, right * SIZE + output % SIZE)
            for place, extent in zip(places, self.edges, strict=True):
                if extent % SIZE:
                    guard.enter_context(T.If(place < extent))
                    guard.enter_context(T.Then())
            self._store(finish, [batch, *places], which, mine + number - which)
