"""Products of pixels with sums in float32, of which a work-item keeps hardly more than sums.

Five rows are 20 sums, 20 inputs and 4 weights of the 48 numbers in 12 registers. What else a work-item
keeps through the loop is where its rows are, and one number: which weights it multiplies, where it stores
those that it brings, and which work-item it is. Everything else is computed of that, chunk by chunk, and
groups and steps are numbers that a wave has once.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.pixel_memory import counted, memory, unknown_nought
from ddimcache.kernels.pixels import PixelProduct
from ddimcache.kernels.tiling import PIXEL

PACKED, MATRIX_BITS, STORED_BITS = 0, 8, 12
"""The place that holds three numbers, and bits of two of them."""

_FEW_ROWS, _FEW_STEPS = 4, 4
"""Rows below which a driver's compiler writes out a hot loop of any length, and chunks below which it writes
out the loop over them, hot loops and all."""


class PackedProduct(PixelProduct):
    """Emits the product that :class:`PixelProduct` does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loops = self.loops and self.blocking.rows >= _FEW_ROWS

    def _place_weights(self) -> None:
        own = self.blocking
        matrices = own.parts * own.across * own.positions
        assert matrices <= 1 << MATRIX_BITS
        assert matrices * self.staged <= 1 << STORED_BITS
        assert own.items <= 1 << (31 - MATRIX_BITS - STORED_BITS)
        stored = T.shift_left(self._first_stored(), MATRIX_BITS)
        item = T.shift_left(self.item, MATRIX_BITS + STORED_BITS)
        T.buffer_store(self.place, self._own_matrix() + stored + item, [PACKED])

    def _own_matrix(self) -> Any:
        """The number of the weights that a work-item multiplies, among those of its group."""
        return self.part * self.blocking.across + self.across

    def _first_stored(self) -> Any:
        """Where it stores the first of those that it brings."""
        return self._own_matrix() * self.staged + self._staged_slot()

    def _slot(self) -> Any:
        return self._matrix() * self.staged

    def _matrix(self) -> Any:
        return T.bitwise_and(self.place[PACKED], (1 << MATRIX_BITS) - 1)

    def _first_slot(self, pixel: Any) -> Any:
        # A number of its own: written out, it becomes two addresses in a driver's compiler.
        first = memory("local", "int32", 1)
        T.buffer_store(first, self._slot() + pixel, [0])
        return first[0]

    def _stored(self) -> Any:
        return T.bitwise_and(T.shift_right(self.place[PACKED], MATRIX_BITS), (1 << STORED_BITS) - 1)

    def _kept_item(self) -> Any:
        return self._item_of(self.place[PACKED] + unknown_nought())

    def _item_of(self, packed: Any) -> Any:
        item = T.shift_right(packed, MATRIX_BITS + STORED_BITS)
        return T.bitwise_and(item, (1 << (self.blocking.items - 1).bit_length()) - 1)

    def _weight_place(self, step: Any) -> Any:
        chunk = self.panel * self.chunks + self.part * self.steps + step
        return chunk * self.staged + self.tile

    def _count_weights(self) -> None:
        pass

    def _all_steps(self) -> Any:
        few = 1 < self.steps < _FEW_STEPS
        return counted(unknown_nought(), self.steps) if few else super()._all_steps()

    def _step(self, step: Any) -> None:
        self._locate(self._item_of(self.place[PACKED]))
        super()._step(step)

    def _count_places(self) -> None:
        if self.chunks * self.blocking.chunk == 1:
            return
        if self.blocking.together and self._distance() * self.depth == PIXEL:
            # The next place is that of the second row, and would be kept from there on.
            T.buffer_store(self.places, self.places[0] + unknown_nought(), [0])
        super()._count_places()

    def _jump(self, step: Any, _chunk: Any) -> None:
        self._locate(self._kept_item())
        super()._jump(step, self._chunk(step))

    def _hide_nought(self, _item: Any) -> None:
        self.nought = unknown_nought()
