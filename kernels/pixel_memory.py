"""What kernels that read pixels are written with: memory, pixels, and what no driver's compiler may know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.tiling import PIXEL

FRACTION = 127
"""What a stored int8 weight is divided by when it is read."""


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


def unknown_nought() -> Any:
    """A 0 that compilers do not know, the same for a whole wave: grids are flat.

    A number that it was added to is another one to them: they compute it again instead of keeping the first
    through a loop, and a loop that begins with it stays one.
    """
    return tirx.call_pure_extern("int32", "convert_int", tirx.call_pure_extern("uint64", "get_group_id", 2))


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
    dtype, stored = str(target.ty.dtype), str(source.ty.dtype)
    size = math.prod(int(side) for side in source.ty.shape)
    if size > image_pixels * PIXEL:
        flat = T.decl_buffer((size,), stored, data=source.data, layout=None)
        with T.vectorized(0, PIXEL) as lane:
            value = T.cast(flat[place * PIXEL + lane], dtype)
            value = value * tirx.const(1 / FRACTION, dtype) if stored == "int8" else value
            T.buffer_store(target, value, [number * PIXEL + lane])
        return
    name = "read_imageh" if dtype == "float16" else "read_imagef"
    pixel = tirx.call_pure_extern(f"{dtype}x{PIXEL}", name, source.data, place)
    T.buffer_store(target, pixel, [T.Ramp(number * PIXEL, 1, PIXEL)])


def synchronise() -> None:
    """Waits until all work-items of a group have come here."""
    T.evaluate(T.tvm_storage_sync("shared"))
