"""Operands that are read as pixels, and how the products of such operands are summed.

A device with a texture path reads four consecutive numbers by one instruction, converted to the type that the
product is computed in; of int8 it makes the fractions w / 127 (``CL_SNORM_INT8``). What such a kernel reads
are therefore stages of their own, which the schedule places and ``ReadPixels`` turns into
reads of images. On any other device they are plain loads, with the same numbers.

Sums are taken in one of three ways:

- ``half``: all of it in float16. The error grows with the root of the reduction's length.
- ``chunks``: chunks in float16, and their sums in float32. The error is that of a chunk, however long the
  reduction is.
- ``float``: all of it in float32.

Kernels that are written out instead (``kernels/attention/pixels.py``) read pixels themselves, by what stands
at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.script import tirx as T

from ddimcache.kernels.tags import STAGE
from ddimcache.kernels.tiling import PIXEL

FRACTION = 127
"""What a stored int8 weight is divided by when it is read."""


@dataclass(frozen=True)
class PixelSum:
    """How a kernel that reads pixels sums: ``how`` as above, chunks of at most ``chunk`` numbers."""

    how: str
    chunk: int = 64

    @property
    def dtype(self) -> str:
        """The type that products are computed and summed in."""
        return "float32" if self.how == "float" else "float16"

    @property
    def total_dtype(self) -> str:
        """The type of the sum of all."""
        return "float16" if self.how == "half" else "float32"

    def chunk_of(self, depth: int) -> int:
        """Numbers of a chunk in a reduction over ``depth``, 0 for one sum: whole pixels that divide it."""
        if self.how != "chunks" or depth <= self.chunk:
            return 0
        pixels = depth // PIXEL
        return PIXEL * max(count for count in range(1, self.chunk // PIXEL + 1) if pixels % count == 0)


def pixels(tensor: te.Tensor, dtype: str, name: str) -> te.Tensor:
    """``tensor`` as its pixels are read: in ``dtype``, int8 as fractions of 127."""

    def read(*index: Any) -> Any:
        value = tensor[index].astype(dtype)
        return value * tirx.const(1 / FRACTION, dtype) if tensor.dtype == "int8" else value

    return te.compute(tensor.shape, read, name=f"{name}_pixels", attrs={STAGE: "pixels"})


def total(shape: Sequence[Any], part: Callable[..., Any], axes: Sequence[te.IterVar], name: str) -> te.Tensor:
    """The sum over reduction ``axes`` of ``part``, which is called with the indices of ``shape``."""

    def add(*index: Any) -> Any:
        return te.sum(part(*index), axis=list(axes))

    return te.compute(shape, add, name=name, attrs={STAGE: "total"})


def scaled(value: Any, scale: Any, pixel_sum: PixelSum | None) -> Any:
    """The sum ``value`` of products with int8 weights, times ``scale`` (float32) where there is one.

    A sum over pixels is multiplied in the type that it was taken in, so that no wider copy of a whole tile of
    sums takes registers.
    """
    if scale is None:
        return value
    if pixel_sum is None:
        return value * scale
    return value * (scale * tirx.const(float(FRACTION), "float32")).astype(pixel_sum.total_dtype)


def read_back(item: Any, items: int, shared: Any) -> tuple[Any, Any]:
    """The number of a work-item, below ``items``, from where it was put in ``shared`` memory, and a 0.

    A driver's compiler knows neither, and TVM by their masks that 32 bits are enough for both.
    """
    synchronise()
    T.buffer_store(shared, T.cast(item, str(shared.ty.dtype)), [item])
    synchronise()
    number = memory("local", "int32", 1)
    T.buffer_store(number, T.cast(shared[item], "int32"), [0])
    return T.bitwise_and(number[0], (1 << (items - 1).bit_length()) - 1), T.bitwise_and(number[0] - item, 1)


@contextmanager
def counted(nought: Any, count: int) -> Iterator[Any]:
    """A loop to ``count`` from a ``nought`` that a driver's compiler does not know: it stays a loop."""
    counter = memory("local", "int32", 1)
    T.buffer_store(counter, nought, [0])
    with T.While(counter[0] < count):
        yield T.bitwise_and(counter[0], (1 << count.bit_length()) - 1)
        T.buffer_store(counter, counter[0] + 1, [0])


def memory(scope: str, dtype: str, *shape: int) -> Any:
    """Memory of a work-item (``local``) or a work-group (``shared``)."""
    return T.sblock_alloc_buffer(shape, dtype, scope=scope, layout=None)


def read_pixel(target: Any, number: int, source: Any, place: Any, image_pixels: int) -> None:
    """Reads the pixel ``place`` of ``source`` to four places of ``target``, in its type.

    A tensor of more than ``image_pixels`` pixels is no image on the device: it is read as a buffer.
    """
    dtype, size = str(target.ty.dtype), math.prod(int(side) for side in source.ty.shape)
    if size > image_pixels * PIXEL:
        flat = T.decl_buffer((size,), str(source.ty.dtype), data=source.data, layout=None)
        with T.vectorized(0, PIXEL) as lane:
            T.buffer_store(target, flat[place * PIXEL + lane], [number * PIXEL + lane])
        return
    name = "read_imageh" if dtype == "float16" else "read_imagef"
    pixel = tirx.call_pure_extern(f"{dtype}x{PIXEL}", name, source.data, place)
    T.buffer_store(target, pixel, [T.Ramp(number * PIXEL, 1, PIXEL)])


def synchronise() -> None:
    """Waits until all work-items of a group have come here."""
    T.evaluate(T.tvm_storage_sync("shared"))
