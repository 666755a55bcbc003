"""Winograd's convolution of transformed tiles with sums in float32: of two kernels, what they keep and do.

A work-item keeps what a product with sums in float32 does (``kernels/packed_pixels.py``), and no more than
half of twelve registers are left where nine weights are read. These come in the type of the input, as halves:
numbers in float16 are, and fractions of 127 are so near that rounding gives int8 back. All that is made of
them is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.conv2d.tiled import POSITIONS, SIDE
from ddimcache.kernels.conv2d.winograd_pixels import TiledProduct
from ddimcache.kernels.packed_pixels import PackedProduct
from ddimcache.kernels.pixel_memory import FRACTION, memory, read_pixel
from ddimcache.kernels.tiling import PIXEL


class PackedTiledProduct(PackedProduct, TiledProduct):
    """Emits the convolution that :class:`TiledProduct` does."""

    def _own_matrix(self) -> Any:
        return super()._own_matrix() * POSITIONS + self.position

    def _first_stored(self) -> Any:
        line = super()._own_matrix() * POSITIONS + self.position // SIDE * SIDE
        return line * self.staged + self._staged_slot()

    def _weight_place(self, step: Any) -> Any:
        chunk = self.panel * (9 * self.chunks) + self.part * self.steps + step
        return chunk * self.staged + self._brought()

    def _line(self) -> Any:
        return self.position // SIDE

    def _read_tap(self, taps: Any, row: int, place: Any, scale: Callable[[Any], Any] | None) -> None:
        dtype = str(self.x.ty.dtype)
        read = memory("local", dtype, PIXEL)
        read_pixel(read, 0, self.weight, place, self.image_pixels)
        value = read[T.Ramp(0, 1, PIXEL)]
        if str(self.weight.ty.dtype) == "int8":
            with T.vectorized(0, PIXEL) as lane:
                T.buffer_store(read, read[lane] * tirx.const(FRACTION, dtype), [lane])
            value = tirx.call_pure_extern(f"{dtype}x{PIXEL}", "rint", value)
        T.buffer_store(taps, T.cast(value, f"{self.dtype}x{PIXEL}"), [T.Ramp(row * PIXEL, 1, PIXEL)])
        if scale is not None:
            with T.vectorized(0, PIXEL) as lane:
                scaled = taps[row * PIXEL + lane] * (scale(lane) * T.float32(1 / FRACTION))
                T.buffer_store(taps, scaled, [row * PIXEL + lane])

    def _unit(self) -> float:
        # Whole numbers were multiplied.
        return 1.0
