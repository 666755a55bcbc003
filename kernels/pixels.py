"""Products whose operands are read as pixels, in blocks whose work-items share weights and long sums.

A device with a texture path reads four consecutive numbers by one instruction, converted to the type of the
activations; of int8 it makes the fractions w / 127 (``CL_SNORM_INT8``), and the 127 is given back where a sum
is finished.

A work-item makes ``rows`` results of a panel of output channels, in that type. Activations come as pixels,
one a row for four steps of the reduction. Weights are read as pixels too, but once for all work-items of a
group that share them: these bring ``chunk`` pixels of every row of the panel to local memory together, so
that image reads and local memory are at work at the same time.

A float16 sum loses digits with the root of its length. A long reduction is therefore cut into ``parts``, each
for a work-item of the same group, and their sums are added up in float32 through local memory. A kernel's
attribute ``PIXELS`` has a word for that:

- ``half``: one sum in float16, or parts where that is faster.
- ``chunks``: parts that are short enough for the device (``PixelTable.longest_of``).
- ``float``: everything in float32.

What work-groups are made of is in ``pixel_blocks.py``; what attention reads pixels by, too, in
``pixel_memory.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.pixel_blocks import (
    WRITTEN_OUT,
    PixelBlocking,
    gated_together,
    line_of,
    tiles_of_rows,
)
from ddimcache.kernels.pixel_memory import FRACTION, counted, memory, read_back, read_pixel, synchronise
from ddimcache.kernels.tiling import PIXEL, largest_divisor

_SLOT, _STORED, WEIGHT_PLACE, _JUMP = range(4)
"""Places that are kept: of weights in local memory, where to bring them, where from; and a step of rows."""

_MOST_PARTS_TOGETHER, _PARTS_TOGETHER = 27, 12
"""Parts whose sums are added up without a loop, and by a turn of one where there are more: 30 would all
be read at once, and want more registers than the products."""

_ROWS_TOGETHER = 2
"""Rows whose results go through local memory together: more of it would leave fewer waves resident."""


Finish = Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None]


class PixelProduct:
    """Emits the product of ``x`` and packed ``weight``; see the module's text.

    ``x`` is [..., K] with ``weight`` [N / P, K, P], or padded [B, H, W, C] with [O / P, KH, KW, C, P] and
    ``strides``; K and C are multiples of four, P is 4 or 8. Operands of more than ``image_pixels`` pixels are
    read as buffers; sums are of ``dtype``. ``scale`` is of groups of int8 weights, packed as
    these are, or None. ``finish(indices, read)`` stores what becomes of the sum at ``indices``, that end with
    the channel, ``read`` being the float32 sum; it is called inside a loop over lanes. With ``pairs`` a
    panel holds values and their gates, and the indices are (..., panel, column) with sums at
    (..., panel, side, column).
    """

    def __init__(
        self,
        x: Any,
        weight: Any,
        scale: Any,
        blocking: PixelBlocking,
        lines: Sequence[int],
        strides: tuple[int, int],
        pairs: bool,
        channels: int,
        dtype: str,
        image_pixels: int,
        taps: tuple[int, int] | None = None,
    ) -> None:
        self.x, self.weight, self.scale, self.blocking = x, weight, scale, blocking
        self.lines, self.strides, self.pairs, self.channels = tuple(lines), strides, pairs, channels
        self.dtype, self.image_pixels = dtype, image_pixels
        self.panels, *sides, self.depth, self.width = (int(extent) for extent in weight.ty.shape)
        self.taps = taps or ((sides[0], sides[1]) if sides else (1, 1))
        self.vectors = self.width // PIXEL
        self.side = self.width // 2
        """Values of a gated panel, and gates."""
        self.gated = gated_together(blocking, self.width)
        self.results = self.side // self.gated if pairs else self.vectors
        """Results of a row that are finished one after another: vectors, or some gated numbers."""
        self.loops = blocking.chunk >= WRITTEN_OUT[dtype]
        """Whether a driver's compiler leaves the hot loop as it is."""
        self.rows = math.prod(self.lines)
        self.line = line_of(self.lines, self.taps, strides)
        self.counted = 1 if blocking.together else blocking.rows
        """Places that are counted on in the loop: the first row's, or those of all rows."""
        self.chunks_of_line = self.depth // PIXEL * self.taps[1] // blocking.chunk
        self.chunks = self.chunks_of_line * self.taps[0]
        self.steps = -(-self.chunks // blocking.parts)
        self.staged = blocking.chunk * self.width
        """Pixels of weights of a chunk: PIXEL rows of a panel a pixel of a row."""

    def emit(self, finish: Finish) -> None:
        """Emits the whole kernel."""
        own = self.blocking
        with (
            T.thread_binding(0, -(-self._tiles() // own.down), thread="blockIdx.x") as block,
            T.thread_binding(0, self.panels // own.across, thread="blockIdx.y") as panel_block,
            T.thread_binding(0, own.items, thread="threadIdx.x") as item,
        ):
            self.block, self.panel_block = block, panel_block
            self._locate(item)
            self.shared = memory("shared", self.dtype, PIXEL * self._shared_vectors())
            self.places = memory("local", "int32", self.counted)
            self.sums = memory("local", self.dtype, own.rows, self.vectors, PIXEL)
            if not self.loops:
                self._hide_nought(item)
            self.place = memory("local", "int32", 4)
            self._place_weights()
            self._place_rows()
            for row in range(own.rows):
                for vector in range(self.vectors):
                    with T.vectorized(0, PIXEL) as lane:
                        T.buffer_store(self.sums, T.cast(0, self.dtype), [row, vector, lane])
            with self._all_steps() as step:
                self._step(step)
            self._forget_item(self._kept_item())
            self._finish_all(finish)

    def _all_steps(self) -> Any:
        """The loop over the chunks of a work-item."""
        return T.serial(0, self.steps)

    def _tiles(self) -> int:
        """Work-items that the rows need, those of a column of panels."""
        return tiles_of_rows(self.rows, self.line if self.blocking.together else 0, self.blocking.rows)

    def _shared_vectors(self) -> int:
        """Vectors of local memory: of weights, of sums on their way to others, and of finished ones."""
        own = self.blocking
        staged = own.parts * own.across * self.staged
        exchanged = own.items * min(_ROWS_TOGETHER if own.parts == 1 else 1, own.rows)
        finished = own.down * own.across * own.rows if own.parts > 1 else 0
        return max(staged, exchanged * self.vectors, finished * self.vectors)

    def _place_weights(self) -> None:
        """Where a work-item reads weights in local memory, where it puts those that it brings, and whence."""
        slot = T.bind((self.part * self.blocking.across + self.across) * self.staged)
        first = self.panel * (self.chunks * self.staged) + self._chunk(0) * self.staged + self.tile
        for number, place in ((_SLOT, slot), (_STORED, slot + self._staged_slot()), (WEIGHT_PLACE, first)):
            T.buffer_store(self.place, place, [number])

    def _slot(self) -> Any:
        """Where the weights that a work-item multiplies lie in local memory, in vectors."""
        return self.place[_SLOT]

    def _first_slot(self, pixel: Any) -> Any:
        """Where the first of the weights of a step of four inputs lies there."""
        return self._slot() + pixel

    def _stored(self) -> Any:
        """Where it puts the first of those that it brings."""
        return self.place[_STORED]

    def _weight_place(self, _step: Any) -> Any:
        """Whence it brings the first weights of a step, in pixels; the loop counts on."""
        return self.place[WEIGHT_PLACE]

    def _count_weights(self) -> None:
        """Goes on to the weights of the next step."""
        T.buffer_store(self.place, self.place[WEIGHT_PLACE] + self.staged, [WEIGHT_PLACE])

    def _kept_item(self) -> Any:
        """The work-item's number, as it is kept through the loop."""
        return self.item

    def _finish_all(self, finish: Finish) -> None:
        """Stores the results of the group, behind the loop."""
        if self.blocking.parts == 1:
            self._finish_sums(finish)
        else:
            self._add_parts(finish)

    def _locate(self, item: Any) -> None:
        # Not bound to names: of those TVM does not know how large they are, and takes 64 bits for them.
        own = self.blocking
        self.item = item
        self.tile = item % own.down
        self.across = item // own.down % own.across
        self.part = item // (own.down * own.across)
        self.first_row = self._first_row(self.block * own.down + self.tile)
        self.panel = self.panel_block * own.across + self.across

    def _hide_nought(self, item: Any) -> None:
        """Makes a ``nought`` that a driver's compiler does not know, before the loop."""
        self._forget_item(item)

    def _forget_item(self, kept: Any) -> None:
        """Reads the work-item's number, which is ``kept``, from where it is put.

        A driver's compiler then cannot compute or read before the loop what is needed behind it, which would
        keep a dozen registers through the loop. ``nought`` is 0, which it does not know either: the panel's
        number depends on it for the same reason, and so do loops that it must not write out.
        """
        item, self.nought = read_back(kept, self.blocking.items, self.shared)
        self.panel_block = self.panel_block + self.nought
        self._locate(item)

    def _first_row(self, tile: Any) -> Any:
        """The number of a work-item's first row.

        Where rows are together, work-items at the end of a line begin earlier and make the same results as
        others, and those behind the last one make its results.
        """
        own = self.blocking
        if not own.together:
            return tile * own.rows
        if self.line == self.rows:
            return T.min(tile * own.rows, self.rows - own.rows)
        of_line = -(-self.line // own.rows)
        tile = T.cast(T.min(tile, self._tiles() - 1), "uint32")
        line, place = (
            T.cast(part, "int32") for part in (tile // T.uint32(of_line), tile % T.uint32(of_line))
        )
        return line * self.line + T.min(place * own.rows, self.line - own.rows)

    def _row_number(self, row: Any) -> Any:
        """The number of a row; behind the last one that is repeated."""
        number = self.first_row + row
        return number if self.blocking.together else T.min(number, self.rows - 1)

    def _indices(self, row: Any) -> list[Any]:
        """The indices of a row of the result."""
        index = self._row_number(row)
        indices: list[Any] = []
        for extent in reversed(self.lines[1:]):
            indices.insert(0, index % extent)
            index = index // extent
        return [index, *indices]

    def _place_rows(self) -> None:
        """Where each row's first number lies in ``x``, in pixels.

        Places are counted on in a loop and kept in a buffer: a driver's compiler that finds a sum of products
        in a loop may well compute it there every time, and a name is written out wherever it is used.
        """
        begin = T.bind(self._offset(self._chunk(0)))
        for row in range(self.counted):
            place = self._vector_place(row) * (self.depth // PIXEL)
            T.buffer_store(self.places, place + begin, [row])

    def _pixel_place(self, row: int) -> Any:
        """Where a row is read, in pixels."""
        if self.blocking.together:
            return self.places[0] + row * (self._distance() * self.depth // PIXEL)
        return self.places[row]

    def _distance(self) -> int:
        """How far behind each other the rows of a line lie in ``x``, in vectors of all channels."""
        return self.strides[1]

    def _vector_place(self, row: int) -> Any:
        """Where the inputs of a row begin in ``x``, in vectors of all channels."""
        if self.taps == (1, 1) and self.strides == (1, 1):
            return self._row_number(row)
        _, height, width, _ = (int(extent) for extent in self.x.ty.shape)
        batch, down, right = self._indices(row)
        return (batch * height + down * self.strides[0]) * width + right * self.strides[1]

    def _chunk(self, step: Any) -> Any:
        """The number of a chunk; behind the end of the reduction the last one is read again."""
        chunk = self.part * self.steps + step
        return T.min(chunk, self.chunks - 1) if self.chunks % self.blocking.parts else chunk

    def _offset(self, chunk: Any) -> Any:
        """Where a chunk begins, in pixels from a row's first number: a line of taps lies together."""
        first = chunk * self.blocking.chunk
        if self.taps[0] == 1:
            return first
        beside = (int(self.x.ty.shape[2]) - self.taps[1]) * (self.depth // PIXEL)
        return T.cast(T.cast(chunk, "uint32") // T.uint32(self.chunks_of_line), "int32") * beside + first

    def _step(self, step: Any) -> None:
        own = self.blocking
        chunk = T.bind(self._chunk(step))
        inside = self.part * self.steps + step < self.chunks
        self._bring_weights(step, chunk, inside if self.chunks % own.parts else None)
        with T.serial(0, own.chunk) if self.loops else counted(self.nought, own.chunk) as pixel:
            values = memory("local", self.dtype, own.rows * PIXEL)
            factor = memory("local", self.dtype, PIXEL)
            for row in range(own.rows):
                read_pixel(values, row, self.x, self._pixel_place(row), self.image_pixels)
            first = self._first_slot(pixel)
            for k in range(PIXEL):
                for vector in range(self.vectors):
                    # Steps of the reduction lie apart, so that a driver's compiler does not load four
                    # together and run out of registers.
                    slot = first + (k * self.vectors + vector) * own.chunk
                    with T.vectorized(0, PIXEL) as lane:
                        T.buffer_store(factor, self.shared[slot * PIXEL + lane], [lane])
                    for row in range(own.rows):
                        with T.vectorized(0, PIXEL) as lane:
                            product = values[row * PIXEL + k] * factor[lane]
                            T.buffer_store(
                                self.sums, self.sums[row, vector, lane] + product, [row, vector, lane]
                            )
            self._count_places()
        if self.taps[0] != 1 or self.chunks % own.parts:
            self._jump(step, chunk)

    def _count_places(self) -> None:
        """Goes on to the next pixel of every row."""
        for row in range(self.counted):
            T.buffer_store(self.places, self.places[row] + 1, [row])

    def _jump(self, step: Any, chunk: Any) -> None:
        """Goes on from the end of a ``chunk`` to the beginning of the next step's."""
        jump = self._offset(self._chunk(step + 1)) - self._offset(chunk) - self.blocking.chunk
        T.buffer_store(self.place, jump, [_JUMP])
        for row in range(self.counted):
            T.buffer_store(self.places, self.places[row] + self.place[_JUMP], [row])

    def _bring_weights(self, step: Any, chunk: Any, inside: Any) -> None:
        """The work-items of a column of a group read the weights of a step's chunk to local memory."""
        own = self.blocking
        each = -(-self.staged // own.down)
        held = memory("local", self.dtype, each * PIXEL)
        beyond = own.down * each > self.staged or inside is not None
        last = self.panels * self.chunks * self.staged - 1
        for number in range(each):
            place = self._weight_place(step) + number * own.down
            place = T.min(place, last) if beyond else place
            read_pixel(held, number, self.weight, place, self.image_pixels)
            if self.scale is not None:
                scale = self._scale_pixel(chunk, number)
                with T.vectorized(0, PIXEL) as lane:
                    scaled = held[number * PIXEL + lane] * scale(lane)
                    T.buffer_store(held, scaled, [number * PIXEL + lane])
        self._count_weights()
        synchronise()
        for number in range(each):
            n = self.tile + number * own.down
            with ExitStack() as guard:
                if number * own.down + own.down > self.staged:
                    guard.enter_context(T.If(n < self.staged))
                    guard.enter_context(T.Then())
                lane = guard.enter_context(T.vectorized(0, PIXEL))
                value = held[number * PIXEL + lane]
                if inside is not None:
                    value = value * T.Select(inside, T.cast(1, self.dtype), T.cast(0, self.dtype))
                T.buffer_store(self.shared, value, [(self._stored() + self._further(number)) * PIXEL + lane])
        synchronise()

    def _staged_slot(self) -> Any:
        """Where a work-item puts its first pixel of a chunk of weights: steps of the reduction lie apart."""
        return self.tile % self.width * self.blocking.chunk + self.tile // self.width

    def _further(self, number: int) -> int:
        """How far behind a work-item's first pixel it puts another one; whole steps are brought together."""
        return number * (self.blocking.down // self.width)

    def _scale_pixel(self, chunk: Any, number: int) -> Callable[[Any], Any]:
        """The scales of the output channels of a pixel of weights, times what their fractions lack."""
        own, groups = self.blocking, int(self.scale.ty.shape[-2])
        n = T.min(self.tile + number * own.down, self.staged - 1)
        k = chunk * (own.chunk * PIXEL) + n // self.vectors
        tap, channel = k // self.depth, k % self.depth
        outer = [tap // self.taps[1], tap % self.taps[1]] if len(self.scale.ty.shape) == 5 else []
        group = channel // (self.depth // groups)

        def scale(lane: Any) -> Any:
            value = self.scale[(self.panel, *outer, group, n % self.vectors * PIXEL + lane)]
            return T.cast(value * T.float32(FRACTION), self.dtype)

        return scale

    def _finish_sums(self, finish: Finish) -> None:
        """Stores results, two rows at a time, which a loop takes from local memory: written out, they would
        all want their registers at once."""
        own = self.blocking
        together = min(_ROWS_TOGETHER, own.rows)
        synchronise()
        for first in range(0, own.rows, together):
            count = min(together, own.rows - first)
            mine = self.item * (together * self.vectors)
            for row in range(count):
                for vector in range(self.vectors):
                    self._put(mine + row * self.vectors + vector, first + row, vector)
            with counted(self.nought, count * self.results) as number:
                row = number // self.results
                self._finish(finish, first + row, number % self.results, mine + row * self.vectors)

    def _add_parts(self, finish: Finish) -> None:
        """Adds the parts of every sum up in float32, a column by each work-item, and finishes them."""
        own, teams = self.blocking, self.blocking.down * self.blocking.across
        each = max(self.width // own.parts, 1)
        many = own.parts > _MOST_PARTS_TOGETHER
        together = largest_divisor(own.parts, _PARTS_TOGETHER) if many else own.parts
        total = memory("local", "float32", own.rows, each)
        team = self.item % teams
        column = self.part % self.width if own.parts > self.width else self.part * each
        for row in range(own.rows):
            synchronise()
            for vector in range(self.vectors):
                self._put(self.item * self.vectors + vector, row, vector)
            synchronise()
            for number in range(each):
                T.buffer_store(total, T.float32(0), [row, number])
            turns = own.parts // together
            with (
                counted(self.nought, turns) if turns > 1 else nullcontext(0) as turn,
                T.serial(0, together) as one,
            ):
                for number in range(each):
                    place = ((turn * together + one) * teams + team) * self.width + column + number
                    value = total[row, number] + T.cast(self.shared[place], "float32")
                    T.buffer_store(total, value, [row, number])
        synchronise()
        mine = team * (own.rows * self.vectors)
        with ExitStack() as guard:
            if own.parts > self.width:
                guard.enter_context(T.If(self.part < self.width))
                guard.enter_context(T.Then())
            for row in range(own.rows):
                for number in range(each):
                    place = mine * PIXEL + row * self.width + column + number
                    T.buffer_store(self.shared, T.cast(total[row, number], self.dtype), [place])
        synchronise()
        count = own.rows * self.results
        with counted(self.nought, -(-count // own.parts)) as step, ExitStack() as guard:
            number = step * own.parts + self.part
            if count % own.parts:
                guard.enter_context(T.If(number < count))
                guard.enter_context(T.Then())
            row = number // self.results
            self._finish(finish, row, number % self.results, mine + row * self.vectors)

    def _put(self, slot: Any, row: int, vector: int) -> None:
        """Stores a vector of the sums of a row in local memory."""
        with T.vectorized(0, PIXEL) as lane:
            T.buffer_store(self.shared, self.sums[row, vector, lane], [slot * PIXEL + lane])

    def _finish(self, finish: Finish, row: Any, which: Any, slot: Any) -> None:
        """Stores the results ``which`` of a row, whose sums lie in local memory from ``slot`` on."""
        own = self.blocking
        with ExitStack() as guard:
            if self.rows % (own.rows * own.down) and not own.together:
                guard.enter_context(T.If(self.first_row + row < self.rows))
                guard.enter_context(T.Then())
            self._store(finish, self._indices(row), which, slot)

    def _unit(self) -> float:
        """What sums are multiplied by: fractions of 127 that no scale made weights of lack that."""
        return float(FRACTION) if str(self.weight.ty.dtype) == "int8" and self.scale is None else 1.0

    def _store(self, finish: Finish, indices: Sequence[Any], which: Any, slot: Any) -> None:
        """Stores the results ``which`` at ``indices``, from the sums at ``slot`` of local memory."""
        unit = self._unit()

        def read(first: Any, lane: Any) -> Any:
            value = self.shared[slot * PIXEL + first + lane]
            return T.cast(value, "float32") * T.float32(unit)

        if self.pairs:
            with T.vectorized(0, self.gated) as lane:
                column = which * self.gated + lane
                finish([*indices, self.panel, column], lambda at: read(int(at[-2]) * self.side, column))
            return
        first = self.panel * self.width + which * PIXEL
        if self.channels == self.panels * self.width:
            with T.vectorized(0, PIXEL) as lane:
                finish([*indices, first + lane], lambda _at: read(which * PIXEL, lane))
            return

        def read_at(lane: int, _at: Sequence[Any]) -> Any:
            return read(which * PIXEL, lane)

        for number in range(PIXEL):
            with T.If(first + number < self.channels), T.Then():
                finish([*indices, first + number], partial(read_at, number))
